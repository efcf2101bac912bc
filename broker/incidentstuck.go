package broker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// What is stuck.
const (
	stuckContainment = "containment"
	stuckProof       = "proof"
	stuckReplacement = "replacement"
	stuckDelivery    = "delivery"
)

// stuck lists what does not go on by itself for now, the most urgent first.
func (x *incidentState) stuck(now time.Time) []client.IncidentStuck {
	var contain, prove, replace []client.IncidentStuck
	for _, t := range x.targets {
		if t.State == rotation.TargetFailed {
			contain = append(contain, about(t.Ref, client.IncidentStuck{What: stuckContainment, Why: "its emergency could not be declared, and is tried again: " + t.Error, Since: utc(x.inc.Began())}))
		}
		for _, c := range x.versions[t.SecretID] {
			s, is := stuckRetirement(c.Retirement, t.Ref, now)
			switch {
			case is && s.What == stuckContainment:
				contain = append(contain, s)
			case is:
				prove = append(prove, s)
			}
		}
		if r, is := x.replacing[t.RotationID]; is {
			if s, is := stuckRotation(r, t.Ref, now); is {
				replace = append(replace, s)
			}
		}
	}
	return slices.Concat(contain, prove, replace, x.stuckDeliveries())
}

func about(ref backends.Ref, s client.IncidentStuck) client.IncidentStuck {
	s.Secret, s.Tenant = ref.Name, ref.Tenant
	return s
}

// What takes a while in the ordinary course of things is stuck after that.
const (
	containsWithin = 5 * time.Second
	replacesWithin = 10 * time.Second
)

// stuckRetirement says what keeps a version from being turned off, or from being proven so.
// That it is still accepted for a while, once its issuer has revoked it, does not.
func stuckRetirement(t rotation.Retirement, ref backends.Ref, now time.Time) (client.IncidentStuck, bool) {
	since := later(t.RequestedAt, t.RevokeBegunAt)
	s := about(ref, client.IncidentStuck{Version: t.Version, What: stuckContainment, Why: t.Why(), Since: utc(since), Next: "keybroker retirement show " + t.ID})
	if t.Dead() || t.State == rotation.Unprovable {
		s.What = stuckProof
	}
	if _, text, next := engine.AlertOf(t, ref); text != "" {
		s.Why, s.Next = text, next
	}
	byHand := t.WaitingFor == rotation.WaitByHand || t.WaitingFor == rotation.WaitHandle
	if byHand {
		s.Why, s.Next = cmp.Or(s.Why, "somebody has to turn it off by hand"), "keybroker retirement done "+t.ID
	}
	switch {
	case t.Settled():
		return s, false
	case byHand, t.State == rotation.Unconfirmed, t.State == rotation.Resurrected, t.State == rotation.Unprovable, t.RevokeFailures > 0:
		s.Why = cmp.Or(s.Why, "nobody can tell whether it is dead")
		return s, true
	}
	patience := containsWithin
	if t.Dead() {
		patience = replacesWithin
	}
	waits := t.WaitingFor != rotation.WaitProof && t.WaitingFor != rotation.WaitReplacement && now.Sub(since) >= patience
	return s, waits && s.Why != ""
}

// passing is what a replacement waits for in the ordinary course of things.
var passing = []string{"", rotation.WaitOverlap, rotation.WaitAcknowledgment, rotation.WaitProof}

// stuckRotation says what keeps a replacement from being published.
func stuckRotation(r rotation.Rotation, ref backends.Ref, now time.Time) (client.IncidentStuck, bool) {
	since := later(r.CreatedAt, r.StepSince)
	s := about(ref, client.IncidentStuck{What: stuckReplacement, Why: waitingOf(r), Since: utc(since), Next: "keybroker rotation show " + r.ID})
	switch {
	case r.State == rotation.Failed:
		s.Why, s.Since, s.Next = "it failed: "+r.Error, utc(r.EndedAt), "keybroker rotation retry "+r.ID
		return s, true
	case r.AwaitsValue():
		s.Why, s.Next = "a person is to make the new credential", "keybroker rotation supply "+r.ID
		return s, true
	case r.WaitingFor == rotation.WaitApproval:
		s.Next = "keybroker rotation approve " + r.ID
		return s, true
	case r.WaitingFor != rotation.WaitProbe && r.Error != "":
		return s, true
	}
	return s, now.Sub(since) >= replacesWithin && !slices.Contains(passing, r.WaitingFor)
}

// stuckDeliveries says which consumers have not received what replaces compromised
// versions, each once, with the first secret.
func (x *incidentState) stuckDeliveries() []client.IncidentStuck {
	visible := map[string]bool{}
	for _, t := range x.targets {
		visible[t.SecretID] = x.replaces(t)
	}
	var out []client.IncidentStuck
	var last string
	more := 0
	say := func() {
		if more > 0 {
			out[len(out)-1].Why += fmt.Sprintf(" (and so for %d others)", more)
		}
		more = 0
	}
	for _, d := range x.deliveries { // by consumer
		if !visible[d.SecretID] || x.kept(d.Consumer) || d.Error == "" || d.Satisfies(rotation.RequireReceived) {
			continue
		}
		if d.Consumer == last {
			more++
			continue
		}
		say()
		last = d.Consumer
		next := "keybroker delivery list --consumer " + d.Consumer
		switch {
		case d.State == rotation.DeliveryDead:
			next = "keybroker delivery replay " + d.ID
		case d.State == rotation.DeliveryPending && d.NextAttemptAt.IsZero():
			next = "keybroker consumer enable " + d.Consumer
		}
		out = append(out, about(d.Ref, client.IncidentStuck{Version: d.Version, What: stuckDelivery, Since: utc(d.CreatedAt), Next: next,
			Why: fmt.Sprintf("consumer %s has not received the replacement: %s", d.Consumer, strings.TrimSpace(d.Error))}))
	}
	say()
	return out
}

// latencies are how long issuers took lately to turn a credential off, by their names.
type latencies map[string]*latency

type latency struct{ contain, prove []time.Duration }

const (
	// mostMeasured is how many retirements from before an incident are looked at.
	mostMeasured = 300
	// fewMeasured are too few to tell anything by.
	fewMeasured = 3
)

// latenciesBefore are measured at what was turned off before an incident.
func latenciesBefore(ctx context.Context, tx *store.Tx, i rotation.Incident) (latencies, error) {
	out := latencies{}
	measured, err := tx.MeasuredBefore(ctx, i.DeclaredAt, mostMeasured)
	for _, m := range measured {
		out.add(m.Issuer, m.Retirement)
	}
	return out, err
}

func (l latencies) add(issuer string, t rotation.Retirement) {
	if t.RevokeBegunAt.IsZero() || t.ByHand || t.NeverMade || t.AlreadyRejected {
		return
	}
	if l[issuer] == nil {
		l[issuer] = &latency{}
	}
	if t.ContainedAt.After(t.RevokeBegunAt) {
		l[issuer].contain = append(l[issuer].contain, t.ContainedAt.Sub(t.RevokeBegunAt))
	}
	if t.ProvenAt.After(t.RevokeBegunAt) {
		l[issuer].prove = append(l[issuer].prove, t.ProvenAt.Sub(t.RevokeBegunAt))
	}
}

// usual is what nine of ten took no longer than; false if too few were measured.
func usual(took []time.Duration) (time.Duration, bool) {
	if len(took) < fewMeasured {
		return 0, false
	}
	took = slices.Sorted(slices.Values(took))
	return took[(len(took)*9-1)/10], true
}

// estimates are when the versions that are not stuck will be contained, and proven dead,
// if their issuers take as long as lately; zero where nobody can tell, or all are.
func (x *incidentState) estimates(now time.Time) (containedBy, provenBy time.Time) {
	took := latencies{}
	for name, before := range x.took {
		took[name] = &latency{contain: slices.Clone(before.contain), prove: slices.Clone(before.prove)}
	}
	for _, all := range x.versions {
		for _, c := range all {
			took.add(x.issuerOf(c), c.Retirement)
		}
	}
	contain, prove := map[string]time.Duration{}, map[string]time.Duration{}
	for name, l := range took {
		if d, ok := usual(l.contain); ok {
			contain[name] = d
		}
		if d, ok := usual(l.prove); ok {
			prove[name] = d
		}
	}
	return x.estimate(now, contain, (*rotation.Retirement).Dead), x.estimate(now, prove, (*rotation.Retirement).Settled)
}

func (x *incidentState) issuerOf(c rotation.Compromised) string {
	return x.issuers[store.VersionID{SecretID: c.SecretID, Number: c.Version}]
}

func (x *incidentState) estimate(now time.Time, took map[string]time.Duration, done func(*rotation.Retirement) bool) time.Time {
	var by time.Time
	for _, all := range x.versions {
		for _, c := range all {
			t := c.Retirement
			if _, stuck := stuckRetirement(t, backends.Ref{}, now); stuck || done(&t) {
				continue
			}
			d, known := took[x.issuerOf(c)]
			if !known {
				return time.Time{}
			}
			begun := t.RevokeBegunAt
			if begun.IsZero() {
				begun = later(now, t.NextAt)
			}
			by = later(by, begun.Add(d))
		}
	}
	if by.IsZero() {
		return by
	}
	return utc(later(now, by).Truncate(time.Second))
}

// mostChecks is how many items a checklist begins with of each kind.
const mostChecks = 50

// checklist is what people have to do themselves to turn versions of secrets off, as far
// as that can be told beforehand.
func (b *Broker) checklist(ctx context.Context, tx *store.Tx, secrets []rotation.Secret, alive []store.Alive) ([]string, error) {
	refs := map[string]backends.Ref{}
	told := map[string]bool{}
	for _, s := range secrets {
		refs[s.ID] = s.Ref
		for _, name := range s.Definition.Consumers {
			told[name] = true
		}
	}
	works := map[string]bool{} // issuers that can be asked
	for _, c := range b.Components.Issuers() {
		person := false
		if c.State != client.ComponentMissing {
			_, person = c.Works.(issuer.Person)
		}
		works[c.Name] = !person
	}
	var out []string
	for _, a := range alive {
		asked, configured := works[a.Issuer]
		text := fmt.Sprintf("turn version %d of %s off by hand, ", a.Number, refs[a.SecretID])
		switch {
		case asked:
			continue
		case configured:
			text += fmt.Sprintf("which issuer %s has people do", a.Issuer)
		case a.Issuer == "":
			text += "where it was made: no issuer does"
		default:
			text += fmt.Sprintf("where it was made: its issuer %s is not in the configuration any more", a.Issuer)
		}
		out = append(out, text+"; then `keybroker retirement done` with the id of its retirement")
	}
	if n := len(out) - mostChecks; n > 0 {
		out = append(out[:mostChecks], fmt.Sprintf("%d more versions have to be turned off by hand: `keybroker incident show` lists them", n))
	}
	hindered, err := b.hindrances(ctx, tx)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		why := hindered.disabled[name].Why
		if down, is := hindered.down[name]; is {
			why = down.Error
		}
		if _, disabled := hindered.disabled[name]; disabled || why != "" {
			out = append(out, fmt.Sprintf("tell the people of consumer %s that its credentials are replaced: it cannot be told now (%s)", name, why))
		}
	}
	return out, nil
}
