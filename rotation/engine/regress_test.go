package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/probe"
)

// What reviewers found and the simulation had not: each test lets happen what was
// found, at the very moment.

// The store has lost a rollback: the vault serves version 1 under an id of which
// the store knows nothing, and the store is about to revoke it.
func TestLostRollback(t *testing.T) {
	t.Run("the current version works", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _ := calmWorld(calmPlan(), 0)
			w.rotateTwice(t)
			w.writeBehind(w.vault.values[0])
			w.advance(3 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				if held := w.vaultVersion(); held != 2 {
					wrong("the vault holds version %d", held)
				}
				if r, _ := w.retirementOf(1); r.State != rotation.ProvenDead || w.alive(1) {
					wrong("the retirement of version 1 is %s", r.State)
				}
			})
		})
	})
	t.Run("the current version is refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, p := calmWorld(calmPlan(), 0)
			w.rotateTwice(t)
			w.writeBehind(w.vault.values[0])
			p.refuses = valueOf("value-of-finding-2")
			w.advance(6 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				if held := w.vaultVersion(); held != 1 || !w.alive(1) {
					wrong("the vault holds version %d; version 1 is alive: %v", held, w.alive(1))
				}
				if r, _ := w.retirementOf(1); r.State != rotation.Requested || r.WaitingFor != rotation.WaitRepair {
					wrong("the retirement of version 1 is %s and waits for %q", r.State, r.WaitingFor)
				}
			})
			p.refuses = nil
			w.advance(10 * time.Minute)
			w.verdict(t, func(wrong func(string, ...any)) {
				if held := w.vaultVersion(); held != 2 || w.alive(1) {
					wrong("the vault holds version %d; version 1 is alive: %v", held, w.alive(1))
				}
			})
		})
	})
}

// rolledBack checks that version 1 came back and that version 2 goes.
func (w *world) rolledBack(t *testing.T) {
	t.Helper()
	w.verdict(t, func(wrong func(string, ...any)) {
		if r := w.rotationNumber(1); r.State != rotation.RolledBack {
			wrong("the rotation is %s: %s", r.State, r.Error)
		}
		if s, held := w.secret(), w.vaultVersion(); s.Current != 1 || held != 1 {
			wrong("version %d is current and the vault holds %d", s.Current, held)
		}
	})
	w.advance(3 * time.Hour)
	w.verdict(t, func(wrong func(string, ...any)) {
		if !w.alive(1) || w.alive(2) {
			wrong("alive: version 1 %v, version 2 %v", w.alive(1), w.alive(2))
		}
	})
}

// The vault has made a rollback's write, whose answer nobody heard: what a probe
// says then does not undo it.
func TestRollBackWrittenButUnheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), 0)
		w.rotateTwice(t)
		w.rollBack(t)
		w.withFault(t, "vault unanswered", 1)
		if w.vaultVersion() != 1 || w.secret().Current != 2 {
			t.Fatal("the write was heard, or not made")
		}
		p.refuses = everything
		w.advance(2 * time.Minute)
		p.refuses = nil
		w.rolledBack(t)
	})
}

// A rollback's write is on its way for minutes. That the vault refuses another
// one meanwhile does not end the rollback.
func TestRollBackRefusedWhileAnEarlierWriteMayArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.rotateTwice(t)
		w.rollBack(t)
		w.withFault(t, "vault lost", 1)
		w.pass(time.Minute)
		w.stepRotation(t, 1,
			event{"writing version 1", func() { w.rates["vault refused"] = 1 }},
			event{"reading the vault", func() { w.rates["vault refused"] = 0 }})
		w.writeBehind(w.vault.values[0]) // it arrives
		w.advance(10 * time.Minute)
		w.rolledBack(t)
	})
}

// One rejection of the version that is to come back is not believed (rule 12);
// as many as a proof takes, and at least two, are.
func TestRollBackBelievesNoSingleRejection(t *testing.T) {
	t.Run("once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, p := calmWorld(calmPlan(), 0)
			w.rotateTwice(t)
			p.refuses = func(string) bool { return len(p.rejected) == 0 }
			w.rollBack(t)
			w.advance(time.Minute)
			if len(p.rejected) == 0 {
				t.Fatal("version 1 was not tried")
			}
			w.rolledBack(t)
		})
	})
	t.Run("always", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, p := calmWorld(calmPlan(), 0)
			w.rotateTwice(t)
			p.refuses = everything
			w.rollBack(t)
			w.advance(time.Minute)
			w.verdict(t, func(wrong func(string, ...any)) {
				if r := w.rotationNumber(1); r.State != rotation.Overlap || r.RollBackBy != "" {
					wrong("the rotation is %s, being rolled back by %q", r.State, r.RollBackBy)
				}
				if held := w.vaultVersion(); held != 2 || len(w.vault.values) != 2 {
					wrong("the vault holds version %d after %d writes", held, len(w.vault.values))
				}
				if tries := len(p.rejected["value-of-finding-1"]); tries != 2 {
					wrong("version 1 was tried %d times", tries)
				}
			})
		})
	})
}

// Whoever has the version that is taken back keeps it for a whole overlap: for as
// long as consumers have to acknowledge the other one.
func TestRollBackGivesAnOverlap(t *testing.T) {
	held := calmPlan()
	held.Overlap, held.MaxOverlap = time.Minute, 24*time.Hour
	held.Acknowledgement = rotation.Acknowledgement{Require: rotation.RequireApplied, Hold: true, Timeout: 2 * time.Hour}
	capped := held
	capped.MaxOverlap = 90 * time.Minute
	for name, c := range map[string]struct {
		plan  rotation.Plan
		after time.Duration
		want  time.Duration
	}{
		"near the end of its overlap":    {calmPlan(), 50 * time.Minute, time.Hour},
		"held by an acknowledgement":     {held, 10 * time.Minute, 2 * time.Hour},
		"no longer than the longest one": {capped, 10 * time.Minute, 90 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(c.plan, 0)
				s := w.secret()
				s.Definition.Consumers = []string{"one"}
				w.store.state.secrets.put(s.ID, s)
				w.down["consumer one"] = true
				w.rotateTwice(t)
				w.advance(c.after)
				end := time.Now().Add(c.want)
				will := w.rollBack(t)
				w.advance(time.Second)
				w.verdict(t, func(wrong func(string, ...any)) {
					if !strings.Contains(will, end.UTC().Format("2006-01-02T15:04:05Z")) {
						wrong("it was promised: %s", will)
					}
					if v, _ := w.version(2); v.Stage != rotation.StagePrevious || v.OverlapUntil.Before(end) {
						wrong("version 2 is %s until %s", v.Stage, v.OverlapUntil)
					}
				})
				w.advance(time.Until(end) - time.Second)
				if !w.alive(2) {
					w.verdict(t, func(wrong func(string, ...any)) { wrong("version 2 is revoked before its overlap ends") })
				}
				w.down["consumer one"] = false
				w.rolledBack(t)
			})
		})
	}
}

// The configuration has moved the secret to another vault: a repair does not,
// only the next rotation does.
func TestRepairMovesNoVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), 0)
		w.rotateTwice(t)
		other := &vault{w: w, name: "new", gone: map[backends.VersionID]bool{}}
		s := w.secret()
		s.Definition.Backend = "new"
		w.store.state.secrets.put(s.ID, s)
		e := w.nodes[0].engine
		e.SetCatalog(&engine.Catalog{
			Backends: map[string]*backends.Mount{
				"vault": backends.NewMount("vault", w.vault, backends.Options{}), "new": backends.NewMount("new", other, backends.Options{})},
			Issuers: map[string]issuer.Issuer{"finding": showOnce{w.issuers["finding"]}},
			Probes:  map[string]probe.Probe{"probe": p}})
		found, err := e.Repair(context.Background(), secretID, engine.RepairRequest{Asked: someone, Overwrite: true})
		if err != nil {
			t.Fatal(err)
		}
		w.verdict(t, func(wrong func(string, ...any)) {
			if len(found) != 1 || found[0].Mendable || found[0].Mended {
				wrong("found: %+v", found)
			}
			if v, _ := w.version(2); v.Backend != "vault" || v.BackendVersion != "2" || len(other.values) > 0 {
				wrong("version 2 is in %q as %q; the other vault holds %d values", v.Backend, v.BackendVersion, len(other.values))
			}
		})
	})
}

// mintedOnce checks that the one credential that was made is the current version.
func (w *world) mintedOnce(t *testing.T) {
	t.Helper()
	w.advance(10 * time.Minute)
	w.verdict(t, func(wrong func(string, ...any)) {
		if r := w.rotationNumber(0); r.State != rotation.Done || r.Attempt != 1 {
			wrong("the rotation is %s in attempt %d: %s", r.State, r.Attempt, r.Error)
		}
		if made := len(w.issuers["finding"].made); made != 1 || w.secret().Current != 1 {
			wrong("%d credentials were made, and version %d is current", made, w.secret().Current)
		}
	})
}

func (w *world) retry(i int) error {
	return w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
		_, _, err := e.Retry(ctx, tx, w.rotationNumber(i).ID, someone)
		return err
	})
}

// A retry while the issuer is being asked is refused: the answer would be lost.
func TestRetryWhileMinting(t *testing.T) {
	for _, at := range []string{"minting version 1 (sent)", "minting version 1 (answered)", "the sealer"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.rotate(t)
				var err error
				w.stepRotation(t, 0, event{at, func() { err = w.retry(0) }})
				if !errors.Is(err, backends.ErrConflict) {
					t.Errorf("the retry: %v", err)
				}
				w.mintedOnce(t)
			})
		})
	}
}

// Whoever minted was slow, and the row has moved when it comes to record the
// credential. What it kept is used, not made again.
func TestKeptCredentialIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.rotate(t)
		w.stepRotation(t, 0, event{"the sealer", func() {
			w.pass(2 * time.Minute) // its lease runs out
			if err := w.retry(0); err != nil {
				t.Error(err)
			}
		}})
		w.mintedOnce(t)
	})
}
