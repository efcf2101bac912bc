package rotation_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

const me = "node/1"

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func plan() rotation.Plan {
	return rotation.Plan{
		Overlap: time.Hour, MaxOverlap: 2 * time.Hour,
		Verify:    rotation.Verify{Successes: 2, Interval: time.Second, Timeout: time.Minute},
		Confirm:   rotation.Confirm{Rejections: 3, Window: 10 * time.Minute, Budget: 10 * time.Minute, Recheck: []time.Duration{time.Hour}},
		Emergency: rotation.Emergency{ReplaceWithin: time.Minute},
	}
}

func queued(from int) *rotation.Rotation {
	return &rotation.Rotation{ID: "r", Trigger: rotation.TriggerManual, Plan: plan(), State: rotation.Queued, From: from,
		CreatedAt: start, StepSince: start, NextAt: start}
}

func wantEffect(t *testing.T, r *rotation.Rotation, f rotation.Facts, now time.Time, want rotation.Effect) {
	t.Helper()
	if got := r.Next(f, me, now); got.Effect != want {
		t.Fatalf("in %s at +%s: effect %q, want %q", r.State, now.Sub(start), got.Effect, want)
	}
}

// published takes a rotation along the straight path to its overlap.
func published(t *testing.T, from int) *rotation.Rotation {
	t.Helper()
	r, now := queued(from), start
	for _, step := range []struct {
		effect rotation.Effect
		after  func()
	}{
		{rotation.Mint, func() { r.Minted(now) }},
		{rotation.Stage, func() { r.Staged(now) }},
		{rotation.VerifyTry, func() { r.Verified(rotation.Accepted, "", now); now = now.Add(time.Second) }},
		{rotation.VerifyTry, func() { r.Verified(rotation.Accepted, "", now) }},
		{rotation.Publish, func() { r.Published(false, now) }},
	} {
		wantEffect(t, r, rotation.Facts{}, now, step.effect)
		r.Begin(step.effect, 2, me, time.Minute, now)
		step.after()
	}
	return r
}

func TestStraightPathEndsOnlyWithTheProof(t *testing.T) {
	r := published(t, 1)
	if r.State != rotation.Overlap || !r.OverlapUntil.Equal(r.PublishedAt.Add(time.Hour)) {
		t.Fatalf("after publishing: %s until %s", r.State, r.OverlapUntil)
	}
	wantEffect(t, r, rotation.Facts{}, r.OverlapUntil.Add(-time.Nanosecond), rotation.NoEffect)
	wantEffect(t, r, rotation.Facts{}, r.OverlapUntil, rotation.BeginRetire)
	now := r.OverlapUntil
	r.RetireBegun(now)
	for _, s := range []rotation.RetirementState{rotation.Requested, rotation.Acknowledged, rotation.Rejecting, rotation.Unconfirmed, rotation.Resurrected, rotation.Unprovable} {
		wantEffect(t, r, rotation.Facts{Retirements: []rotation.Retirement{{Version: 1, State: s}}}, now.Add(999*time.Hour), rotation.NoEffect)
	}
	wantEffect(t, r, rotation.Facts{Retirements: []rotation.Retirement{{Version: 2, State: rotation.ProvenDead}}}, now, rotation.NoEffect)
	wantEffect(t, r, rotation.Facts{Retirements: []rotation.Retirement{{Version: 1, State: rotation.ProvenDead}}}, now, rotation.Finish)
}

func TestFirstRotationHasNothingToRetire(t *testing.T) {
	if r := published(t, 0); r.State != rotation.Done {
		t.Fatalf("state %s, want done", r.State)
	}
}

func TestOccupiesUntilRetiring(t *testing.T) {
	for s, want := range map[rotation.State]bool{rotation.Queued: true, rotation.Overlap: true, rotation.Retiring: false, rotation.Done: false, rotation.Failed: false} {
		if s.Occupies() != want {
			t.Errorf("%s occupies: %v, want %v", s, !want, want)
		}
	}
}

func TestAcknowledgementHoldsTheOverlapAtMostToItsMaximum(t *testing.T) {
	r := published(t, 1)
	r.Plan.Acknowledgement = rotation.Acknowledgement{Require: rotation.RequireApplied, Timeout: 90 * time.Minute, Hold: false}
	missing := rotation.Facts{MissingAcks: 1}
	at := func(d time.Duration) time.Time { return r.PublishedAt.Add(d) }
	wantEffect(t, r, missing, at(time.Hour), rotation.NoEffect)
	wantEffect(t, r, rotation.Facts{}, at(time.Hour), rotation.BeginRetire)
	wantEffect(t, r, missing, at(90*time.Minute), rotation.BeginRetire)
	r.Plan.Acknowledgement.Hold = true
	wantEffect(t, r, missing, at(90*time.Minute), rotation.NoEffect)
	wantEffect(t, r, missing, at(2*time.Hour), rotation.BeginRetire)
}

func TestAmbiguousMintIsRecoveredNotRepeated(t *testing.T) {
	r := queued(1)
	r.Begin(rotation.Mint, 2, "node/dead", time.Minute, start)
	wantEffect(t, r, rotation.Facts{}, start.Add(59*time.Second), rotation.NoEffect)
	wantEffect(t, r, rotation.Facts{}, start.Add(time.Minute), rotation.RecoverMint)
	r = queued(1)
	r.Begin(rotation.Mint, 2, me, time.Minute, start)
	r.Unheard(rotation.WaitIssuer, "timeout", start)
	wantEffect(t, r, rotation.Facts{}, r.NextAt, rotation.RecoverMint)
}

func TestMintsAreBounded(t *testing.T) {
	r, now := queued(1), start
	for n := range rotation.MaxMints {
		r.Begin(rotation.Mint, 2+n, me, time.Minute, now)
		r.MintLost("refused", true, now)
		now = now.Add(time.Hour)
	}
	if r.State != rotation.Failed || r.Attempt != rotation.MaxMints {
		t.Fatalf("after %d mints: %s", r.Attempt, r.State)
	}
}

func TestPublishingIsNeverGivenUpUnheard(t *testing.T) {
	r := queued(1)
	r.Begin(rotation.Publish, 2, me, time.Minute, start)
	r.Unheard(rotation.WaitBackend, "timeout", start.Add(1000*time.Hour))
	if r.State != rotation.Publishing {
		t.Fatalf("state %s: the vault may hold the new version", r.State)
	}
}

func TestVerifyingFailsAfterItsTimeout(t *testing.T) {
	r := queued(1)
	r.Staged(start)
	r.Verified(rotation.Accepted, "", start)
	r.Verified(rotation.Inconclusive, "", start)
	if r.Successes != 0 {
		t.Fatal("successes must be in a row")
	}
	r.Verified(rotation.Rejected, "status 401", start.Add(time.Minute))
	if r.State != rotation.Failed {
		t.Fatalf("state %s", r.State)
	}
}
