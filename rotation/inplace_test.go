package rotation_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// inPlace is a rotation whose mint ends version 1, with the intent to mint committed.
func inPlace(at time.Time) rotation.Rotation {
	r := rotation.Rotation{ID: "r", State: rotation.Queued, From: 1, StepSince: at, NextAt: at,
		Plan: rotation.Plan{Verify: rotation.Verify{Successes: 1, Interval: time.Second, Timeout: time.Minute}, Confirm: rotation.Confirm{Rejections: 3}}}
	r.TriedOld(rotation.Accepted, "here", "", 0, at)
	r.Begin(rotation.Mint, 2, "me", time.Minute, at)
	r.SetsInPlace()
	return r
}

func TestWhatFailsInPlaceIsPutBack(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, end := range map[string]func(*rotation.Rotation){
		"failed":    func(r *rotation.Rotation) { r.Fail("no good", at) },
		"cancelled": func(r *rotation.Rotation) { _, _ = r.Cancel("ann", at) },
		"refused":   func(r *rotation.Rotation) { r.Attempt = rotation.MaxMints; r.MintLost("refused", true, at) },
		"not verified": func(r *rotation.Rotation) {
			r.Minted(at)
			r.Staged(at)
			r.Verified(rotation.Rejected, "401", at.Add(2*time.Minute))
		},
		"out of patience": func(r *rotation.Rotation) { r.Unheard(rotation.WaitIssuer, "down", at.Add(rotation.Patience)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := inPlace(at)
			end(&r)
			if r.State.Ended() || !r.PuttingBack() {
				t.Fatalf("it is %s, and the old value is dead", r.State)
			}
			later := at.Add(rotation.Patience)
			if act := r.Next(rotation.Facts{Frozen: true}, "me", later); act.Effect != rotation.PutBack {
				t.Fatalf("due is %+v", act)
			}
			in := r.State
			r.Begin(rotation.PutBack, r.To, "me", time.Minute, later)
			r.Unheard(rotation.WaitIssuer, "down", later.Add(2*rotation.Patience)) // nothing else is better than to go on
			if r.State != in || r.State.Ended() {
				t.Fatalf("it is %s", r.State)
			}
			if _, err := r.Cancel("ben", later); err == nil {
				t.Error("it was cancelled without the old value")
			}
			r.WasPutBack(later)
			want := rotation.Failed
			if name == "cancelled" {
				want = rotation.Cancelled
			}
			if r.State != want || r.Error == "" || r.PuttingBack() {
				t.Errorf("it ended as %s (%s)", r.State, r.Error)
			}
		})
	}
}

func TestWhatIsNotPutBack(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	t.Run("in an emergency", func(t *testing.T) {
		r := inPlace(at)
		r.Trigger = rotation.TriggerEmergency
		if r.Fail("no good", at); r.State != rotation.Failed {
			t.Errorf("what is compromised is put back: %s", r.State)
		}
	})
	t.Run("before anything was set", func(t *testing.T) {
		r := rotation.Rotation{State: rotation.Queued, From: 1, Plan: inPlace(at).Plan}
		r.TriedOld(rotation.Accepted, "here", "", 0, at)
		if r.Fail("no good", at); r.State != rotation.Failed {
			t.Errorf("nothing was ended, and it is %s", r.State)
		}
	})
	t.Run("the first version", func(t *testing.T) {
		r := inPlace(at)
		r.From = 0
		if r.Fail("no good", at); r.State != rotation.Failed {
			t.Errorf("there is nothing to put back, and it is %s", r.State)
		}
	})
	t.Run("it cannot be", func(t *testing.T) {
		r := inPlace(at)
		r.Fail("no good", at)
		if r.NotPutBack("it is gone", at); r.State != rotation.Failed || r.Error == "no good" {
			t.Errorf("it ended as %s: %s", r.State, r.Error)
		}
	})
}

func TestTriesOfTheOldOneBeforeItEnds(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fresh := func() rotation.Rotation {
		return rotation.Rotation{State: rotation.Queued, From: 1, Plan: inPlace(at).Plan}
	}
	t.Run("one rejection is not believed", func(t *testing.T) {
		r := fresh()
		for n, want := range []rotation.Verdict{"", "", rotation.Rejected} {
			if r.TriedOld(rotation.Rejected, "here", "401", 0, at.Add(time.Duration(n)*time.Second)); r.InPlace.Before != want {
				t.Fatalf("after %d it counts as %q", n+1, r.InPlace.Before)
			}
			if want == "" && r.NextAt.IsZero() {
				t.Error("nobody tries again")
			}
		}
		var dead rotation.Retirement
		if dead.Displaced(*r.InPlace); !dead.AlreadyRejected || !dead.LastAcceptedAt.IsZero() {
			t.Errorf("its death would prove something: %+v", dead)
		}
	})
	t.Run("what cannot be told delays it for a while", func(t *testing.T) {
		r := fresh()
		if r.TriedOld(rotation.Inconclusive, "here", "down", 0, at); r.InPlace.Before != "" {
			t.Fatal("it is given up at once")
		}
		if r.TriedOld(rotation.Inconclusive, "here", "down", 0, at.Add(time.Minute)); r.InPlace.Before != rotation.Inconclusive {
			t.Error("it waits for ever")
		}
	})
	t.Run("accepted", func(t *testing.T) {
		r := inPlace(at)
		var dead rotation.Retirement
		dead.Displaced(*r.InPlace)
		if dead.Before != rotation.Accepted || !dead.LastAcceptedAt.Equal(at) || dead.BeforeBy != "here" {
			t.Errorf("%+v", dead)
		}
	})
}

func TestAPersonIsWaitedFor(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := rotation.Rotation{ID: "r", State: rotation.Queued, StepSince: at, NextAt: at}
	until := at.Add(72 * time.Hour)
	r.AwaitValue(1, until, at)
	if _, err := r.Retry(at.Add(time.Minute)); err == nil {
		t.Error("a retry that can only fail it is taken")
	}
	r.NextAt = at // whatever wakes it
	if act := r.Next(rotation.Facts{}, "me", at.Add(time.Minute)); act.Effect != rotation.NoEffect || !act.Until.Equal(until) {
		t.Errorf("due is %+v", act)
	}
	if act := r.Next(rotation.Facts{}, "me", until); act.Effect != rotation.Mint {
		t.Errorf("after its time due is %+v", act)
	}
}

func TestWhatNeverWorkedIsNotProvenByHand(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, word := range map[string]bool{"silently": false, "and somebody says so": true} {
		t.Run(name, func(t *testing.T) {
			r := rotation.Retirement{State: rotation.Requested, HasProbe: true, AlreadyRejected: true, Before: rotation.Rejected, Confirm: rotation.Confirm{Rejections: 2}}
			r.ByHandOnly("turn it off", at)
			if word {
				r.TurnedOff(at)
			}
			for n := range 4 {
				r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", at.Add(time.Duration(n)*time.Minute))
			}
			if r.State != rotation.Unprovable {
				t.Errorf("it is %s", r.State)
			}
		})
	}
}

// Rejections prove nothing while the issuer refuses to revoke: what is fresh is rejected
// here and there, too.
func TestWhatNobodyHasTurnedOffIsNotProven(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := rotation.Retirement{State: rotation.Requested, HasProbe: true, Cause: rotation.CauseEmergency, RequestedAt: at, NextAt: at, Confirm: rotation.Confirm{Rejections: 2}}
	r.Begin(rotation.Revoke, "me", time.Minute, at)
	r.RevokeFailed("denied", true, at.Add(time.Minute))
	if r.State != rotation.Unconfirmed {
		t.Fatalf("it is %s", r.State)
	}
	for n := range 5 {
		r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", at.Add(time.Duration(2+n)*time.Minute))
	}
	if r.State != rotation.Unconfirmed || !r.ContainedAt.IsZero() {
		t.Errorf("it is %s, contained at %s", r.State, r.ContainedAt)
	}
}
