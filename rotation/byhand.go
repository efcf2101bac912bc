package rotation

import (
	"fmt"
	"time"
)

// AwaitValue opens the next attempt of a mint that a person makes: version to is
// handed in by until.
func (r *Rotation) AwaitValue(to int, until, now time.Time) {
	if r.State != Minting {
		r.enter(Minting, now)
	}
	if to != r.To {
		r.Attempt++
		r.To = to
	}
	r.ValueBy, r.NextAt, r.WaitingFor = until, until, WaitValue
}

// AwaitsValue tells whether a person is to hand the new credential in.
func (r *Rotation) AwaitsValue() bool { return r.State == Minting && !r.ValueBy.IsZero() }

// IfMade says what to do with a credential that a person was asked for and nobody wants any more.
func (r *Rotation) IfMade() string {
	return fmt.Sprintf("if kb-%s-%d was made, turn it off, or hand it in all the same by `keybroker rotation supply %s`: then its death is proven", r.ID, r.Attempt, r.ID)
}

// byHandEvery is how often what only a person can end is looked at without having been
// woken by one: it stays among what is open.
const byHandEvery = 24 * time.Hour

// ByHandOnly records that a person has to turn the credential off. It is probed on
// meanwhile, so that its death is proven like any other.
func (t *Retirement) ByHandOnly(why string, now time.Time) {
	t.ByHand = true
	t.NotRevocable(why, now)
	t.WaitingFor = WaitByHand
	if t.State == Unprovable { // without a probe, what the person says is all there will be
		t.State, t.NextAt = Unconfirmed, now.Add(byHandEvery)
	}
}

// TurnedOff records that a person says to have turned the credential off, which is an
// acknowledgement: it is tried at once, and if it is accepted nobody has said anything.
// False if its issuer has acknowledged it, or it is over.
func (t *Retirement) TurnedOff(now time.Time) bool {
	if !t.AcknowledgedAt.IsZero() || t.State != Unconfirmed && t.State != Requested || t.NeverMade {
		return false
	}
	if t.RevokeBegunAt.IsZero() {
		t.RevokeBegunAt = now
	}
	t.ByHand, t.AcknowledgedAt, t.NextAt, t.Failures, t.Error, t.WaitingFor = true, now, now, 0, "", ""
	t.AskAgainAt, t.RoundAt = time.Time{}, time.Time{}
	t.State = Acknowledged
	t.resetSeries()
	if !t.ContainedAt.IsZero() && t.LastAcceptedAt.Before(t.ContainedAt) {
		t.State = Rejecting
	}
	if t.AlreadyRejected || !t.HasProbe && !t.Confirm.None {
		t.State = Unprovable
	}
	return true
}
