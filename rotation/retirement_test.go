package rotation_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

func requested(cause rotation.Cause) *rotation.Retirement {
	return &rotation.Retirement{ID: "t", Version: 1, Cause: cause, Confirm: plan().Confirm, HasProbe: true,
		State: rotation.Requested, RequestedAt: start, DueAt: start, NextAt: start}
}

func TestOneRejectionContainsButProvesNothing(t *testing.T) {
	r := requested(rotation.CauseEmergency)
	if e := r.Next(rotation.RetirementFacts{}, me, start).Effect; e != rotation.Revoke {
		t.Fatalf("an emergency begins with %q", e)
	}
	r.Revoked(start)
	now := start
	for i := range 3 {
		r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", now)
		if want := map[bool]rotation.RetirementState{true: rotation.ProvenDead, false: rotation.Rejecting}[i == 2]; r.State != want {
			t.Fatalf("after %d rejections over %s: %s", i+1, now.Sub(start), r.State)
		}
		now = r.NextAt
	}
	if !r.ContainedAt.Equal(start) || r.ProvenAt.Sub(start) < 10*time.Minute {
		t.Fatalf("contained %s, proven %s", r.ContainedAt, r.ProvenAt)
	}
}

func TestThreeQuickRejectionsProveNothing(t *testing.T) {
	r := requested(rotation.CauseRotated)
	r.Revoked(start)
	for i := range 100 {
		r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", start.Add(time.Duration(i)*time.Second))
	}
	if r.State != rotation.Rejecting {
		t.Fatalf("state %s", r.State)
	}
}

func TestAcceptedStartsAgain(t *testing.T) {
	r := requested(rotation.CauseRotated)
	r.Revoked(start)
	r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", start)
	r.RoundMade(rotation.Inconclusive, rotation.ControlNone, "", start.Add(time.Minute))
	r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", start.Add(2*time.Minute))
	if r.Rejections != 2 {
		t.Fatalf("an inconclusive round counts for something: %d rejections", r.Rejections)
	}
	r.RoundMade(rotation.Accepted, rotation.ControlCurrent, "", start.Add(3*time.Minute))
	if r.Rejections != 0 || r.State != rotation.Acknowledged {
		t.Fatalf("%d rejections, %s", r.Rejections, r.State)
	}
}

func TestJudge(t *testing.T) {
	const a, r, i = rotation.Accepted, rotation.Rejected, rotation.Inconclusive
	const current = rotation.ControlCurrent
	type seen = []rotation.Sighting
	for name, c := range map[string]struct {
		seen    seen
		before  bool
		want    rotation.Verdict
		control rotation.Control
	}{
		"rejected beside a control":                {seen{{Control: a, By: current, Subject: r}}, false, r, rotation.ControlCurrent},
		"rejected beside a canary":                 {seen{{Control: a, By: rotation.ControlCanary, Subject: r}}, false, r, rotation.ControlCanary},
		"the weakest control counts":               {seen{{Control: a, By: current, Subject: r}, {Control: a, By: rotation.ControlCanary, Subject: r}}, true, r, rotation.ControlCanary},
		"rejected without any control":             {seen{{Subject: r}}, false, r, rotation.ControlNone},
		"rejected, accepted before":                {seen{{Subject: r}}, true, r, rotation.ControlBefore},
		"accepted somewhere":                       {seen{{Control: a, By: current, Subject: r}, {Control: a, By: current, Subject: a}}, false, a, rotation.ControlNone},
		"accepted where the control is not":        {seen{{Control: a, By: current, Subject: r}, {Control: r, Subject: a}}, false, a, rotation.ControlNone},
		"a server that refuses everything":         {seen{{Control: a, By: current, Subject: r}, {Control: r, Subject: r}}, false, i, rotation.ControlNone},
		"accepted before does not excuse that":     {seen{{Control: r, Subject: r}}, true, i, rotation.ControlNone},
		"one server says nothing":                  {seen{{Control: a, By: current, Subject: r}, {Control: a, By: current, Subject: i}}, false, i, rotation.ControlNone},
		"an address that cannot be reached":        {seen{{Control: a, By: current, Subject: r}, {Control: i, Subject: i, Unreached: true}}, false, r, rotation.ControlCurrent},
		"no address can be reached":                {seen{{Control: i, Subject: i, Unreached: true}}, true, i, rotation.ControlNone},
		"no address":                               {nil, true, i, rotation.ControlNone},
		"the control was cut off, not the subject": {seen{{Control: i, Subject: r}}, true, i, rotation.ControlNone},
	} {
		if got, control := rotation.Judge(c.seen, c.before); got != c.want || control != c.control {
			t.Errorf("%s: %s %q, want %s %q", name, got, control, c.want, c.control)
		}
	}
}

func TestARejectionWithoutControlContainsButProvesNothing(t *testing.T) {
	r := requested(rotation.CauseEmergency)
	r.Revoked(start)
	for i := range 50 {
		r.RoundMade(rotation.Rejected, rotation.ControlNone, "", start.Add(time.Duration(i)*time.Minute/10))
	}
	if !r.ContainedAt.Equal(start) || r.State != rotation.Rejecting || r.Rejections != 0 {
		t.Fatalf("contained %s, %s, %d rejections", r.ContainedAt, r.State, r.Rejections)
	}
}

func TestOneRejectionBeforeRevokingIsNotBelieved(t *testing.T) {
	r := requested(rotation.CauseRotated)
	r.ProbedBefore(rotation.Rejected, rotation.ControlCurrent, "", start)
	if r.AlreadyRejected || r.Next(rotation.RetirementFacts{}, me, r.NextAt).Effect != rotation.ProbeBefore {
		t.Fatal("one stray rejection counts as the truth")
	}
	r.ProbedBefore(rotation.Accepted, rotation.ControlCurrent, "", r.NextAt)
	if r.Before != rotation.Accepted || r.Rejections != 0 {
		t.Fatalf("before %q, %d rejections", r.Before, r.Rejections)
	}
}

func TestNothingFoundIsSettledAndNoProof(t *testing.T) {
	r := requested(rotation.CauseOrphan)
	r.Confirm.Recheck = []time.Duration{time.Hour, 24 * time.Hour}
	next := func(at time.Time) rotation.Effect { return r.Next(rotation.RetirementFacts{}, me, at).Effect }
	if !r.FoundNothing(start) || !r.Settled() || r.State == rotation.ProvenDead || next(start) != rotation.NoEffect {
		t.Fatalf("%s settled %v, next %q", r.State, r.Settled(), next(start))
	}
	for i, at := range r.Confirm.Recheck { // a worker that slept may still mint
		if next(start.Add(at)) != rotation.Revoke || !r.FoundNothing(start.Add(at)) {
			t.Fatalf("look %d: %q", i, next(start.Add(at)))
		}
	}
	if next(start.Add(24*time.Hour)) != rotation.Purge {
		t.Fatalf("after the last look: %q", next(start.Add(24*time.Hour)))
	}
}

func TestWhatIsMadeLateIsRetired(t *testing.T) {
	r := requested(rotation.CauseOrphan)
	r.FoundNothing(start)
	r.Revoked(start.Add(time.Hour))
	if r.NeverMade || r.State == rotation.ProvenDead || r.AcknowledgedAt.IsZero() {
		t.Fatalf("found late: %s, never made %v", r.State, r.NeverMade)
	}
}

func TestWhatIsUnprovableAndWorksAfterAllIsAlive(t *testing.T) {
	r := requested(rotation.CauseRotated)
	for range 3 {
		r.ProbedBefore(rotation.Rejected, rotation.ControlCurrent, "", start)
	}
	r.Revoked(start)
	if r.State != rotation.Unprovable || r.MayLive() {
		t.Fatalf("%s, may live %v", r.State, r.MayLive())
	}
	r.RoundMade(rotation.Accepted, rotation.ControlNone, "", start)
	if r.State != rotation.Acknowledged || r.AlreadyRejected || !r.MayLive() {
		t.Fatalf("%s, already rejected %v", r.State, r.AlreadyRejected)
	}
}

func TestAlreadyRejectedIsNoProof(t *testing.T) {
	r := requested(rotation.CauseRotated)
	for range 3 {
		r.ProbedBefore(rotation.Rejected, rotation.ControlCurrent, "", start)
	}
	r.Revoked(start)
	for i := range 10 {
		r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", start.Add(time.Duration(i)*time.Hour))
	}
	if r.State != rotation.Unprovable || !r.AlreadyRejected || r.Settled() {
		t.Fatalf("%s settled %v", r.State, r.Settled())
	}
}

func TestUnconfirmedGoesOnAndCanStillBeProven(t *testing.T) {
	r := requested(rotation.CauseRotated)
	r.Revoked(start)
	now := start
	for r.State != rotation.Unconfirmed {
		if now.Sub(start) > time.Hour {
			t.Fatal("still accepted an hour after a budget of ten minutes, and not unconfirmed")
		}
		r.RoundMade(rotation.Accepted, rotation.ControlCurrent, "", now)
		now = r.NextAt
	}
	for range 3 {
		r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", now)
		now = r.NextAt
	}
	if r.State != rotation.ProvenDead {
		t.Fatalf("state %s", r.State)
	}
}

func TestRecheckResurrectsAndRevokesAgain(t *testing.T) {
	r := requested(rotation.CauseRotated)
	r.Revoked(start)
	for i := range 3 {
		r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", start.Add(time.Duration(i)*5*time.Minute))
	}
	due := r.ProvenAt.Add(time.Hour)
	if a := r.Next(rotation.RetirementFacts{}, me, due.Add(-time.Second)); a.Effect != rotation.NoEffect {
		t.Fatalf("too early: %q", a.Effect)
	}
	if a := r.Next(rotation.RetirementFacts{}, me, due); a.Effect != rotation.RecheckRound {
		t.Fatalf("due: %q", a.Effect)
	}
	r.Rechecked(rotation.Accepted, rotation.ControlNone, "", due)
	if r.State != rotation.Resurrected || r.Settled() || r.Next(rotation.RetirementFacts{}, me, due).Effect != rotation.Revoke {
		t.Fatalf("%s settled %v next %q", r.State, r.Settled(), r.Next(rotation.RetirementFacts{}, me, due).Effect)
	}
}

func TestWhatWasSeenToWorkIsNotExplainedAway(t *testing.T) {
	r := requested(rotation.CauseRotated)
	r.ProbedBefore(rotation.Accepted, rotation.ControlCurrent, "", start)
	if r.FoundNothing(start) || r.NeverMade {
		t.Fatal("it worked, so it was made")
	}
}

// What waited for the end of an overlap is tried before it is revoked like
// everything else.
func TestTryBeforeRevokingWhatWaited(t *testing.T) {
	r := requested(rotation.CauseRotated)
	r.DueAt = start.Add(48 * time.Hour)
	r.NextAt = r.DueAt
	if e := r.Next(rotation.RetirementFacts{}, me, r.DueAt).Effect; e != rotation.ProbeBefore {
		t.Fatalf("due: %q", e)
	}
}

func TestEscalationKeepsTheTimeForAReplacement(t *testing.T) {
	r := requested(rotation.CauseRotated)
	r.NextAt = start.Add(time.Hour)
	r.Escalate(start.Add(time.Minute), start)
	if !r.NextAt.Equal(start.Add(time.Minute)) || r.WaitingFor != rotation.WaitReplacement {
		t.Fatalf("next at %s, waiting for %q", r.NextAt, r.WaitingFor)
	}
	r.Revoked(start)
	r.Escalate(start.Add(time.Minute), start.Add(time.Second))
	if !r.NextAt.Equal(start.Add(time.Second)) {
		t.Fatalf("what has begun waits until %s", r.NextAt)
	}
}
