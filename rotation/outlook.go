package rotation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/policy"
)

// Outlook is what would happen to a secret, when, and why not.
type Outlook struct {
	Ready       bool       `json:"ready"`                 // a rotation asked for now would begin at once
	WhyNot      []Blocker  `json:"why_not,omitempty"`     // what keeps one from beginning, or the one under way from going on
	NextAt      time.Time  `json:"next_at,omitzero"`      // by schedule; zero: none
	Trigger     Trigger    `json:"trigger,omitempty"`     // of the rotation under way, or what NextAt will be
	RotationID  string     `json:"rotation_id,omitempty"` // the one under way, if any
	Steps       []Expected `json:"steps"`                 // in order: of the rotation under way, else of the next one
	Retirements []Expected `json:"retirements,omitempty"` // of versions being turned off
}

// Blocker is one thing that holds a rotation up, and what ends it.
type Blocker struct {
	WaitingFor string `json:"waiting_for"`
	Detail     string `json:"detail"`
	Mend       string `json:"mend,omitempty"`
}

// Expectation says how far an expected step is.
type Expectation string

// The expectations.
const (
	Passed   Expectation = "done"
	UnderWay Expectation = "now"
	ToCome   Expectation = "next"
)

// Expected is one step to come. Of a rotation that has not begun, After counts from
// its beginning, at the earliest; At is known of what is under way.
type Expected struct {
	Step   string        `json:"step"`
	Detail string        `json:"detail"`
	After  time.Duration `json:"after_ns,omitempty"`
	At     time.Time     `json:"at,omitzero"`
	State  Expectation   `json:"state"`
}

// Seen is what an Outlook is computed from: records and facts of one instant.
type Seen struct {
	Secret      Secret
	Rotation    *Rotation // that occupies the secret, or waits for its proof; nil: none
	Retirements []Retirement
	Placements  []Placement
	Facts       Facts
	Freeze      Freeze    // while Facts.Frozen
	Blockers    []Blocker // found by who could look outside
	ByHand      bool      // the issuer is a person
	InPlace     bool      // the mint ends the current version
	Unseen      bool      // nobody accepts a value before it is published
	Stages      bool      // the vault holds pending versions
}

// Foresee computes what is going to happen to a secret.
func Foresee(seen Seen, now time.Time) Outlook {
	o := Outlook{WhyNot: slices.Clone(seen.Blockers), NextAt: NextByItself(seen.Secret, seen.Rotation)}
	if !o.NextAt.IsZero() {
		o.Trigger = TriggerSchedule
	}
	plan, state, begun := seen.Secret.Definition.Plan, Queued, time.Time{}
	if r := seen.Rotation; r != nil {
		plan, state, begun = r.Plan, r.State, r.PublishedAt
		o.Trigger, o.RotationID = r.Trigger, r.ID
	}
	o.Steps = expect(seen, plan, state, begun)
	for _, t := range seen.Retirements {
		if e, open := foreseeRetirement(t); open {
			o.Retirements = append(o.Retirements, e)
		}
	}
	o.Ready = (seen.Rotation == nil || !seen.Rotation.State.Occupies()) && len(o.WhyNot) == 0
	return o
}

// NextByItself is when a rotation of s begins by itself, as far as is known while r (nil:
// none) is under way: one that waits for the window is the next; and what has no schedule
// is due again by what r brings.
func NextByItself(s Secret, r *Rotation) time.Time {
	switch {
	case r == nil || !r.State.Occupies() || !r.PublishedAt.IsZero():
	case r.State == Queued && r.WaitingFor == WaitWindow:
		return r.NextAt
	case s.Current == 0 || s.Definition.Schedule == "":
		return time.Time{}
	}
	return s.NextDueAt
}

// expect lists the steps of a rotation by plan that has come to state.
func expect(seen Seen, plan Plan, state State, published time.Time) []Expected {
	def, to, from := seen.Secret.Definition, seen.Secret.LastVersion+1, seen.Secret.Current
	generation := seen.Secret.Generation + 1
	if r := seen.Rotation; r != nil {
		if from = r.From; r.Under != nil {
			def = *r.Under
		}
		if !published.IsZero() {
			generation--
		}
		if r.To > 0 {
			to = r.To
		}
	}
	order := []State{Queued, Minting, Staging, Verifying, Publishing, Overlap, Retiring}
	at := slices.Index(order, state)
	var steps []Expected
	after := time.Duration(0)
	add := func(s State, detail string, takes time.Duration, due time.Time) {
		e := Expected{Step: stepNames[s], Detail: detail, State: ToCome, At: due}
		switch i := slices.Index(order, s); {
		case i < at:
			e.State = Passed
		case i == at && seen.Rotation != nil:
			e.State = UnderWay
		}
		if seen.Rotation == nil {
			e.After = after
			after += takes
		}
		steps = append(steps, e)
	}
	if plan.Approval {
		add(Queued, "somebody else than who asks for it has to approve it", 0, time.Time{})
	}
	origin := fmt.Sprintf("version %d is made by issuer %q", to, def.Issuer)
	if seen.ByHand {
		origin = fmt.Sprintf("version %d is made by a person, whom issuer %q asks, and handed in", to, def.Issuer)
	}
	if seen.InPlace && from > 0 {
		origin += fmt.Sprintf(", which ends version %d at once; should nothing come of it, that is set again", from)
	}
	if r := seen.Rotation; r != nil && r.AwaitsValue() {
		origin += " by " + stamp(r.ValueBy) + fmt.Sprintf(": `keybroker rotation supply %s`", r.ID)
	}
	if r := seen.Rotation; r != nil && r.Adopts != nil {
		origin = fmt.Sprintf("version %d is what %q holds", to, r.Adopts.Backend)
	}
	add(Minting, origin, 0, time.Time{})
	staging := "its value stays sealed in the broker's own store until it is published"
	if seen.Stages {
		staging = fmt.Sprintf("its value is written to %q as a pending version", def.Backend)
	}
	add(Staging, staging, 0, time.Time{})
	if def.Probe == "" {
		add(Verifying, `not verified: the secret says proof = "none"`, 0, time.Time{})
	} else if seen.Unseen {
		add(Verifying, "not tried before it is published: nobody could accept it", 0, time.Time{})
	} else {
		add(Verifying, fmt.Sprintf("probe %q has to accept it %d times in a row within %s", def.Probe, plan.Verify.Successes, plan.Verify.Timeout),
			time.Duration(max(plan.Verify.Successes-1, 0))*plan.Verify.Interval, time.Time{})
	}
	add(Publishing, fmt.Sprintf("it becomes the current version in %q, generation %d%s%s", def.Backend, generation, brought(def.Mirrors), told(def.Consumers)), 0, time.Time{})
	if from == 0 {
		return steps
	}
	emergency := seen.Rotation != nil && seen.Rotation.Emergency()
	if !emergency {
		var due time.Time
		if !published.IsZero() {
			due = published.Add(plan.Overlap)
		}
		add(Overlap, fmt.Sprintf("version %d stays valid beside it for %s%s", from, plan.Overlap, held(plan, def.Mirrors)), plan.Overlap, due)
	}
	add(Retiring, fmt.Sprintf("version %d is revoked by its issuer; %s", from, proof(plan.Confirm)), 0, time.Time{})
	return steps
}

// stepNames are what timelines call the step of a state.
var stepNames = map[State]string{Queued: "queue", Minting: "mint", Staging: "stage", Verifying: "verify",
	Publishing: "publish", Overlap: "overlap", Retiring: "retire"}

// StepName is what the timeline calls the step of a state.
func StepName(s State) string { return stepNames[s] }

func told(consumers []string) string {
	if len(consumers) == 0 {
		return ""
	}
	return "; told: " + strings.Join(consumers, ", ")
}

func brought(mirrors []string) string {
	if len(mirrors) == 0 {
		return ""
	}
	return "; then brought to: " + strings.Join(mirrors, ", ")
}

// held says what may hold the end of the overlap.
func held(plan Plan, mirrors []string) string {
	var holds []string
	if plan.WaitForMirrors && len(mirrors) > 0 {
		holds = append(holds, fmt.Sprintf("until the mirrors hold it, at most %s", plan.MaxOverlap))
	}
	if ack := plan.Acknowledgement; ack.Require != RequireNone && ack.Require != "" {
		limit := ack.Timeout
		if ack.Hold {
			limit = plan.MaxOverlap
		}
		holds = append(holds, fmt.Sprintf("until every consumer has %s it, at most %s", ack.Require, min(limit, plan.MaxOverlap)))
	}
	if len(holds) == 0 {
		return ""
	}
	return ", and " + strings.Join(holds, ", and ")
}

func proof(c Confirm) string {
	if c.None {
		return "its issuer's word is taken for it: nothing is proven"
	}
	return fmt.Sprintf("proven dead by %d rejected rounds in a row over at least %s, then tried again %d times", c.Rejections, c.Window, len(c.Recheck))
}

// foreseeRetirement says what comes next for a retirement that is not over.
func foreseeRetirement(t Retirement) (Expected, bool) {
	e := Expected{Step: "retire", State: UnderWay, At: t.NextAt}
	of := fmt.Sprintf("version %d: ", t.Version)
	switch {
	case !t.PurgedAt.IsZero() || t.NeverMade:
		return e, false
	case t.State == ProvenDead:
		e.Step, e.State, e.Detail = "recheck", ToCome, of+fmt.Sprintf("proven dead at %s; tried again", stamp(t.ProvenAt))
	case t.State == Requested && t.RevokeBegunAt.IsZero():
		e.Step, e.State, e.Detail = "revoke", ToCome, of+"is revoked"
	default:
		e.Detail = of + fmt.Sprintf("is %s, %d of %d rejected rounds", t.State, t.Rejections, t.Confirm.Rejections)
	}
	if why := t.Why(); why != "" {
		e.Detail += ": " + why
	}
	return e, true
}

// Opens says for people until when the secret's window is waited for: it opens then, or
// comes too late (see MayBegin).
func (d Definition) Opens(at time.Time) string {
	zone, err := time.LoadLocation(d.TimeZone)
	if err != nil {
		zone = time.UTC
	}
	when := at.In(zone).Format("Mon 2006-01-02 15:04")
	if window, _ := policy.ParseWindow(d.Window, d.TimeZone); !window.Open(at) {
		return fmt.Sprintf("its window (%s) opens too late for what ends by itself: it is waited for until %s %s", d.Window, when, zone)
	}
	return fmt.Sprintf("its window (%s) opens %s %s", d.Window, when, zone)
}

// Finding is one thing that is out of order with a secret, and what mends it.
type Finding struct {
	Kind     string `json:"kind"` // "vault", "pending", "stage", "rotation", "retirement"
	Version  int    `json:"version,omitempty"`
	Detail   string `json:"detail"`
	Mend     string `json:"mend"`            // what a repair does, or, if it is not Mendable, what to do by hand
	Mendable bool   `json:"mendable"`        // a repair does it
	Mended   bool   `json:"mended"`          // it did
	Error    string `json:"error,omitempty"` // why it could not
}
