package rotation

import "time"

// What is recorded where a credential is not turned off although it should be.

// RevokeFailed records that the issuer did not acknowledge. It is asked again
// for as long as it takes: giving up would leave the credential alive. named tells
// whether it could be told which one: what nobody has heard of may not have been made.
func (t *Retirement) RevokeFailed(why string, named bool, now time.Time) {
	t.Intent = nil
	t.Failures++
	t.Error, t.WaitingFor = why, WaitIssuer
	limit, patience := 5*time.Minute, t.Confirm.Budget+slack
	if t.Emergency() {
		limit, patience = 15*time.Second, refusedInEmergency
	}
	if t.State == Unconfirmed && !t.AcknowledgedAt.IsZero() { // it is probed on meanwhile
		t.RevokedAgainAt, t.NextAt = now, now.Add(unconfirmedEvery)
		return
	}
	if !named {
		t.NextAt = now.Add(Backoff(t.Failures, limit))
		return
	}
	t.RevokeFailures++
	t.NextAt = now.Add(Backoff(t.RevokeFailures, limit))
	if t.State == Requested && now.Sub(t.RevokeBegunAt) >= patience || t.State == Unconfirmed { // people are told, and it is tried beside
		t.State, t.AskAgainAt = Unconfirmed, t.NextAt
		if t.RoundAt.IsZero() {
			t.RoundAt = now
		}
		t.NextAt = t.nextTurn()
	}
}

// refused tells whether the credential is probed on although its issuer, which is asked
// again and again, has not turned it off.
func (t *Retirement) refused() bool { return t.State == Unconfirmed && !t.AskAgainAt.IsZero() }

// nextTurn is when such an issuer is asked again, or the next round is due.
func (t *Retirement) nextTurn() time.Time {
	if t.HasProbe && t.RoundAt.Before(t.AskAgainAt) {
		return t.RoundAt
	}
	return t.AskAgainAt
}

// unconfirmedEvery is how often what should be dead is tried while it is not: in an
// emergency often, as long as somebody is likely to be at it.
func (t *Retirement) unconfirmedEvery(now time.Time) time.Duration {
	if t.Emergency() && now.Sub(t.RequestedAt) < time.Hour {
		return slowestFirstRound
	}
	return unconfirmedEvery
}

// HeldUp records that the revocation has to wait for something else than its issuer.
func (t *Retirement) HeldUp(waitingFor, why string, now time.Time) {
	t.Failures++
	t.Error, t.WaitingFor = why, waitingFor
	t.NextAt = now.Add(Backoff(t.Failures, 5*time.Minute))
}

// CannotRevoke records that the credential, if it exists, cannot be revoked from
// here: nobody knows its handle and its issuer cannot look it up.
func (t *Retirement) CannotRevoke(why string, now time.Time) {
	t.Intent, t.State, t.HasProbe = nil, Unprovable, false
	t.Error, t.NextAt, t.WaitingFor = why, now, ""
}

// NotRevocable records that the issuer cannot be asked to revoke: the credential is
// another's, and nobody has given its handle. It is probed on, so that turning it
// off by hand is proven like any other death.
func (t *Retirement) NotRevocable(why string, now time.Time) {
	t.Intent, t.Error, t.WaitingFor = nil, why, WaitHandle
	t.Failures++
	if !t.HasProbe {
		t.State, t.NextAt = Unprovable, now
		return
	}
	t.State, t.RevokedAgainAt, t.NextAt = Unconfirmed, now, now.Add(minRoundGap)
}

// HandleGiven lets the issuer be asked now that somebody has said what it calls the
// credential.
func (t *Retirement) HandleGiven(now time.Time) {
	t.Error, t.Failures, t.WaitingFor, t.NextAt = "", 0, "", now
	if t.State == Unconfirmed || t.State == Unprovable {
		t.State, t.PurgedAt = Requested, time.Time{}
	}
}
