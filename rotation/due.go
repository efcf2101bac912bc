package rotation

import (
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation/trigger/schedule"
)

// Why is what makes a secret due by itself.
type Why string

// The reasons. All but DueSchedule force a rotation: where it fails it is tried again
// before long.
const (
	DueFirst    Why = "first"     // it has no version yet
	DueSchedule Why = "schedule"  // its schedule
	DueMaxAge   Why = "max_age"   // its current version would become older than it may
	DueNotAfter Why = "not_after" // its current version ends by itself
)

// Due is when a secret is rotated by itself; the zero Due is never.
type Due struct {
	At     time.Time `json:"at"`
	Begins time.Time `json:"begins"` // when its window is open, from At on, or is not waited for (see MayBegin)
	Why    Why       `json:"why"`
}

// FailedAgain is how soon after a rotation that failed another one may start by itself,
// where min_interval says nothing: failing fast must not become a storm.
const FailedAgain = time.Minute

// forcedAgain is how soon a forced rotation that came to nothing is tried again, unless
// its min_interval is longer. One forced by not_after does not wait so long.
const forcedAgain = time.Hour

// NextDue is when a secret with this definition and current version (of number 0: none)
// is due next. Times of its schedule lie after now, so that runs which were missed are
// left out; what forces a rotation may be overdue. ErrInvalid: its schedule or window
// cannot be read.
func NextDue(def Definition, current Version, now time.Time) (Due, error) {
	return due(def, current, now, false)
}

// DueAgain is NextDue right after a rotation was begun, or has failed, at now: unless it
// brings another version, what has forced it forces another one, but not at once.
func DueAgain(def Definition, current Version, now time.Time) (Due, error) {
	return due(def, current, now, true)
}

func due(def Definition, current Version, now time.Time, again bool) (Due, error) {
	sched, err := schedule.Parse(def.Schedule, def.TimeZone)
	if err != nil {
		return Due{}, fmt.Errorf("reading its schedule: %w", err)
	}
	window, problems := policy.ParseWindow(def.Window, def.TimeZone)
	if len(problems) > 0 {
		return Due{}, fmt.Errorf("reading its window: %w: %s", backends.ErrInvalid, problems[0])
	}
	after := latest(now, current.PublishedAt.Add(def.MinInterval-1)) // due right at its end is late enough
	if again {
		after = latest(after, now.Add(max(def.MinInterval, FailedAgain)-1))
	}
	next := Due{At: sched.NextJittered(after, def.Jitter, current.SecretID), Why: DueSchedule}
	for _, f := range forced(def, current, window, now) {
		if again {
			f.At = latest(f.At, now.Add(f.retry(def, current, now)))
		}
		if next.At.IsZero() || f.At.Before(next.At) {
			next = f
		}
	}
	if next.At.IsZero() {
		return Due{}, nil
	}
	next.Begins, _ = mayBegin(def, window, current, latest(next.At, now))
	return next, nil
}

// WhyDue says what makes the secret due at now, which its row says it is; empty: nothing
// does any more. A reason to force a rotation goes before its schedule.
func WhyDue(def Definition, current Version, now time.Time) Why {
	window, _ := policy.ParseWindow(def.Window, def.TimeZone)
	for _, f := range forced(def, current, window, now) {
		if !f.At.After(now) {
			return f.Why
		}
	}
	if def.Schedule != "" {
		return DueSchedule
	}
	return ""
}

// Reason is the reason of a rotation that is due by itself, for people.
func (w Why) Reason(def Definition, current Version) string {
	switch w {
	case DueMaxAge:
		return fmt.Sprintf("version %d, published at %s, comes to its max_age of %s", current.Number, stamp(current.PublishedAt), def.MaxAge)
	case DueNotAfter:
		return fmt.Sprintf("version %d ends by itself at %s (not_after)", current.Number, stamp(current.NotAfter))
	case DueFirst:
		if def.Schedule == "" {
			return "it has no version yet"
		}
	}
	return def.Schedule
}

// forced lists what forces a rotation, the most urgent first.
func forced(def Definition, current Version, window policy.Window, now time.Time) []Due {
	if current.Number == 0 {
		if def.Schedule == "" && def.MaxAge == 0 {
			return nil
		}
		return []Due{{At: now, Why: DueFirst}} // at once, not months from now
	}
	var out []Due
	if !current.NotAfter.IsZero() {
		at, earliest := beforeEnd(current, def.Plan.Overlap)
		out = append(out, Due{At: inWindow(window, at, earliest), Why: DueNotAfter})
	}
	if def.MaxAge > 0 { // by then another one is to be current, which is verified first
		earliest := current.PublishedAt.Add(def.MaxAge / 2)
		at := latest(current.PublishedAt.Add(def.MaxAge-def.Plan.Verify.Timeout), earliest)
		out = append(out, Due{At: inWindow(window, at, earliest), Why: DueMaxAge})
	}
	return out
}

// ReplaceBy is when a version that ends by itself is due to be replaced; zero: it does not end.
func ReplaceBy(def Definition, v Version) time.Time {
	if v.NotAfter.IsZero() {
		return time.Time{}
	}
	window, _ := policy.ParseWindow(def.Window, def.TimeZone)
	at, earliest := beforeEnd(v, def.Plan.Overlap)
	return inWindow(window, at, earliest)
}

// beforeEnd is when a version that ends by itself is replaced: after two thirds of its
// life, or an overlap before its end if that is earlier, but not in its first third,
// whose end is earliest.
func beforeEnd(v Version, overlap time.Duration) (at, earliest time.Time) {
	life := v.NotAfter.Sub(v.CreatedAt)
	earliest = v.CreatedAt.Add(life / 3)
	at = v.CreatedAt.Add(life * 2 / 3)
	if before := v.NotAfter.Add(-overlap); before.Before(at) {
		at = latest(before, earliest)
	}
	return at, earliest
}

// Expiring tells whether a current version that ends by itself should have been replaced:
// two thirds of its life are over, and the time that a rotation which is due then takes.
func (v Version) Expiring(now time.Time) bool {
	if v.NotAfter.IsZero() {
		return false
	}
	life := v.NotAfter.Sub(v.CreatedAt)
	return !now.Before(v.CreatedAt.Add(life*2/3 + min(life/12, 15*time.Minute)))
}

// Late tells whether a rotation that began by itself waits for more than an hour for what
// is out of order, and nobody has decided that it should.
func (r *Rotation) Late(now time.Time) bool {
	switch r.WaitingFor {
	case WaitIssuer, WaitBackend, WaitSeal, WaitRepair, WaitProbe:
		return r.Trigger == TriggerSchedule && r.PublishedAt.IsZero() && r.State.Occupies() && now.Sub(r.StepSince) >= time.Hour
	}
	return false
}

// inWindow is at, if the window is open then, or the last time before at when it opened,
// not before earliest. Where there is none, it stays at: the window is waited for.
func inWindow(w policy.Window, at, earliest time.Time) time.Time {
	if w.Open(at) {
		return at
	}
	if opened := latest(w.Last(at), earliest); w.Open(opened) && opened.Before(at) {
		return opened
	}
	return at
}

// MayBegin is when a rotation of a secret with this definition and current version may begin,
// from now on: when its window is open. What ends by itself does not wait for a window that
// comes too late to replace it in time: then it begins when the version is due to be
// replaced, in spite of the window. ErrInvalid: the window cannot be read.
func MayBegin(def Definition, current Version, now time.Time) (at time.Time, inSpite bool, err error) {
	window, problems := policy.ParseWindow(def.Window, def.TimeZone)
	if len(problems) > 0 {
		return now, false, fmt.Errorf("reading its window: %w: %s", backends.ErrInvalid, problems[0])
	}
	at, inSpite = mayBegin(def, window, current, now)
	return at, inSpite, nil
}

func mayBegin(def Definition, window policy.Window, current Version, now time.Time) (at time.Time, inSpite bool) {
	at = window.Next(now)
	if !at.After(now) || current.NotAfter.IsZero() || !at.After(lastStart(current, def.Plan)) {
		return at, false
	}
	due, _ := beforeEnd(current, def.Plan.Overlap)
	return latest(now, due), true
}

// lastStart is by when the replacement of a version that ends by itself has to begin:
// there is time left then to verify it, and for the overlap, or where its life is too
// short for that, a tenth of it.
func lastStart(v Version, plan Plan) time.Time {
	due, earliest := beforeEnd(v, plan.Overlap)
	last := v.NotAfter.Add(-plan.Verify.Timeout - plan.Overlap)
	if last.Before(earliest) {
		last = v.NotAfter.Add(-max(plan.Verify.Timeout, v.NotAfter.Sub(v.CreatedAt)/10))
	}
	return latest(last, due)
}

// retry is how long after it came to nothing a forced rotation is tried again.
func (d Due) retry(def Definition, current Version, now time.Time) time.Duration {
	if d.Why == DueNotAfter {
		return min(max(time.Minute, current.NotAfter.Sub(now)/4), time.Hour)
	}
	return max(def.MinInterval, forcedAgain)
}

// Forecast lists the next n times at which a secret is rotated by itself, if each of
// them succeeds at once and nothing else rotates it: none within the overlap of the one
// before, and versions that end by themselves as long-lived as the current one. The
// jitter is known of a current version (of number 0: none) with its SecretID. It is empty
// where nothing is due by itself or the definition cannot be read.
func Forecast(def Definition, current Version, now time.Time, n int) []Due {
	window, _ := policy.ParseWindow(def.Window, def.TimeZone)
	var out []Due
	free := now
	for range n {
		d, err := NextDue(def, current, now)
		if err != nil || d.At.IsZero() {
			break
		}
		d.Begins, _ = mayBegin(def, window, current, latest(d.Begins, free))
		out = append(out, d)
		now, free = d.Begins, d.Begins
		if current.Number > 0 {
			free = now.Add(overlapOf(def, current, now))
		}
		current = successor(current, now)
	}
	return out
}

// overlapOf is how long v stays valid beside what replaces it at now.
func overlapOf(def Definition, v Version, now time.Time) time.Duration {
	if v.NotAfter.IsZero() {
		return def.Plan.Overlap
	}
	return max(0, min(def.Plan.Overlap, v.NotAfter.Sub(now)))
}

func successor(v Version, at time.Time) Version {
	next := Version{SecretID: v.SecretID, Number: v.Number + 1, CreatedAt: at, PublishedAt: at}
	if !v.NotAfter.IsZero() {
		next.NotAfter = at.Add(v.NotAfter.Sub(v.CreatedAt))
	}
	return next
}
