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
)

// With a single account the old value is tried before it ends, and is set again if
// the new one comes to nothing.
func TestASingleAccount(t *testing.T) {
	const old, bad = "version 1", "version 2"
	setup := func(t *testing.T) (*world, *strict) {
		t.Helper()
		w, p := calmWorld(calmPlan(), 0)
		w.under("single", func(d *rotation.Definition) { d.Plan.Overlap = 0 })
		w.issuers["single"].slowest = 0
		w.rotate(t)
		w.advance(time.Minute)
		if w.secret().Current != 1 {
			t.Fatal("there is no first version")
		}
		return w, p
	}
	t.Run("rotates and is proven", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _ := setup(t)
			w.rotate(t)
			w.advance(3 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				t1, _ := w.retirementOf(1)
				if t1.State != rotation.ProvenDead || t1.Before != rotation.Accepted || t1.LastAcceptedAt.IsZero() || t1.AlreadyRejected {
					wrong("%s (%s): %+v", old, t1.Why(), t1)
				}
				if r := w.rotationNumber(1); r.State != rotation.Done || !w.alive(2) {
					wrong("the rotation is %s: %s", r.State, r.Error)
				}
			})
		})
	})
	t.Run("is set again where the new one does not work", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, p := setup(t)
			p.refuses = func(value string) bool { return strings.HasPrefix(value, "prepared-kb-"+w.rotationNumber(1).ID) }
			w.rotate(t)
			w.advance(24 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				if r := w.rotationNumber(1); r.State != rotation.Failed || w.counts["put back"] == 0 {
					wrong("the rotation is %s: %s", r.State, r.Error)
				}
				if !w.alive(1) || w.alive(2) || w.secret().Current != 1 {
					wrong("%s is alive: %v, %s: %v", old, w.alive(1), bad, w.alive(2))
				}
			})
		})
	})
	t.Run("is set again where the rotation is cancelled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, p := setup(t)
			p.refuses = func(value string) bool { return strings.HasPrefix(value, "prepared-kb-"+w.rotationNumber(1).ID) }
			w.rotate(t)
			w.advance(10 * time.Second)
			w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				_, will, err := e.Cancel(ctx, tx, w.rotationNumber(1).ID, someone)
				if !strings.Contains(strings.Join(will, "\n"), "set again") {
					return errors.Join(err, errors.New("it does not say that the old value is set again"))
				}
				return err
			})
			w.advance(24 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				if r := w.rotationNumber(1); r.State != rotation.Cancelled || !w.alive(1) || w.alive(2) {
					wrong("the rotation is %s: %s", r.State, r.Error)
				}
			})
		})
	})
	t.Run("is not set again in an emergency", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _ := setup(t)
			w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone})
				return err
			})
			w.advance(24 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				t1, _ := w.retirementOf(1)
				if w.alive(1) || !w.alive(2) || t1.State != rotation.ProvenDead || w.counts["put back"] > 0 {
					wrong("%s is %s, put back %d times", old, t1.State, w.counts["put back"])
				}
			})
		})
	})
}

// A pair alternates, and waits while both of its accounts are in use; an emergency
// does not wait, and ends what it displaces in order.
func TestAPairOfAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.under("pair", nil)
		w.issuers["pair"].slowest = 0
		w.rotateTwice(t)
		one, _ := w.version(1)
		two, _ := w.version(2)
		if one.Slot != "a" || two.Slot != "b" || !w.alive(1) || !w.alive(2) {
			t.Fatalf("slots %q and %q", one.Slot, two.Slot)
		}
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error { // the current one alone, in the overlap
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone, Versions: []int{2}})
			return err
		})
		w.advance(time.Second)
		w.verdict(t, func(wrong func(string, ...any)) {
			if three, _ := w.version(3); three.Slot != "a" || w.alive(1) {
				wrong("the replacement went to %q", three.Slot)
			}
		})
		w.advance(24 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			for _, n := range []int{1, 2} {
				if r, ok := w.retirementOf(n); !ok || r.State != rotation.ProvenDead {
					wrong("version %d is %q", n, r.State)
				}
			}
			if w.secret().Current != 3 || !w.alive(3) {
				wrong("version %d is current", w.secret().Current)
			}
		})
	})
}

// refusing is an account whose old value is refused, with err.
type refusing struct {
	slotted
	err error
}

func (i refusing) PutBack(context.Context, issuer.Request, issuer.Handle, int) error { return i.err }

func TestAnOldValueThatIsRefusedEndsTheRotation(t *testing.T) {
	for name, err := range map[string]error{"invalid": backends.ErrInvalid, "denied": backends.ErrDenied} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, p := calmWorld(calmPlan(), 0)
				w.under("single", func(d *rotation.Definition) { d.Plan.Overlap = 0 })
				w.issuers["single"].slowest = 0
				w.catalog["single"] = refusing{w.catalog["single"].(slotted), err}
				w.rotate(t)
				w.advance(time.Minute)
				p.refuses = everything
				w.rotate(t)
				w.advance(24 * time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					r := w.rotationNumber(1)
					if r.State != rotation.Failed || !r.InPlace.Lost || engine.DeadCurrent(r, secretRef) == "" {
						wrong("the rotation is %s after a day: %s", r.State, r.Error)
					}
				})
			})
		})
	}
}

// An account is the same whatever its issuer's block is called.
func TestAnIssuerUnderAnotherNameKeepsItsAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), 0)
		w.under("pair", nil)
		w.issuers["pair"].slowest = 0
		w.rotate(t)
		w.advance(time.Minute)
		w.catalog["renamed"] = w.catalog["pair"]
		w.under("renamed", nil)
		p.refuses = func(value string) bool { return strings.HasPrefix(value, "prepared-kb-"+w.rotationNumber(1).ID) }
		w.rotate(t)
		w.advance(time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			if two, _ := w.version(2); two.Slot != "b" || !w.alive(1) || w.secret().Current != 1 {
				wrong("version 2 went to %q; version 1 is alive: %v", two.Slot, w.alive(1))
			}
		})
	})
}

// A freeze does not keep applications on a value that has ended.
func TestAFreezeDoesNotHoldUpWhatHasEndedTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), 0)
		w.under("single", func(d *rotation.Definition) { d.Plan.Overlap = 0 })
		w.issuers["single"].slowest = 0
		w.rotate(t)
		w.advance(time.Minute)
		began := time.Now()
		p.refuses = func(value string) bool {
			return strings.HasPrefix(value, "prepared-kb-"+w.rotationNumber(1).ID) && time.Since(began) < 30*time.Second
		}
		w.rotate(t)
		w.advance(5 * time.Second)
		w.freeze(t)
		w.advance(time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			if w.secret().Current != 2 || !w.alive(2) {
				wrong("version %d is current; the rotation is %s, waiting for %q", w.secret().Current, w.rotationNumber(1).State, w.rotationNumber(1).WaitingFor)
			}
		})
	})
}

// A rollback in place goes on once the old value is set again: the new one is dead by then.
func TestARollbackInPlaceOnlyGoesForward(t *testing.T) {
	for name, after := range map[string]func(w *world, p *strict){
		"the old one is refused": func(w *world, p *strict) { p.refuses = everything },
		"it is withdrawn": func(w *world, _ *strict) {
			_ = w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				_, _, err := e.Cancel(ctx, tx, w.rotationNumber(1).ID, someone)
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plan := calmPlan()
				plan.Overlap, plan.MaxOverlap = 0, 4*time.Hour
				plan.Acknowledgement = rotation.Acknowledgement{Require: rotation.RequireApplied, Timeout: 4 * time.Hour, Hold: true}
				w, p := calmWorld(plan, 0)
				w.under("single", func(d *rotation.Definition) { d.Consumers = []string{"one"} })
				w.issuers["single"].slowest, w.down["consumer one"] = 0, true
				w.rotate(t)
				w.advance(time.Minute)
				w.rotate(t)
				w.advance(time.Minute)
				w.rollBack(t)
				w.stepRotation(t, 1, event{"putting version 1 back", func() {}})
				after(w, p)
				w.advance(time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r := w.rotationNumber(1); r.State != rotation.RolledBack || w.secret().Current != 1 || !w.alive(1) {
						wrong("the rotation is %s: %s; version %d is current", r.State, r.Error, w.secret().Current)
					}
				})
			})
		})
	}
}

// What a stranger set in an account is not adopted: whoever turned the old value off
// would turn off the account.
func TestNothingIsAdoptedInAnAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.under("pair", func(d *rotation.Definition) { d.OnDrift = rotation.DriftAdopt })
		w.issuers["pair"].slowest = 0
		w.rotate(t)
		w.advance(time.Minute)
		w.writeBehind(backends.NewValue(map[string]string{valueField: "a stranger's"}))
		w.advance(200 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			err := w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				_, _, err := e.Adopt(ctx, tx, secretID, engine.AdoptRequest{Asked: someone})
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "sets the values of accounts") {
				wrong("adopting it: %v", err)
			}
			if w.secret().Current != 1 || !w.alive(1) || len(w.store.state.rotations.order) != 1 {
				wrong("version %d is current, version 1 is alive: %v, %d rotations", w.secret().Current, w.alive(1), len(w.store.state.rotations.order))
			}
		})
	})
}

// Before an account is set it is tried with its lockout in mind, and so are the tries after.
func TestTriesInPlaceDoNotLockTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := calmPlan()
		plan.Overlap, plan.Confirm.Rejections = 0, 5
		w, p := calmWorld(plan, lockedAfter)
		w.under("single", nil)
		w.issuers["single"].slowest = 0
		w.rotate(t)
		w.advance(time.Minute)
		old, _ := w.version(1)
		p.refuses = valueOf(w.credentialOf(old.Tag).value) // somebody has changed it by hand
		w.rotate(t)
		w.advance(48 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			w.notLocked(p, wrong)
			if r := w.rotationNumber(1); w.secret().Current != 2 {
				wrong("the rotation is %s: %s", r.State, r.Error)
			}
		})
	})
}

// An emergency that comes while an old value is being set again replaces it: it does
// not go on with what the other one was about.
func TestAnEmergencyWhileAnOldValueIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), 0)
		w.under("single", func(d *rotation.Definition) { d.Plan.Overlap = 0 })
		w.issuers["single"].slowest = 0
		w.rotate(t)
		w.advance(time.Minute)
		p.refuses = func(value string) bool { return strings.HasPrefix(value, "prepared-kb-"+w.rotationNumber(1).ID) }
		w.rotate(t)
		w.advance(10 * time.Second)
		w.down["issuer single"] = true
		w.advance(3 * time.Minute)
		if r := w.rotationNumber(1); !r.PuttingBack() {
			t.Fatalf("the rotation is %s", r.State)
		}
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone, Versions: []int{2}})
			return err
		})
		delete(w.down, "issuer single")
		w.advance(time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			if w.secret().Current != 3 || !w.alive(3) || w.counts["put back"] > 0 {
				wrong("version %d is current, put back %d times", w.secret().Current, w.counts["put back"])
			}
		})
	})
}
