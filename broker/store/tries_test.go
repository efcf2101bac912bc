package store_test

import (
	"fmt"
	"testing"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

func TestLatestTries(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "latest")
		ret := newRetirement(s, 1)
		update(t, db, func(tx *store.Tx) error { return tx.AddRetirement(ctx, &ret) })
		for round := range 5 {
			update(t, db, func(tx *store.Tx) error {
				return tx.AddTry(ctx, s.ID, rotation.Try{RetirementID: ret.ID, Round: round, At: now})
			})
		}
		for limit, want := range map[int]string{1: "[4]", 3: "[2 3 4]", 9: "[0 1 2 3 4]"} {
			var rounds []int
			for _, y := range read(t, db, func(tx *store.Tx) ([]rotation.Try, error) { return tx.LatestTries(ctx, ret.ID, limit) }) {
				rounds = append(rounds, y.Round)
			}
			same(t, "rounds", fmt.Sprint(rounds), want)
		}
	})
}
