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
	t.Intent, t.RemovedAt, t.NextAt, t.RemoveFailures, t.Error = nil, now, now, 0, ""
}

// RemoveFailed records that the issuer did not remove it; it is asked again.
func (t *Retirement) RemoveFailed(why string, now time.Time) {
	t.Intent = nil
	t.RemoveFailures++
	t.Error = why
	t.RemoveAt = now.Add(Backoff(t.RemoveFailures, 5*time.Minute))
	if t.NextAt.After(t.RemoveAt) || !t.NextAt.After(now) {
		t.NextAt = t.RemoveAt
	}
}

// NotRemovable records that the issuer removes nothing (any more): the credential stays
// disabled there, and its place is not waited for.
func (t *Retirement) NotRemovable(why string, now time.Time) {
	t.Intent, t.RemoveAt, t.NextAt = nil, time.Time{}, now
	t.Error = why
}

// removalPatience is how many removals fail, over eight minutes, before people are
// told: a rotation may wait for the place.
const removalPatience = 10

// StuckRemoval tells whether the issuer keeps failing to remove the credential.
func (t *Retirement) StuckRemoval() bool {
	return t.removalPending() && t.RemoveFailures >= removalPatience
}
