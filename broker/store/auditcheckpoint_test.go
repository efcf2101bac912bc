package store_test

import (
	"maps"
	"testing"

	"github.com/keybroker/keybroker/broker/store"
)

func TestTheCheckpointsOfAllNodes(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		db := open(t, cfg)
		want := map[string]string{"0a": "first\nnote", "ff": "second"}
		update(t, db, func(tx *store.Tx) error {
			for node, note := range want {
				if err := tx.SetAuditCheckpoint(t.Context(), node, note); err != nil {
					return err
				}
			}
			_, err := tx.PutSettingIfAbsent(t.Context(), "audit/checkpoints", []byte("no checkpoint"))
			return err
		})
		var got map[string]string
		if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
			got, err = tx.AuditCheckpoints(t.Context())
			return err
		}); err != nil || !maps.Equal(got, want) {
			t.Errorf("%v, want %v: %v", got, want, err)
		}
	})
}
