package rotation

import "time"

// Sessions says what became of the sessions that were derived from a credential.
type Sessions string

// What can become of them; empty: its issuer knows of none, or cannot end them.
const (
	SessionsPending Sessions = "pending" // they are to be ended
	SessionsEnded   Sessions = "ended"
)

// RemovesAt records that the credential, which is disabled now, is removed for good then.
func (t *Retirement) RemovesAt(at time.Time) {
	if t.RemoveAt.IsZero() {
		t.RemoveAt = at
	}
}

// removalPending tells whether the credential is disabled and still to be removed.
func (t *Retirement) removalPending() bool { return !t.RemoveAt.IsZero() && t.RemovedAt.IsZero() }

// Soaking tells whether the credential still takes one of its issuer's places,
// although it is disabled.
func (t *Retirement) Soaking() bool { return t.removalPending() }

// MindRemoval lets the retirement be looked at when the removal is due, at the latest.
func (t *Retirement) MindRemoval() {
	if t.removalPending() && t.PurgedAt.IsZero() && (t.NextAt.IsZero() || t.NextAt.After(t.RemoveAt)) {
		t.NextAt = t.RemoveAt
	}
}

// RemoveNow ends the soak: its place is needed.
func (t *Retirement) RemoveNow(now time.Time) bool {
	if !t.removalPending() || !t.RemoveAt.After(now) {
		return false
	}
	t.RemoveAt = now
	t.NextAt = now
	return true
}

// untilRemoval lets nothing be waited for, and nothing be forgotten, beyond the removal.
func (t *Retirement) untilRemoval(a Action, now time.Time) Action {
	switch {
	case !t.removalPending():
		return a
	case a.Effect == Purge:
		return wait(t.RemoveAt, WaitSoak)
	case a.Effect == NoEffect && (a.Until.IsZero() || a.Until.After(t.RemoveAt)):
		return wait(latest(t.RemoveAt, now), a.WaitingFor)
	}
	return a
}

// Removed records that the issuer has it no more. What was seen of it while it was
// disabled still counts.
func (t *Retirement) Removed(now time.Time) {
	t.Intent, t.RemovedAt, t.NextAt, t.Failures, t.Error = nil, now, now, 0, ""
}

// RemoveFailed records that the issuer did not remove it; it is asked again.
func (t *Retirement) RemoveFailed(why string, now time.Time) {
	t.Intent = nil
	t.Failures++
	t.Error = why
	t.RemoveAt = now.Add(Backoff(t.Failures, 5*time.Minute))
	if t.NextAt.After(t.RemoveAt) || !t.NextAt.After(now) {
		t.NextAt = t.RemoveAt
	}
}
