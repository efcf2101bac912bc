package engine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// clerk is a person who makes credentials at a system.
type clerk struct{ *issuerOf }

func (clerk) Task(issuer.Subject, string) issuer.Task {
	return issuer.Task{Mint: "make one", Revoke: "turn it off", Deadline: 72 * time.Hour}
}

func (clerk) Accept(issuer.Subject, backends.Value, issuer.Handle) error { return nil }

func (clerk) Issue(context.Context, issuer.Request) (issuer.Credential, error) {
	return issuer.Credential{}, backends.ErrUnsupported
}

func (clerk) Revoke(context.Context, issuer.Subject, issuer.Handle) error { return issuer.ErrByHand }

// wanted is a world that waits for a person to make version 1.
func wanted(t *testing.T) *world {
	t.Helper()
	w, _ := calmWorld(calmPlan(), 0)
	w.catalog["finding"] = clerk{w.issuers["finding"]}
	w.rotate(t)
	w.advance(time.Minute)
	if r := w.rotationNumber(0); !r.AwaitsValue() {
		t.Fatalf("the rotation is %s: %s", r.State, r.Error)
	}
	return w
}

// supply makes a credential at the system and hands it in for a rotation.
func (w *world) supply(t *testing.T, i int, handle issuer.Handle) error {
	t.Helper()
	r := w.rotationNumber(i)
	v, _ := w.version(r.To)
	made, err := w.issuers["finding"].create(v.Tag, "made-by-hand-"+v.Tag)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.nodes[0].engine.Supply(context.Background(), r.ID, backends.NewValue(map[string]string{valueField: made.value}), handle, time.Time{}, someone)
	return err
}

// A credential that is handed in when nobody wants it any more is retired like any other.
func TestWhatIsHandedInTooLateIsTurnedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wanted(t)
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, will, err := e.Cancel(ctx, tx, w.rotationNumber(0).ID, someone)
			if v, _ := w.version(1); !strings.Contains(strings.Join(will, "\n"), v.Tag) {
				t.Errorf("cancelling it does not say what was asked for: %q", will)
			}
			return err
		})
		if err := w.supply(t, 0, nil); !errors.Is(err, backends.ErrConflict) {
			t.Errorf("it was handed in: %v", err)
		}
		w.advance(2 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			t1, there := w.retirementOf(1)
			if kind, _, _ := engine.AlertOf(t1, secretRef); !there || kind != engine.AlertRevokeByHand {
				wrong("nobody is told to turn it off: its retirement is %s", t1.State)
			}
		})
		if err := w.supply(t, 0, nil); !errors.Is(err, backends.ErrConflict) {
			t.Errorf("it was handed in once more: %v", err)
		}
	})
}

func TestAnEmergencySaysWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	r := rotation.Rotation{ID: "r", State: rotation.Minting, Attempt: 2, ValueBy: time.Now()}
	if r.Supersede(time.Now()); !strings.Contains(r.Error, "kb-r-2") {
		t.Errorf("%q", r.Error)
	}
}

// The handle of another version is none that could be turned off by.
func TestAHandleThatIsHandedInTwiceIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wanted(t)
		if err := w.supply(t, 0, issuer.Handle{"id": "7"}); err != nil {
			t.Fatal(err)
		}
		w.advance(time.Minute)
		w.rotate(t)
		w.advance(time.Minute)
		if err := w.supply(t, 1, issuer.Handle{"id": "7"}); !errors.Is(err, backends.ErrConflict) {
			t.Errorf("it was taken: %v", err)
		}
		if r := w.rotationNumber(1); !r.AwaitsValue() {
			t.Errorf("the rotation is %s", r.State)
		}
	})
}

// fumbling is a store that cannot be used by fits.
type fumbling struct {
	engine.Store
	views int // until it fails; 0: it does not
}

func (s *fumbling) View(ctx context.Context, fn func(engine.Tx) error) error {
	if s.views--; s.views == 0 {
		return backends.ErrUnavailable
	}
	return s.Store.View(ctx, fn)
}

// That the store cannot be asked is no fault of what is handed in.
func TestAStoreThatFailsRefusesNoValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wanted(t)
		e := w.nodes[0].engine
		before := e.Store
		e.Store = &fumbling{before, 2}
		err := w.supply(t, 0, nil)
		e.Store = before
		if !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%v", err)
		}
	})
}

// TestByHandWithoutAProbeStaysOpen: that it may be alive is not forgotten.
func TestByHandWithoutAProbeStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.define(func(d *rotation.Definition) { d.Probe, d.Plan.Confirm.None = "", true })
		w.catalog["finding"] = clerk{w.issuers["finding"]}
		for i := range 2 {
			w.rotate(t)
			w.advance(time.Minute)
			if err := w.supply(t, i, nil); err != nil {
				t.Fatal(err)
			}
			w.advance(2 * time.Hour)
		}
		w.advance(72 * time.Hour)
		w.must(t, func(ctx context.Context, tx engine.Tx, _ *engine.Engine) error {
			open, err := tx.Versions(ctx, secretID)
			if !slices.ContainsFunc(open, func(v rotation.Version) bool { return v.Number == 1 }) {
				t1, _ := w.retirementOf(1)
				w.tellStory(t)
				t.Errorf("version 1 is not open: its retirement is %s, looked at next at %s", t1.State, t1.NextAt)
			}
			return err
		})
	})
}

// TestAPersonKeepsNobodyElseWaiting at the gate of a policy; at that of a pair, which is
// never to rotate at once, it does.
func TestAPersonKeepsNobodyElseWaiting(t *testing.T) {
	for name, c := range map[string]struct {
		define func(*rotation.Definition)
		waits  string
	}{
		"a policy": {func(d *rotation.Definition) { d.Policy, d.MaxConcurrent = "standard", 1 }, ""},
		"a pair":   {paired, rotation.WaitPair},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := gated(c.define)
				id := w.neighbour(1, rotation.Minting, rotation.WaitValue)
				r := w.store.state.rotations.rows[id]
				r.ValueBy = r.NextAt
				w.store.state.rotations.put(id, r)
				w.rotate(t)
				w.advance(time.Minute)
				if c.waits != "" {
					w.waitsFor(t, 0, c.waits)
				} else if w.secret().Current != 1 {
					w.tellStory(t)
					t.Error("it waits")
				}
			})
		})
	}
}
