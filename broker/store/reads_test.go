package store_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

func TestReadsOfConsumers(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "read")
		for _, stage := range []rotation.VersionStage{rotation.StageRetired, rotation.StageCurrent} {
			update(t, db, func(tx *store.Tx) error {
				return tx.AddVersion(ctx, &rotation.Version{SecretID: s.ID, Ref: s.Ref, Stage: stage, Tag: string(stage), CreatedAt: now})
			})
		}
		note := func(consumer string, version int, at time.Time) {
			t.Helper()
			changed := db.Changed()
			update(t, db, func(tx *store.Tx) error { return tx.NoteRead(ctx, s.ID, consumer, version, at) })
			select {
			case <-changed:
				t.Error("a read wakes who waits for changes")
			default:
			}
		}
		reads := func() []store.ConsumerRead {
			return read(t, db, func(tx *store.Tx) ([]store.ConsumerRead, error) { return tx.ConsumerReads(ctx, s.ID) })
		}
		later, earlier := now.Add(time.Minute), now.Add(-time.Minute)
		note("shop", 1, now)
		note("shop", 2, later)
		note("shop", 1, earlier) // of a node whose clock is behind
		note("billing", 1, now)
		note("billing", 1, later)
		of := func(consumer string, version int, first, last time.Time) store.ConsumerRead {
			return store.ConsumerRead{SecretID: s.ID, Consumer: consumer, Version: version, FirstAt: first.UTC(), LastAt: last.UTC()}
		}
		same(t, "reads", reads(), []store.ConsumerRead{of("billing", 1, now, later), of("shop", 2, later, later), of("shop", 1, now, now)})

		update(t, db, func(tx *store.Tx) error { return tx.PruneReads(ctx, later) })
		same(t, "of retired versions the old ones go", reads(), []store.ConsumerRead{of("billing", 1, now, later), of("shop", 2, later, later)})
		update(t, db, func(tx *store.Tx) error { return tx.PruneReads(ctx, later.Add(time.Hour)) })
		same(t, "those of others stay", reads(), []store.ConsumerRead{of("shop", 2, later, later)})
	})
}

func TestToCollect(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "collected")
		add := func(consumer string, edit func(*rotation.Delivery)) {
			t.Helper()
			d := rotation.Delivery{ID: "of-" + consumer, SecretID: s.ID, Ref: s.Ref, Consumer: consumer, Event: rotation.EventRotated, Version: 1, Generation: 1, CreatedAt: now}
			edit(&d)
			update(t, db, func(tx *store.Tx) error {
				lease, state := d.Lease, d.State
				if err := tx.AddDelivery(ctx, &d); err != nil {
					return err
				}
				if d.Lease = lease; state != "" {
					d.State = state
				}
				return tx.SaveDelivery(ctx, &d)
			})
		}
		add("waits", func(*rotation.Delivery) {})
		add("tested", func(d *rotation.Delivery) { d.SecretID, d.Event = "", rotation.EventTest })
		add("called", func(d *rotation.Delivery) { d.NextAttemptAt = now })
		add("has-it", func(d *rotation.Delivery) { d.Lease = now.Add(time.Second) })
		add("has-had-it", func(d *rotation.Delivery) { d.Lease = now })
		add("received", func(d *rotation.Delivery) { d.State = rotation.DeliveryReceived })
		got := read(t, db, func(tx *store.Tx) ([]string, error) { return tx.ToCollect(ctx, now) })
		same(t, "to collect", got, []string{"has-had-it", "tested", "waits"})
	})
}
