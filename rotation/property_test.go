package rotation_test

import (
	"cmp"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/rotation"
)

// TestMain gives rapid its defaults: enough checks, and the same ones each time,
// unless others or another seed are asked for.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"rapid.checks":     cmp.Or(os.Getenv("KEYBROKER_PROPERTY_CHECKS"), "1000"),
		"rapid.seed":       cmp.Or(os.Getenv("KEYBROKER_SIMULATION_SEED"), "1"),
		"rapid.steps":      "50",
		"rapid.nofailfile": "true",
	} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// roundTrip tells what a record looks like after it was stored and read.
func roundTrip[T any](t *rapid.T, record T) {
	t.Helper()
	text, err := json.Marshal(record)
	if err != nil {
		t.Fatalf("storing: %v", err)
	}
	var back T
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatalf("reading: %v", err)
	}
	if !reflect.DeepEqual(record, back) {
		t.Fatalf("stored and read it is another record:\n%s\n%+v\n%+v", text, record, back)
	}
}

const lease = 90 * time.Second

var (
	owners   = rapid.SampledFrom([]string{me, "node/2"})
	verdicts = rapid.SampledFrom([]rotation.Verdict{rotation.Accepted, rotation.Rejected, rotation.Rejected, rotation.Inconclusive})
	controls = rapid.SampledFrom([]rotation.Control{rotation.ControlNone, rotation.ControlCurrent, rotation.ControlCurrent, rotation.ControlCanary, rotation.ControlBefore})
	whiles   = rapid.SampledFrom([]time.Duration{0, 1, time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 26 * time.Hour, 8 * 24 * time.Hour})
)

// dying is a retirement at which anything happens, in any order.
type dying struct {
	r      rotation.Retirement
	now    time.Time
	frozen bool
	worked time.Time // when a try was accepted last
	skewed bool      // the clock was set back: times are not to be compared
}

func drawDying(t *rapid.T) *dying {
	due := rapid.SampledFrom([]time.Duration{0, time.Minute, time.Hour}).Draw(t, "due")
	d := &dying{now: start}
	d.r = rotation.Retirement{ID: "t", SecretID: "s", Version: 1, State: rotation.Requested,
		Cause: rapid.SampledFrom([]rotation.Cause{rotation.CauseRotated, rotation.CauseEmergency, rotation.CauseRevoked,
			rotation.CauseFailed, rotation.CauseOrphan, rotation.CauseRolledBack}).Draw(t, "cause"),
		HasProbe: rapid.IntRange(0, 3).Draw(t, "probe") > 0,
		Confirm: rotation.Confirm{None: rapid.IntRange(0, 4).Draw(t, "none") == 0,
			Rejections: rapid.IntRange(1, 4).Draw(t, "rejections"),
			Window:     whiles.Filter(func(d time.Duration) bool { return d < 2*time.Hour }).Draw(t, "window"),
			Budget:     whiles.Filter(func(d time.Duration) bool { return d < 2*time.Hour }).Draw(t, "budget"),
			Recheck:    rapid.SampledFrom([][]time.Duration{nil, {time.Hour}, rechecks}).Draw(t, "recheck")},
		RequestedAt: start, DueAt: start.Add(due), NextAt: start.Add(due)}
	if due > 0 {
		d.r.WaitingFor = rapid.SampledFrom([]string{rotation.WaitOverlap, rotation.WaitReplacement}).Draw(t, "waiting")
	}
	return d
}

// step lets an owner look, and do what is due; outcomes come as drawn.
func (d *dying) step(t *rapid.T, owner string) {
	a := d.r.Next(rotation.RetirementFacts{Frozen: d.frozen}, owner, d.now)
	if a.Effect == rotation.NoEffect {
		if !d.r.Intent.Held(owner, d.now) && d.r.PurgedAt.IsZero() {
			d.r.Wait(a)
		}
		return
	}
	if a.Effect == rotation.Revoke && rapid.IntRange(0, 7).Draw(t, "held up") == 0 {
		d.r.HeldUp(rotation.WaitBackend, "the vault is down", d.now)
		return
	}
	d.r.Begin(a.Effect, owner, lease, d.now)
	d.check(t)
	if rapid.IntRange(0, 7).Draw(t, "crash") == 0 {
		return
	}
	d.now = d.now.Add(rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Minute}).Draw(t, "takes"))
	d.outcome(t, a.Effect)
}

func (d *dying) outcome(t *rapid.T, e rotation.Effect) {
	switch e {
	case rotation.Revoke:
		switch rapid.IntRange(0, 5).Draw(t, "revocation") {
		case 0:
			d.r.RevokeFailed("timeout", true, d.now)
		case 1:
			d.r.CannotRevoke("no handle", d.now)
		case 2:
			switch known := !d.r.AcknowledgedAt.IsZero() || !d.worked.IsZero(); {
			case !d.r.FoundNothing(d.now):
				d.r.RevokeFailed("nothing found", false, d.now)
			case known:
				t.Fatal("what was seen to be there is taken for never made")
			}
		default:
			d.r.Revoked(d.now)
		}
		return
	case rotation.Purge:
		d.purge(t)
		return
	}
	if !d.r.HasProbe {
		t.Fatalf("%s without a probe", e)
	}
	if rapid.IntRange(0, 9).Draw(t, "lockout") == 0 {
		d.r.PutOff(d.now.Add(time.Hour))
		return
	}
	v, c := verdicts.Draw(t, "verdict"), controls.Draw(t, "control")
	if v != rotation.Rejected {
		c = rotation.ControlNone // as Judge has it
	}
	if v == rotation.Accepted {
		d.worked = d.now
	}
	d.r.Tried(1, d.now)
	if v == rotation.Accepted {
		d.r.Forgiven()
	}
	switch e {
	case rotation.ProbeBefore:
		if d.r.Emergency() {
			t.Fatal("an emergency waits for a try")
		}
		d.r.ProbedBefore(v, c, "", d.now)
	case rotation.RecheckRound:
		d.r.Rechecked(v, c, "", d.now)
	case rotation.DeathRound:
		if rapid.IntRange(0, 9).Draw(t, "another address") == 0 {
			d.r.Restart()
		}
		d.r.RoundMade(v, c, "", d.now)
	}
}

func (d *dying) purge(t *rapid.T) {
	r := &d.r
	over := r.Rechecks >= len(r.Confirm.Recheck)
	if !over {
		due := r.Confirm.Recheck[r.Rechecks]
		over = d.now.Sub(r.ProvenAt) > due+7*24*time.Hour || r.NeverMade && d.now.Sub(r.NothingAt) > due+7*24*time.Hour
	}
	switch {
	case r.State == rotation.ProvenDead && over, r.NeverMade && over, r.State == rotation.Unprovable, r.Confirm.None && !r.HasProbe:
	default:
		t.Fatalf("the sealed copy is purged in state %s after %d re-checks", r.State, r.Rechecks)
	}
	r.Purged(d.now)
}

// check holds the record against what must be true of it at any time.
func (d *dying) check(t *rapid.T) {
	t.Helper()
	r := &d.r
	roundTrip(t, *r)
	for _, frozen := range []bool{false, true} {
		for _, owner := range []string{me, "node/2"} {
			a := r.Next(rotation.RetirementFacts{Frozen: frozen}, owner, d.now)
			switch {
			case !r.PurgedAt.IsZero():
				if a != (rotation.Action{}) {
					t.Fatalf("something is due after the end: %+v", a)
				}
			case a.Effect == rotation.NoEffect && !a.Until.After(d.now):
				t.Fatalf("in %s nothing is due, and nothing ever will be: %+v", r.State, a)
			case frozen && a.Effect == rotation.Revoke && !r.Emergency() && r.Cause != rotation.CauseRevoked && !r.Hastened && r.RevokeBegunAt.IsZero():
				t.Fatal("a revocation begins although everything is frozen")
			case a.Effect == rotation.Revoke && r.State == rotation.ProvenDead:
				t.Fatal("what is dead is revoked again")
			}
		}
	}
	if r.State == rotation.ProvenDead {
		d.checkProof(t)
	}
	if r.Settled() && r.State != rotation.ProvenDead && !r.NeverMade && (!r.Confirm.None || r.AcknowledgedAt.IsZero()) {
		t.Fatalf("settled in %s without a proof", r.State)
	}
	if r.State != rotation.Requested && r.State != rotation.Unprovable && !r.NeverMade && r.AcknowledgedAt.IsZero() &&
		r.AskAgainAt.IsZero() && !r.ByHand { // those that their issuer refuses to revoke are watched all the same
		t.Fatalf("%s without an acknowledgement", r.State)
	}
	if r.Intent != nil && r.Intent.Effect == rotation.Revoke && r.RevokeBegunAt.IsZero() {
		t.Fatal("it is being revoked, and still given to readers")
	}
}

func (d *dying) checkProof(t *rapid.T) {
	t.Helper()
	r := &d.r
	switch {
	case r.Rejections < r.Confirm.Rejections || r.LastAt.Sub(r.FirstAt) < r.Confirm.Window:
		t.Fatalf("proven by %d rejections over %s", r.Rejections, r.LastAt.Sub(r.FirstAt))
	case r.Control == rotation.ControlNone || r.AlreadyRejected || !r.HasProbe || r.NeverMade:
		t.Fatalf("a proof without ground: control %q, already rejected %v", r.Control, r.AlreadyRejected)
	case r.ContainedAt.IsZero():
		t.Fatal("proven, and not contained")
	case d.skewed:
	case r.FirstAt.Before(r.AcknowledgedAt):
		t.Fatal("the series begins before the acknowledgement")
	case !d.worked.Before(r.ProvenAt) && d.worked.After(r.FirstAt):
		t.Fatal("it was accepted meanwhile")
	}
}

// finish lets everything go well from here on, and expects an end.
func (d *dying) finish(t *rapid.T) {
	d.frozen = false
	end := d.now.Add(40 * 24 * time.Hour)
	for steps := 0; d.r.PurgedAt.IsZero(); steps++ {
		if d.now.After(end) || steps > 300 {
			t.Fatalf("after %d more steps and all going well it is %s since %s: %+v", steps, d.r.State, end.Add(-40*24*time.Hour), d.r)
		}
		a := d.r.Next(rotation.RetirementFacts{}, "node/3", d.now)
		if a.Effect == rotation.NoEffect {
			d.now = a.Until
			continue
		}
		d.r.Begin(a.Effect, "node/3", lease, d.now)
		switch a.Effect {
		case rotation.ProbeBefore:
			d.worked = d.now
			d.r.ProbedBefore(rotation.Accepted, rotation.ControlNone, "", d.now)
		case rotation.Revoke:
			d.r.Revoked(d.now)
		case rotation.DeathRound:
			d.r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", d.now)
		case rotation.RecheckRound:
			d.r.Rechecked(rotation.Rejected, rotation.ControlCurrent, "", d.now)
		case rotation.Purge:
			d.purge(t)
		}
		d.check(t)
	}
	if r := d.r; !r.Settled() && r.State != rotation.Unprovable {
		t.Fatalf("the end is %s", r.State)
	}
}

// Any order of looks by two owners, crashes, verdicts, answers, freezes, emergencies
// and operators leaves a retirement in a state from which it goes on, and nothing
// but the full series proves a death.
func TestRetirementWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDying(t)
		wait := func() { d.now = d.now.Add(whiles.Draw(t, "while")) }
		look := func(t *rapid.T) { d.step(t, owners.Draw(t, "owner")) }
		asked := func(_ []string, err error) {
			if err != nil && len(err.Error()) == 0 {
				t.Fatal("refused without a reason")
			}
		}
		was := d.r.State
		t.Repeat(map[string]func(*rapid.T){
			"look": look, "look again": look,
			"on time": func(t *rapid.T) {
				if d.r.NextAt.After(d.now) {
					d.now = d.r.NextAt
				}
				look(t)
			},
			"wait":       func(*rapid.T) { wait() },
			"clock back": func(*rapid.T) { d.now, d.skewed = d.now.Add(-time.Minute), true },
			"freeze":     func(*rapid.T) { d.frozen = !d.frozen },
			"emergency": func(t *rapid.T) {
				if d.r.MayLive() {
					d.r.Escalate(d.now.Add(whiles.Draw(t, "contain by")), d.now)
				}
			},
			"revoke now": func(*rapid.T) { d.r.Hasten(d.now) },
			"turned off": func(*rapid.T) { d.r.TurnedOff(d.now) },
			"probe now":  func(*rapid.T) { asked(d.r.ProbeNow(d.now)) },
			"retry":      func(*rapid.T) { asked(d.r.Retry(d.now)) },
			"late mint": func(t *rapid.T) {
				if d.r.NeverMade {
					d.r.Reopen(rapid.Bool().Draw(t, "probe"), d.now)
					was, d.worked = rotation.Requested, time.Time{}
				}
			},
			"": func(t *rapid.T) {
				d.check(t)
				now := d.r.State
				if was == rotation.ProvenDead && now != was && now != rotation.Resurrected {
					t.Fatalf("a proof was lost: %s", now)
				}
				if was == rotation.Resurrected && !slices.Contains([]rotation.RetirementState{was, rotation.Acknowledged, rotation.Unprovable}, now) {
					t.Fatalf("resurrected, and now %s", now)
				}
				was = now
			},
		})
		d.finish(t)
	})
}
