package rotation

import "time"

// LockoutPeriod is how long rejected tries count towards the lockout that a probe
// declares: what accounts usually take to forgive them.
const LockoutPeriod = time.Hour

// Bears tells whether the account bears n more rejected tries where it is locked
// at limit (0: never), and if not, from when on.
func (t *Retirement) Bears(n, limit int, now time.Time) (until time.Time, ok bool) {
	until = t.TriedAt.Add(LockoutPeriod)
	if limit == 0 || t.Tries == 0 || !now.Before(until) || t.Tries+n < limit {
		return time.Time{}, true
	}
	return until, false
}

// Tried counts tries of the credential that are going to be made and may be rejected.
func (t *Retirement) Tried(n int, now time.Time) {
	if !now.Before(t.TriedAt.Add(LockoutPeriod)) {
		t.Tries = 0
	}
	t.Tries, t.TriedAt = t.Tries+n, now
}

// Forgiven ends the count of tries: one was accepted.
func (t *Retirement) Forgiven() { t.Tries = 0 }

// PutOff records that a round has to wait for an account to forgive the tries before.
func (t *Retirement) PutOff(until time.Time) {
	t.Intent, t.NextAt, t.WaitingFor = nil, until, WaitLockout
	if t.refused() {
		t.RoundAt = until
		t.NextAt = t.nextTurn()
	}
}
