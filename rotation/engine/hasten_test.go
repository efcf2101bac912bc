package engine_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// meanwhile lets something happen after each look at the store.
type meanwhile struct {
	engine.Store
	happens func()
}

func (m meanwhile) View(ctx context.Context, fn func(engine.Tx) error) error {
	err := m.Store.View(ctx, fn)
	m.happens()
	return err
}

// change saves a rotation as fn leaves it.
func (w *world) change(t *testing.T, fn func(*rotation.Rotation)) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, _ *engine.Engine) error {
		r, err := tx.Rotation(ctx, w.rotationNumber(0).ID)
		if err != nil {
			return err
		}
		fn(&r)
		return tx.SaveRotation(ctx, &r)
	})
}

// TestReconfigured: what waits for its issuer looks again after a reload, unless a
// worker has taken it up by then, whose result would lose the row.
func TestReconfigured(t *testing.T) {
	for name, taken := range map[string]bool{"waiting": false, "taken up": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.rotate(t)
				w.change(t, func(r *rotation.Rotation) {
					r.WaitingFor, r.NextAt = rotation.WaitIssuer, time.Now().Add(time.Hour)
				})
				done := !taken
				cfg := w.nodes[0].engine.Config
				cfg.Store = meanwhile{cfg.Store, func() {
					if !done {
						done = true
						w.change(t, func(r *rotation.Rotation) {
							r.Begin(rotation.Mint, 1, "somebody", time.Minute, time.Now())
						})
					}
				}}
				if err := engine.New(cfg).Reconfigured(t.Context()); err != nil {
					t.Fatal(err)
				}
				r := w.rotationNumber(0)
				if waits := r.NextAt.After(time.Now()); waits || taken != (r.Intent != nil) {
					t.Errorf("waits until %s, intent %v", r.NextAt, r.Intent)
				}
				if r.Revision != 3 { // made, set to wait, and then either woken or taken up
					t.Errorf("revision %d: it was saved once more", r.Revision)
				}
			})
		})
	}
}
