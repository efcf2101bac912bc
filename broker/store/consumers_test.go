package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

func TestWaitingDeliveries(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		a, b := addSecret(t, db, "a"), addSecret(t, db, "b")
		older, newer, test, held := newDelivery(a, "web", 1), newDelivery(b, "web", 1), newDelivery(a, "web", 0), newDelivery(a, "box", 1)
		older.CreatedAt, older.NextAttemptAt = now.Add(-time.Hour), now.Add(time.Minute)
		newer.NextAttemptAt, newer.Error = now.Add(time.Second), "status 503"
		test.SecretID, test.Event, test.NextAttemptAt = "", rotation.EventTest, now.Add(time.Hour)
		held.NextAttemptAt = time.Time{}
		arrived := newDelivery(b, "box", 1)
		update(t, db, func(tx *store.Tx) error {
			for _, d := range []*rotation.Delivery{&older, &newer, &test, &held, &arrived} {
				if err := tx.AddDelivery(ctx, d); err != nil {
					return err
				}
			}
			arrived.State, arrived.Error = rotation.DeliveryReceived, "not this"
			return tx.SaveDelivery(ctx, &arrived)
		})
		got := read(t, db, func(tx *store.Tx) ([]store.Waiting, error) { return tx.WaitingDeliveries(ctx) })
		want := []store.Waiting{{Consumer: "box", Count: 1, Since: held.CreatedAt.UTC()},
			{Consumer: "web", Count: 3, Since: older.CreatedAt.UTC(), Next: newer.NextAttemptAt.UTC(), Error: "status 503"}}
		if !slices.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// TestLatestUses: what is only received is not used, and what tells of the end of a
// version is no use of it.
func TestLatestUses(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		add := func(consumer string, generation int64, edit func(*rotation.Delivery)) {
			d := newDelivery(s, consumer, generation)
			d.Version = int(generation)
			event := d
			edit(&event)
			d.Event = event.Event
			update(t, db, func(tx *store.Tx) error {
				err := tx.AddDelivery(ctx, &d)
				event.Revision, event.State = d.Revision, rotation.DeliveryReceived
				return errors.Join(err, tx.SaveDelivery(ctx, &event))
			})
		}
		add("web", 1, func(d *rotation.Delivery) { d.AppliedAt = now })
		add("web", 2, func(d *rotation.Delivery) { d.FetchedAt = now })
		add("web", 3, func(d *rotation.Delivery) { d.ReceivedAt = now })
		add("web", 4, func(d *rotation.Delivery) { d.Event, d.FetchedAt = rotation.EventRetired, now })
		add("box", 1, func(d *rotation.Delivery) { d.ReceivedAt = now })
		add("app", 2, func(d *rotation.Delivery) { d.Event, d.AppliedAt = rotation.EventRolledBack, now })
		got := read(t, db, func(tx *store.Tx) ([]rotation.Delivery, error) { return tx.LatestUses(ctx, s.ID) })
		if len(got) != 2 || got[0].Consumer != "app" || got[0].Version != 2 || got[1].Consumer != "web" || got[1].Version != 2 {
			t.Errorf("%+v", got)
		}
	})
}
