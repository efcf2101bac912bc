package store_test

import (
	"errors"
	"testing"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// TestAbandoned has a pending version for each way that a rotation can stand to it.
func TestAbandoned(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		want := map[string]bool{}
		add := func(name string, state rotation.State, to int, left, retired bool) {
			s := addSecret(t, db, name)
			r := rotation.Rotation{ID: "rot-" + name, SecretID: s.ID, State: state, To: to, CreatedAt: now}
			if state.Ended() {
				r.EndedAt = now
			}
			v := rotation.Version{SecretID: s.ID, Stage: rotation.StagePending, RotationID: r.ID, CreatedAt: now}
			update(t, db, func(tx *store.Tx) error {
				err := errors.Join(tx.AddRotation(ctx, &r), tx.AddVersion(ctx, &v))
				if retired {
					err = errors.Join(err, tx.AddRetirement(ctx, &rotation.Retirement{ID: "ret-" + name, SecretID: s.ID, Version: 1, State: rotation.Requested, RequestedAt: now}))
				}
				return err
			})
			if left {
				want[s.ID] = true
			}
		}
		add("under-way", rotation.Verifying, 1, false, false)
		add("ended", rotation.Failed, 1, true, false)
		add("moved-on", rotation.Minting, 2, true, false)
		add("being-retired", rotation.Cancelled, 1, false, true)
		left := read(t, db, func(tx *store.Tx) ([]rotation.Version, error) { return tx.Abandoned(ctx, 10) })
		if len(left) != len(want) {
			t.Errorf("%d versions are abandoned, want %d", len(left), len(want))
		}
		for _, v := range left {
			if !want[v.SecretID] {
				t.Errorf("version %d of %s (%s) is not abandoned", v.Number, v.Ref, v.RotationID)
			}
		}
	})
}
