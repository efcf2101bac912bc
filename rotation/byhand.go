package rotation

import "time"

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

// ByHandOnly records that a person has to turn the credential off. It is probed on
// meanwhile, so that its death is proven like any other.
func (t *Retirement) ByHandOnly(why string, now time.Time) {
	t.ByHand = true
	t.NotRevocable(why, now)
	if t.State == Unprovable { // without a probe, what the person says is all there will be
		t.State, t.NextAt = Unconfirmed, time.Time{}
	}
}

// TurnedOff records that a person says to have turned the credential off: that is an
// acknowledgement. It is tried at once.
func (t *Retirement) TurnedOff(now time.Time) bool {
	if !t.ByHand || !t.AcknowledgedAt.IsZero() {
		return false
	}
	t.AcknowledgedAt, t.NextAt, t.Failures, t.Error, t.WaitingFor = now, now, 0, "", ""
	if t.State == Unconfirmed {
		t.State = Acknowledged
		if !t.ContainedAt.IsZero() && t.LastAcceptedAt.Before(t.ContainedAt) {
			t.State = Rejecting
		}
		if !t.HasProbe && !t.Confirm.None {
			t.State = Unprovable
		}
	}
	return true
}
