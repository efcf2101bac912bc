package engine_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// mirrored is a calm world whose secret has a mirror.
func mirrored(plan rotation.Plan, rule rotation.DriftRule) *world {
	w, _ := calmWorld(plan, 0)
	s := w.secret()
	s.Definition.Mirrors, s.Definition.OnDrift = []string{"mirror"}, rule
	w.store.state.secrets.put(s.ID, s)
	return w
}

func (w *world) placement(backend string) rotation.Placement {
	for _, id := range w.store.state.placements.order {
		if p := w.store.state.placements.rows[id]; p.Backend == backend && p.Revision > 0 {
			return p
		}
	}
	return rotation.Placement{}
}

// stranger lets somebody else make a credential at the issuer and write it to a
// vault as the current version.
func (w *world) stranger(v *vault, works bool) (value string) {
	i := w.issuers["finding"]
	c := &credential{issuer: i.name, id: "theirs", tag: "theirs", value: "value-of-theirs", createdAt: time.Now(),
		slow: make([]time.Duration, serverCount), early: make([]time.Duration, serverCount)}
	if works {
		i.made = append(i.made, c)
	}
	v.add(backends.NewValue(map[string]string{valueField: c.value}), "theirs")
	v.current = len(v.values)
	return c.value
}

func (w *world) check(t *testing.T) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
		_, err := e.CheckDrift(ctx, tx, secretID)
		return err
	})
	w.advance(time.Minute)
}

// A mirror that is down holds no rotation up, and is brought straight to the newest
// version later: what was replaced meanwhile never gets there.
func TestMirrorCatchesUpStraightToTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftReport)
		w.down["mirror"] = true
		w.rotateTwice(t)
		w.advance(3 * time.Hour) // version 1 is revoked and proven dead meanwhile
		w.rotate(t)
		w.advance(time.Minute)
		if p := w.placement("mirror"); p.State() != rotation.Behind || p.Want != 3 || p.Error == "" {
			t.Fatalf("while the mirror is down: %+v", p)
		}
		delete(w.down, "mirror")
		w.advance(5 * time.Minute)
		w.verdict(t, func(wrong func(string, ...any)) {
			if held := w.holds(w.mirror); held != 3 || len(w.mirror.values) != 1 {
				wrong("the mirror holds version %d after %d writes", held, len(w.mirror.values))
			}
			if p := w.placement("mirror"); p.State() != rotation.InStep || p.Have != 3 || p.Error != "" {
				wrong("the mirror is %s: %+v", p.State(), p)
			}
		})
	})
}

// The old version is not revoked while a mirror is behind, where the plan says so,
// but never lives longer than the maximum overlap (rule 11).
func TestOverlapWaitsForMirrors(t *testing.T) {
	for name, waits := range map[string]bool{"waits": true, "does not wait": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plan := calmPlan()
				plan.MaxOverlap, plan.WaitForMirrors = 5*time.Hour, waits
				w := mirrored(plan, rotation.DriftReport)
				w.down["mirror"] = true
				w.rotateTwice(t)
				w.advance(2 * time.Hour)
				r := w.rotationNumber(1)
				if waits != (r.State == rotation.Overlap && r.WaitingFor == rotation.WaitMirror) {
					t.Fatalf("after the overlap the rotation is %s, waiting for %q", r.State, r.WaitingFor)
				}
				w.advance(4 * time.Hour)
				if w.alive(1) {
					t.Error("version 1 outlives the maximum overlap")
				}
			})
		})
	}
	t.Run("no longer than needed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			plan := calmPlan()
			plan.MaxOverlap, plan.WaitForMirrors = 50*time.Hour, true
			w := mirrored(plan, rotation.DriftReport)
			w.down["mirror"] = true
			w.rotateTwice(t)
			w.advance(2 * time.Hour)
			delete(w.down, "mirror")
			w.advance(5 * time.Minute)
			if r := w.rotationNumber(1); r.State == rotation.Overlap || w.alive(1) {
				t.Errorf("the mirror has caught up, and the rotation is %s", r.State)
			}
		})
	})
}

// What somebody else writes to a mirror is told of, and undone only where the
// secret says so.
func TestDriftIsHandledAsTheSecretSays(t *testing.T) {
	for rule, want := range map[rotation.DriftRule]struct {
		state rotation.PlacementState
		holds int
	}{
		rotation.DriftReport:  {rotation.Drifted, -1},
		rotation.DriftRestore: {rotation.InStep, 1},
		rotation.DriftAdopt:   {rotation.Drifted, -1}, // nobody has approved
	} {
		t.Run(string(rule), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := mirrored(calmPlan(), rule)
				w.rotate(t)
				w.advance(time.Minute)
				w.stranger(w.mirror, false)
				w.check(t)
				w.verdict(t, func(wrong func(string, ...any)) {
					if p := w.placement("mirror"); p.State() != want.state || w.holds(w.mirror) != want.holds {
						wrong("the mirror is %s and holds %d: %+v", p.State(), w.holds(w.mirror), p.Drift)
					}
				})
				if rule == rotation.DriftReport { // also a new version leaves it alone
					w.rotate(t)
					w.advance(time.Minute)
					if w.holds(w.mirror) != -1 || w.secret().Current != 2 {
						t.Errorf("version %d is current and the mirror holds %d", w.secret().Current, w.holds(w.mirror))
					}
				}
			})
		})
	}
}

// Ids count from 1 again in a vault that was emptied: a stranger's value under the
// id of ours is noticed all the same.
func TestDriftUnderTheSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftReport)
		w.rotate(t)
		w.advance(time.Minute)
		w.check(t)
		w.pass(time.Minute)
		w.mirror.values, w.mirror.tokens, w.mirror.made = nil, nil, nil
		w.stranger(w.mirror, false)
		w.check(t)
		if p := w.placement("mirror"); p.Drift == nil || p.Drift.Kind != rotation.DriftChanged {
			t.Errorf("drift: %+v", p.Drift)
		}
	})
}

// A compromised version is restored nowhere: while the current one is being turned
// off, drift is only told of.
func TestNothingCompromisedIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftRestore)
		w.rotate(t)
		w.advance(time.Minute)
		w.down["issuer finding"] = true // no replacement
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone})
			return err
		})
		w.stranger(w.mirror, false)
		w.check(t)
		if p := w.placement("mirror"); p.Drift == nil || w.holds(w.mirror) != -1 || len(w.mirror.values) != 2 {
			t.Errorf("the mirror holds %d after %d writes, drift %+v", w.holds(w.mirror), len(w.mirror.values), p.Drift)
		}
		delete(w.down, "issuer finding")
		w.advance(10 * time.Minute)
		if held := w.holds(w.mirror); held != w.secret().Current || held == 1 {
			t.Errorf("after the replacement the mirror holds %d", held)
		}
	})
}

// A stranger's value becomes the current version only if its probe accepts it and
// somebody else approves; what it replaces is retired, and nothing is minted.
func TestAdoption(t *testing.T) {
	for name, works := range map[string]bool{"of a value that works": true, "of one that does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := mirrored(calmPlan(), rotation.DriftAdopt)
				w.rotate(t)
				w.advance(time.Minute)
				minted := len(w.issuers["finding"].made)
				value := w.stranger(w.vault, works)
				w.check(t)
				p := w.placement("vault")
				if p.Drift == nil || (p.Drift.Verdict == rotation.Accepted) != works || (p.Drift.RotationID != "") != works {
					t.Fatalf("drift: %+v", p.Drift)
				}
				if !works {
					return
				}
				w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
					_, _, err := e.Approve(ctx, tx, p.Drift.RotationID, engine.Asked{By: "ops"})
					return err
				})
				w.advance(time.Minute)
				w.verdict(t, func(wrong func(string, ...any)) {
					s, writes := w.secret(), len(w.vault.values)
					if v, _ := w.version(s.Current); s.Current != 2 || !v.Foreign() || writes != 2 || s.Generation != 2 {
						wrong("version %d is current in generation %d after %d writes: %+v", s.Current, s.Generation, writes, v)
					}
					if got := w.mirror.values[w.mirror.current-1].Reveal()[valueField]; got != value {
						wrong("the mirror was not brought to the adopted value")
					}
					if p := w.placement("vault"); p.State() != rotation.InStep {
						wrong("the primary is %s: %+v", p.State(), p)
					}
					if n := len(w.issuers["finding"].made); n != minted+1 { // theirs
						wrong("%d credentials were minted", n-minted-1)
					}
				})
				w.advance(3 * time.Hour)
				if w.alive(1) {
					t.Error("what was replaced lives on")
				}
			})
		})
	}
}

// A proposal of the broker's own is nobody's to approve but a person's, and the one
// who asks for an adoption cannot approve it.
func TestWhoAsksForAnAdoptionDoesNotApproveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftReport)
		w.rotate(t)
		w.advance(time.Minute)
		w.stranger(w.vault, true)
		w.check(t)
		var id string
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			r, _, err := e.Adopt(ctx, tx, secretID, engine.AdoptRequest{Asked: someone})
			id = r.ID
			return err
		})
		err := w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, _, err := e.Approve(ctx, tx, id, someone)
			return err
		})
		if !errors.Is(err, backends.ErrDenied) {
			t.Errorf("approving one's own: %v", err)
		}
		w.advance(time.Hour)
		if s := w.secret(); s.Current != 1 || w.store.state.rotations.rows[id].State != rotation.Queued {
			t.Errorf("without an approval version %d is current", s.Current)
		}
	})
}

// The vaults keep a version in its overlap, lose it when it is contained, and its
// value when everything about it is over.
func TestVaultsAreRelievedOfDeadVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := calmPlan()
		plan.Confirm.Recheck = []time.Duration{time.Hour}
		w := mirrored(plan, rotation.DriftReport)
		w.rotateTwice(t)
		for _, v := range []*vault{w.vault, w.mirror} {
			if v.gone["1"] {
				t.Errorf("%s loses version 1 in its overlap", v.name)
			}
		}
		w.advance(5 * time.Hour)
		for _, v := range []*vault{w.vault, w.mirror} {
			if !v.gone["1"] || v.gone["2"] {
				t.Errorf("%s has lost %v", v.name, v.gone)
			}
			if p := w.placement(v.name); slices.ContainsFunc(p.Held, func(h rotation.Holding) bool { return h.Version == 1 }) {
				t.Errorf("%s is believed to keep %+v", v.name, p.Held)
			}
		}
	})
}

// Who may import one secret cannot name the credential of another by its handle.
func TestImportTakesNobodyElsesHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.stranger(w.vault, true)
		theirs := rotation.Version{SecretID: "another", Number: 1, Stage: rotation.StageCurrent, Issuer: "finding", Tag: "kb-another", Handle: issuer.Handle{"id": "finding-7"}}
		w.store.state.versions.put(versionKey{"another", 1}, theirs)
		e, ctx := w.nodes[0].engine, context.Background()
		_, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone, Handles: map[backends.VersionID]issuer.Handle{"": theirs.Handle}})
		if !errors.Is(err, backends.ErrConflict) || w.secret().Current != 0 {
			t.Fatalf("importing with another's handle: %v", err)
		}
		if _, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone}); err != nil {
			t.Fatal(err)
		}
		err = w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			return e.GiveHandle(ctx, tx, secretID, 1, theirs.Handle, someone)
		})
		if !errors.Is(err, backends.ErrConflict) {
			t.Errorf("giving another's handle: %v", err)
		}
	})
}

// What is in a vault already is taken over as it is: nothing is written before the
// first rotation, and that replaces it like any other version.
func TestImport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.vault.add(backends.NewValue(map[string]string{valueField: "older"}), "x")
		w.stranger(w.vault, true)
		w.rotate(t) // finds what it does not know, and waits
		w.advance(time.Minute)
		if r := w.rotationNumber(0); r.WaitingFor != rotation.WaitRepair {
			t.Fatalf("the rotation is %s and waits for %q", r.State, r.WaitingFor)
		}
		e, ctx := w.nodes[0].engine, context.Background()
		tried, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone, DryRun: true})
		if err != nil || len(tried) != 2 || w.secret().Current != 0 {
			t.Fatalf("a dry run gave %+v, %v", tried, err)
		}
		if _, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone, Handles: map[backends.VersionID]issuer.Handle{"7": {"id": "x"}}}); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("a handle for no version: %v", err)
		}
		got, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || got[0].Stage != rotation.StageRetired || got[1].Stage != rotation.StageCurrent || got[1].Number != 2 || got[1].ID != "2" {
			t.Errorf("imported: %+v", got)
		}
		s := w.secret()
		if r := w.rotationNumber(0); s.Current != 2 || s.Generation != 1 || r.State != rotation.Cancelled || len(w.vault.values) != 2 {
			t.Errorf("version %d is current in generation %d, the rotation is %s, the vault was written %d times", s.Current, s.Generation, r.State, len(w.vault.values)-2)
		}
		if _, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone}); !errors.Is(err, backends.ErrConflict) {
			t.Errorf("importing again: %v", err)
		}
		w.rotate(t)
		w.advance(3 * time.Hour)
		r, _ := w.retirementOf(2)
		w.verdict(t, func(wrong func(string, ...any)) {
			if held := w.vaultVersion(); held != 3 {
				wrong("the vault holds version %d", held)
			}
			if r.State != rotation.Unconfirmed || r.WaitingFor != rotation.WaitProof && r.WaitingFor != rotation.WaitHandle {
				wrong("the version without a handle is %s, waiting for %q: %s", r.State, r.WaitingFor, r.Error)
			}
		})
		for _, c := range w.issuers["finding"].made { // somebody turns it off by hand
			if c.id == "theirs" {
				c.revokedAt = time.Now()
			}
		}
		w.advance(time.Hour)
		if r, _ = w.retirementOf(2); r.State != rotation.ProvenDead {
			t.Errorf("turned off by hand it is %s: %s", r.State, r.Error)
		}
	})
}
