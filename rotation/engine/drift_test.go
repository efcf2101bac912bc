package engine_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// A handle that names the live current credential is taken for an imported one.
func TestHandleOfTheCurrentOneIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.stranger(w.vault, true)
		e, ctx := w.nodes[0].engine, context.Background()
		if _, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone}); err != nil {
			t.Fatal(err)
		}
		w.rotate(t)
		w.advance(3 * time.Hour)
		cur, _ := w.version(w.secret().Current)
		err := w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			return e.GiveHandle(ctx, tx, secretID, 1, cur.Handle, someone)
		})
		w.advance(time.Hour)
		r1, _ := w.retirementOf(1)
		t.Logf("current %d %+v, give: %v, retirement %s %q %s", cur.Number, cur.Handle, err, r1.State, r1.WaitingFor, r1.Error)
		if !w.alive(cur.Number) {
			t.Errorf("the current version %d was revoked (GiveHandle: %v)", cur.Number, err)
		}
	})
}

// An emergency leaves the older imported versions alone.
func TestEmergencyTakesInImportedVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		older := &credential{issuer: "finding", id: "older", tag: "older", value: "older", createdAt: time.Now(), slow: make([]time.Duration, serverCount), early: make([]time.Duration, serverCount)}
		w.issuers["finding"].made = append(w.issuers["finding"].made, older)
		w.vault.add(backends.NewValue(map[string]string{valueField: "older"}), "x")
		w.stranger(w.vault, true)
		e, ctx := w.nodes[0].engine, context.Background()
		if _, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone, Handles: map[backends.VersionID]issuer.Handle{"": {"id": "theirs"}, "1": {"id": "older"}}}); err != nil {
			t.Fatal(err)
		}
		named := w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone, Versions: []int{1}})
			if err == nil {
				return errors.New("dry")
			}
			return err
		})
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone})
			return err
		})
		w.advance(48 * time.Hour)
		_, has := w.retirementOf(1)
		if older.revokedAt.IsZero() {
			t.Errorf("the older imported credential lives on after an emergency for everything (retirement: %t); by name: %v; rotation %s", has, named, w.rotationNumber(0).State)
		}
	})
}

// Import makes a dead version of ours current.
func TestImportRevivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), 0)
		p.refuses = everything
		w.rotate(t)
		w.advance(3 * time.Hour)
		p.refuses = nil
		v, _ := w.version(1)
		if w.secret().Current != 0 || w.alive(1) {
			t.Fatalf("%+v", v)
		}
		w.writeBehind(backends.NewValue(map[string]string{valueField: w.credentialOf(v.Tag).value}))
		got, err := w.nodes[0].engine.Import(context.Background(), secretID, engine.ImportRequest{Asked: someone})
		if err == nil {
			r, _ := w.retirementOf(1)
			t.Errorf("version 1, which is %s (%s), is current again as version %d: %+v", v.Stage, r.State, w.secret().Current, got)
		}
	})
}

// The detail of a finding grows with each comparison.
func TestDriftDetailDoesNotGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftAdopt)
		w.rotate(t)
		w.advance(time.Minute)
		w.stranger(w.mirror, true)
		w.down["probe"] = true
		w.check(t)
		first := len(w.placement("mirror").Drift.Detail)
		for range 20 {
			w.check(t)
		}
		if now := len(w.placement("mirror").Drift.Detail); now > first {
			t.Errorf("%d bytes, then %d", first, now)
		}
	})
}

// After a rollback a mirror that is down serves what is revoked.
func TestRolledBackVersionWaitsForMirrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := calmPlan()
		plan.MaxOverlap, plan.WaitForMirrors = 50*time.Hour, true
		w := mirrored(plan, rotation.DriftReport)
		w.rotateTwice(t)
		if w.holds(w.mirror) != 2 {
			t.Fatal(w.holds(w.mirror))
		}
		w.down["mirror"] = true
		w.rollBack(t)
		w.advance(5 * time.Hour)
		if !w.alive(2) && w.holds(w.mirror) == 2 {
			t.Errorf("version 2 was revoked while the mirror serves it; %s", w.rotationNumber(1).State)
		}
	})
}

// An emergency's replacement is written over a stranger's value where the secret's
// rule or a person says so, and nowhere else.
func TestEmergencyOverAStrangersValue(t *testing.T) {
	for name, c := range map[string]struct {
		rule      rotation.DriftRule
		overwrite bool
		replaced  bool
	}{
		"report": {rotation.DriftReport, false, false}, "restore": {rotation.DriftRestore, false, true}, "a person": {rotation.DriftReport, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := mirrored(calmPlan(), c.rule)
				w.rotate(t)
				w.advance(time.Minute)
				w.stranger(w.vault, false)
				w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
					_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone, Overwrite: c.overwrite})
					return err
				})
				w.advance(2 * time.Hour)
				if replaced := w.secret().Current != 1 && w.holds(w.vault) == w.secret().Current; replaced != c.replaced || w.alive(1) {
					t.Errorf("replaced: %t, the compromised one lives: %t, %s", replaced, w.alive(1), w.rotationNumber(1).Error)
				}
			})
		})
	}
}

// restore writes a current version that does not work over one that does.
func TestRestoreTriesBeforeItOverwrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftRestore)
		w.rotate(t)
		w.advance(time.Minute)
		v, _ := w.version(1)
		w.credentialOf(v.Tag).revokedAt = time.Now() // as after lost commits: version 2 replaced it, and the store has forgotten both
		theirs := w.stranger(w.vault, true)
		w.check(t)
		if w.vault.values[w.vault.current-1].Reveal()[valueField] != theirs {
			t.Errorf("a dead version was written over one that works: vault holds version %d, alive %t", w.holds(w.vault), w.alive(1))
		}
	})
}

// A rotation that decides to wait for a mirror just as that catches up.
func TestMirrorThatCatchesUpMeanwhileIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := calmPlan()
		plan.MaxOverlap, plan.WaitForMirrors = 50*time.Hour, true
		w := mirrored(plan, rotation.DriftReport)
		w.down["mirror"] = true
		w.rotateTwice(t)
		w.pass(time.Hour) // the overlap is over
		w.stepRotation(t, 1, event{"viewed", func() {
			delete(w.down, "mirror")
			e, id := w.nodes[1].engine, w.placement("mirror").ID
			for range 5 {
				if _, err := e.StepPlacement(context.Background(), id); err != nil {
					t.Log(err)
				}
			}
			t.Logf("mirror %s", func() rotation.PlacementState { p := w.placement("mirror"); return p.State() }())
		}})
		w.advance(10 * time.Hour)
		if r := w.rotationNumber(1); r.State == rotation.Overlap || w.alive(1) {
			p := w.placement("mirror")
			t.Errorf("ten hours after the mirror caught up (%s) the rotation is %s, waiting for %q until %s", p.State(), r.State, r.WaitingFor, time.Until(r.NextAt))
		}
	})
}

// A freeze does not hold placements whose version an emergency brought long ago.
func TestFreezeHoldsWhatAnEmergencyOnceBrought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftRestore)
		w.rotate(t)
		w.advance(time.Minute)
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone})
			return err
		})
		w.advance(30 * 24 * time.Hour)
		w.freeze(t)
		theirs := w.stranger(w.vault, true)
		w.check(t)
		if w.vault.values[w.vault.current-1].Reveal()[valueField] != theirs {
			t.Error("frozen, a stranger's value was overwritten by the rule, since an emergency a month ago brought the current version")
		}
	})
}

// A proposal for a mirror blocks the secret's rotations, also when what it was for is gone.
func TestProposalGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftAdopt)
		w.rotate(t)
		w.advance(time.Minute)
		w.stranger(w.mirror, true)
		w.check(t)
		w.mirror.current = 1 // undone
		w.check(t)
		p := w.placement("mirror")
		err := w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Rotate(ctx, tx, secretID, rotation.TriggerSchedule, someone)
			return err
		})
		if err != nil {
			t.Errorf("the mirror is %s; the next rotation: %v", p.State(), err)
		}
	})
}

// A stranger's value in the vault keeps an old version alive.
func TestDriftKeepsNoOldVersionAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftReport)
		w.rotateTwice(t)
		w.stranger(w.vault, true)
		w.advance(96 * time.Hour)
		r, _ := w.retirementOf(1)
		if w.alive(1) {
			t.Errorf("version 1 is alive four days after its overlap of an hour: %s, waits for %q: %s", r.State, r.WaitingFor, r.Error)
		}
	})
}

// A value that is written again and again is tried each time, whatever the account bears.
func TestStrangersValuesLockNoAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), 3)
		s := w.secret()
		s.Definition.OnDrift = rotation.DriftAdopt
		w.store.state.secrets.put(s.ID, s)
		w.rotate(t)
		w.advance(time.Minute)
		for range 6 {
			w.stranger(w.vault, false)
			w.check(t)
		}
		if n := p.inARow(); n >= 3 {
			t.Errorf("%d rejected tries of one value in a row, and the account locks at 3", n)
		}
	})
}

// What was minted in vain is not revoked while the vault holds a stranger's value, nor what somebody names.
func TestDriftKeepsNoRevokedVersionAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftReport)
		w.rotateTwice(t)
		w.stranger(w.vault, true)
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Revoke(ctx, tx, secretID, 1, someone)
			return err
		})
		w.advance(96 * time.Hour)
		if w.alive(1) {
			r, _ := w.retirementOf(1)
			t.Errorf("version 1, which somebody revoked by name, is alive four days later: %s, waits for %q", r.State, r.WaitingFor)
		}
	})
}

// The broker takes out of a vault what it did not put there.
func TestWhatIsAStrangersIsNotTakenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := calmPlan()
		w := mirrored(plan, rotation.DriftReport)
		w.rotateTwice(t)
		// somebody empties the mirror and fills it anew: three versions of theirs
		w.mirror.values, w.mirror.tokens, w.mirror.made = nil, nil, nil
		for range 3 {
			w.stranger(w.mirror, true)
			w.pass(time.Second)
		}
		w.check(t)
		w.advance(10 * time.Hour)
		if w.mirror.gone["1"] {
			p := w.placement("mirror")
			t.Errorf("a stranger's version 1 was destroyed: %+v", p.Drift)
		}
	})
}

// A mirror that is taken out of the configuration is waited for all the same.
func TestMirrorTakenOutIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := calmPlan()
		plan.MaxOverlap, plan.WaitForMirrors = 50*time.Hour, true
		w := mirrored(plan, rotation.DriftReport)
		w.down["mirror"] = true
		w.rotateTwice(t)
		w.advance(2 * time.Hour)
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			s, err := tx.Secret(ctx, secretID)
			if err != nil {
				return err
			}
			s.Definition.Mirrors = nil
			if err := tx.SaveSecret(ctx, &s); err != nil {
				return err
			}
			return e.Place(ctx, tx, &s, time.Now())
		})
		w.advance(10 * time.Hour)
		if r := w.rotationNumber(1); r.State == rotation.Overlap {
			t.Errorf("ten hours after the mirror was taken out of the configuration the rotation waits for %q until %s from now", r.WaitingFor, time.Until(r.NextAt))
		}
	})
}

// Import dry run and handles.
func TestImportOfOneValueTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		for range 2 {
			w.stranger(w.vault, true) // the same value written twice
		}
		e, ctx := w.nodes[0].engine, context.Background()
		got, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone, DryRun: true, Handles: map[backends.VersionID]issuer.Handle{"1": {"id": "theirs"}}})
		if !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("a handle for the older of two versions with one value: %+v, %v", got, err)
		}
		got, err = e.Import(ctx, secretID, engine.ImportRequest{Asked: someone})
		if err != nil || len(got) != 1 || got[0].ID != "2" {
			t.Errorf("imported %+v, %v", got, err)
		}
	})
}

// An adoption that fails leaves the value a stranger's: it is overwritten by nobody,
// and can be adopted once its probe answers again.
func TestFailedAdoptionLeavesAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftReport)
		w.rotate(t)
		w.advance(time.Minute)
		theirs := w.stranger(w.vault, true)
		w.check(t)
		adopt := func() (id string) {
			w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				r, _, err := e.Adopt(ctx, tx, secretID, engine.AdoptRequest{Asked: someone})
				if err != nil {
					return err
				}
				id = r.ID
				_, _, err = e.Approve(ctx, tx, id, engine.Asked{By: "another"})
				return err
			})
			return id
		}
		w.down["probe"] = true
		id := adopt()
		w.advance(time.Hour)
		delete(w.down, "probe")
		if r := w.store.state.rotations.rows[id]; r.State != rotation.Failed {
			t.Fatalf("without a probe the adoption is %s", r.State)
		}
		w.rotate(t)
		w.advance(time.Hour)
		if got := w.vault.values[w.vault.current-1].Reveal()[valueField]; got != theirs {
			t.Error("the stranger's value was overwritten by a rotation")
		}
		w.check(t)
		if p := w.placement("vault"); p.Drift == nil || p.Drift.Kind != rotation.DriftChanged {
			t.Fatalf("drift: %+v", p.Drift)
		}
		id = adopt()
		w.advance(10 * time.Minute)
		if s := w.secret(); w.store.state.rotations.rows[id].PublishedAt.IsZero() || s.Current == 1 {
			t.Errorf("adopted anew: %s, version %d is current", w.store.state.rotations.rows[id].State, s.Current)
		}
	})
}
