package rotation_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/rotation"
)

// turning is a rotation at which anything happens, in any order.
type turning struct {
	r      rotation.Rotation
	now    time.Time
	f      rotation.Facts
	last   int  // newest version's number
	vault  bool // the vault may hold the new version
	unsent bool // the last mint never reached its issuer: the same is made again
}

func drawTurning(t *rapid.T) *turning {
	x := &turning{now: start, last: 1}
	p := plan()
	p.Approval = rapid.IntRange(0, 3).Draw(t, "approval") == 0
	p.Acknowledgement = rotation.Acknowledgement{
		Require: rapid.SampledFrom([]rotation.Requirement{"", rotation.RequireNone, rotation.RequireReceived, rotation.RequireApplied}).Draw(t, "require"),
		Timeout: 90 * time.Minute, Hold: rapid.Bool().Draw(t, "hold")}
	x.r = rotation.Rotation{ID: "r", SecretID: "s", Trigger: rotation.TriggerManual, Actor: "ada", Plan: p, State: rotation.Queued,
		From: rapid.IntRange(0, 1).Draw(t, "from"), CreatedAt: start, StepSince: start, NextAt: start}
	x.f.NoProbe = rapid.IntRange(0, 3).Draw(t, "no probe") == 0
	if rapid.IntRange(0, 3).Draw(t, "emergency") == 0 {
		x.r.Trigger, x.r.Compromised = rotation.TriggerEmergency, []int{1}
	}
	if rapid.Bool().Draw(t, "published") { // half of them begin where it becomes interesting
		x.last = 2
		x.r.Begin(rotation.Mint, 2, me, lease, x.now)
		x.r.Minted(x.now)
		x.r.Staged(x.now)
		x.r.Begin(rotation.Publish, 2, me, lease, x.now)
		x.vault = true
		x.r.Published(false, x.now)
	}
	return x
}

// step lets an owner look, and do what is due; outcomes come as drawn.
func (x *turning) step(t *rapid.T, owner string) {
	a := x.r.Next(x.f, owner, x.now)
	switch a.Effect {
	case rotation.NoEffect:
		if !x.r.Intent.Held(owner, x.now) && !x.r.State.Ended() {
			x.r.Wait(a)
		}
		return
	case rotation.BeginRetire:
		x.beginRetire(t)
		return
	case rotation.Finish:
		x.r.Finished(x.now)
		return
	}
	to := x.r.To
	if a.Effect == rotation.Mint && !x.unsent {
		x.last++
		to = x.last
	}
	x.unsent = false
	x.r.Begin(a.Effect, to, owner, lease, x.now)
	x.check(t)
	crash := rapid.IntRange(0, 7).Draw(t, "crash")
	x.vault = x.vault || crash != 0 && a.Effect == rotation.Publish
	if crash <= 1 {
		return
	}
	x.now = x.now.Add(rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Minute}).Draw(t, "takes"))
	if rapid.IntRange(0, 4).Draw(t, "unheard") == 0 {
		x.r.Unheard(rotation.WaitIssuer, "timeout", x.now)
		return
	}
	x.outcome(t, a.Effect)
}

func (x *turning) beginRetire(t *rapid.T) {
	switch {
	case x.f.Frozen:
		t.Fatal("an overlap ends although everything is frozen")
	case x.now.Before(x.r.OverlapUntil):
		t.Fatal("an overlap ends before its time")
	case x.r.RollBackBy != "":
		t.Fatal("what is to become current again is retired")
	}
	x.r.RetireBegun(x.now)
}

func (x *turning) outcome(t *rapid.T, e rotation.Effect) {
	choice := rapid.IntRange(0, 5).Draw(t, "outcome")
	switch e {
	case rotation.Mint, rotation.RecoverMint:
		switch choice {
		case 0:
			x.r.MintLost("refused", rapid.Bool().Draw(t, "invalid"), x.now)
		case 1:
			x.r.NotMinted("connection refused", x.now)
			x.unsent = true
		default:
			x.r.Minted(x.now)
		}
	case rotation.Stage:
		x.r.Staged(x.now)
	case rotation.VerifyTry:
		x.r.Verified(verdicts.Draw(t, "verdict"), "", x.now)
	case rotation.Publish:
		if choice == 0 {
			x.r.Fail("conflict", x.now)
			x.vault = false // the engine has looked
			return
		}
		x.r.Published(choice == 1, x.now)
	case rotation.Restore:
		if choice == 0 {
			x.r.RollBackRefused("it does not work any more", x.now)
			return
		}
		x.r.RolledBackNow(x.now)
	}
}

// check holds the record against what must be true of it at any time.
func (x *turning) check(t *rapid.T) {
	t.Helper()
	r := &x.r
	roundTrip(t, *r)
	for _, frozen := range []bool{false, true} {
		for _, owner := range []string{me, "node/2"} {
			f := x.f
			f.Frozen = frozen
			x.checkNext(t, r.Next(f, owner, x.now), f)
		}
	}
	switch {
	case r.State.Ended() != !r.EndedAt.IsZero() || r.State.Ended() && (!r.NextAt.IsZero() || r.Intent != nil):
		t.Fatalf("%s, ended %s, next %s, intent %v", r.State, r.EndedAt, r.NextAt, r.Intent)
	case r.Attempt > rotation.MaxMints && !r.Emergency():
		t.Fatalf("%d mints", r.Attempt)
	case r.State == rotation.Failed && !r.PublishedAt.IsZero():
		t.Fatal("failed although the new version is current: nobody retires what it replaced")
	case (r.State == rotation.Failed || r.State == rotation.Cancelled && r.PublishedAt.IsZero()) && x.vault:
		t.Fatalf("%s although the vault may hold the new version", r.State)
	case r.State == rotation.Superseded && r.Error == "", r.State == rotation.Failed && r.Error == "":
		t.Fatal("ended without a reason")
	}
}

func (x *turning) checkNext(t *rapid.T, a rotation.Action, f rotation.Facts) {
	t.Helper()
	r := &x.r
	switch {
	case r.State.Ended():
		if a != (rotation.Action{}) {
			t.Fatalf("something is due after the end: %+v", a)
		}
	case a.Effect == rotation.NoEffect:
		woken := a.WaitingFor == rotation.WaitApproval || a.WaitingFor == rotation.WaitProof && x.hopeless()
		if a.Until.IsZero() && !woken || !a.Until.IsZero() && !a.Until.After(x.now) {
			t.Fatalf("in %s nothing is due, and nothing ever will be: %+v", r.State, a)
		}
	case a.Effect == rotation.Finish:
		for _, v := range f.Retirements {
			if !v.Settled() {
				t.Fatalf("done while version %d is %s", v.Version, v.State)
			}
		}
	case f.Frozen && !r.Emergency() && a.Effect == rotation.Publish && (r.Intent == nil || r.Intent.Effect != rotation.Publish),
		f.Frozen && !r.Emergency() && (a.Effect == rotation.BeginRetire || r.State == rotation.Queued):
		t.Fatalf("%s in %s although everything is frozen", a.Effect, r.State)
	case a.Effect == rotation.Mint && r.State == rotation.Minting && r.Intent != nil:
		t.Fatal("another mint while nobody knows what became of the one before")
	}
}

// hopeless tells whether what the rotation waits for can get no proof any more.
func (x *turning) hopeless() bool {
	for _, t := range x.f.Retirements {
		if !t.Settled() && t.PurgedAt.IsZero() {
			return false
		}
	}
	return len(x.f.Retirements) == len(x.r.Retires())
}

// facts draws what the rotation meets.
func (x *turning) facts(t *rapid.T) {
	x.f.Paused, x.f.Frozen = rapid.Bool().Draw(t, "paused"), rapid.Bool().Draw(t, "frozen")
	x.f.BackendDown, x.f.IssuerFull = rapid.Bool().Draw(t, "backend down"), rapid.Bool().Draw(t, "issuer full")
	x.f.OutOfStep, x.f.MissingAcks = rapid.Bool().Draw(t, "out of step"), rapid.IntRange(0, 2).Draw(t, "missing acks")
	x.f.Retirements = nil
	if x.r.State != rotation.Retiring || rapid.IntRange(0, 4).Draw(t, "no retirement") == 0 {
		return
	}
	for _, n := range x.r.Retires() {
		v := rotation.Retirement{Version: n, State: rapid.SampledFrom([]rotation.RetirementState{rotation.Requested, rotation.Acknowledged,
			rotation.Rejecting, rotation.ProvenDead, rotation.Unconfirmed, rotation.Resurrected, rotation.Unprovable}).Draw(t, "retirement")}
		if v.State == rotation.Unprovable {
			v.PurgedAt = x.now
		}
		x.f.Retirements = append(x.f.Retirements, v)
	}
}

// finish lets everything go well from here on, and expects an end.
func (x *turning) finish(t *rapid.T) {
	x.f = rotation.Facts{NoProbe: x.f.NoProbe}
	end := x.now.Add(4 * 24 * time.Hour)
	for steps := 0; !x.r.State.Ended(); steps++ {
		if x.now.After(end) || steps > 100 {
			t.Fatalf("after %d more steps and all going well it is %s: %+v", steps, x.r.State, x.r)
		}
		if x.r.State == rotation.Retiring {
			x.f.Retirements = nil
			for _, n := range x.r.Retires() {
				x.f.Retirements = append(x.f.Retirements, rotation.Retirement{Version: n, State: rotation.ProvenDead})
			}
		}
		a := x.r.Next(x.f, "node/3", x.now)
		if a.Effect != rotation.NoEffect && a.Effect != rotation.BeginRetire && a.Effect != rotation.Finish {
			to := x.r.To
			if a.Effect == rotation.Mint && !x.unsent {
				to = x.last + 1
			}
			x.r.Begin(a.Effect, to, "node/3", lease, x.now)
		}
		switch a.Effect {
		case rotation.NoEffect:
			if a.WaitingFor == rotation.WaitApproval {
				if _, err := x.r.Approve("bob", "", x.now); err != nil {
					t.Fatal(err)
				}
				continue
			}
			x.now = a.Until
		case rotation.Mint, rotation.RecoverMint:
			x.r.Minted(x.now)
		case rotation.Stage:
			x.r.Staged(x.now)
		case rotation.VerifyTry:
			x.r.Verified(rotation.Accepted, "", x.now)
		case rotation.Publish:
			x.r.Published(false, x.now)
		case rotation.Restore:
			x.r.RolledBackNow(x.now)
		case rotation.BeginRetire:
			x.beginRetire(t)
		case rotation.Finish:
			x.r.Finished(x.now)
		}
		x.check(t)
	}
}

// Any order of looks by two owners, crashes, answers, verdicts, freezes and
// operators leaves a rotation in a state from which it goes on to an end.
func TestRotationWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawTurning(t)
		look := func(t *rapid.T) { x.step(t, owners.Draw(t, "owner")) }
		asked := func(before rotation.Rotation, _ []string, err error) {
			if err != nil && before.State != x.r.State {
				t.Fatal("refused and done all the same")
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"look": look, "look again": look, "and again": look,
			"on time": func(t *rapid.T) {
				if x.r.NextAt.After(x.now) {
					x.now = x.r.NextAt
				}
				look(t)
			},
			"wait":  func(t *rapid.T) { x.now = x.now.Add(whiles.Draw(t, "while")) },
			"facts": x.facts,
			"supersede": func(t *rapid.T) {
				if x.r.State.Occupies() && rapid.IntRange(0, 9).Draw(t, "supersede") == 0 {
					x.r.Supersede(x.now)
					x.vault = false // its successor takes what the vault holds for ours
				}
			},
			"cut overlap": func(*rapid.T) {
				if x.r.State == rotation.Overlap {
					x.r.CutOverlap(x.now)
				}
			},
			"approve": func(t *rapid.T) { b := x.r; w, err := x.r.Approve("bob", "", x.now); asked(b, w, err) },
			"cancel": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "cancel") == 0 {
					b := x.r
					w, err := x.r.Cancel("bob", x.now)
					asked(b, w, err)
				}
			},
			"retry":    func(t *rapid.T) { b := x.r; w, err := x.r.Retry(x.now); asked(b, w, err) },
			"rollback": func(t *rapid.T) { b := x.r; w, err := x.r.RollBack("bob", x.now); asked(b, w, err) },
			"":         func(t *rapid.T) { x.check(t) },
		})
		x.finish(t)
	})
}
