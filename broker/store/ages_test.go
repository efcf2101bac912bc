package store_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// TestCurrentSince has secrets with a published version, with one that was only
// made, and with none.
func TestCurrentSince(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		published, made := addSecret(t, db, "a"), addSecret(t, db, "b")
		addSecret(t, db, "c")
		later := now.Add(time.Hour)
		addVersion(t, db, published, rotation.StagePrevious, "", time.Time{})
		addVersion(t, db, made, rotation.StageCurrent, "", time.Time{})
		update(t, db, func(tx *store.Tx) error {
			return tx.AddVersion(ctx, &rotation.Version{SecretID: published.ID, Stage: rotation.StageCurrent, Tag: "t-" + published.ID, CreatedAt: now, PublishedAt: later})
		})
		got := map[backends.Ref]time.Time{}
		for _, c := range read(t, db, func(tx *store.Tx) ([]store.CurrentSince, error) { return tx.CurrentSince(ctx) }) {
			got[c.Ref] = c.PublishedAt
		}
		if len(got) != 2 || !got[published.Ref].Equal(later) || !got[made.Ref].Equal(now) {
			t.Errorf("%v", got)
		}
	})
}
