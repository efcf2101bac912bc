package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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
		add("waits", func(d *rotation.Delivery) { d.ID, d.SecretID, d.Event = "another", "", rotation.EventTest })
		collected := func() []store.Inbox {
			t.Helper()
			return read(t, db, func(tx *store.Tx) ([]store.Inbox, error) { return tx.ToCollect(ctx, now) })
		}
		got := collected()
		slices.SortFunc(got, func(a, b store.Inbox) int { return strings.Compare(a.Consumer, b.Consumer) }) // PostgreSQL's order may be that of a language
		same(t, "to collect", got, []store.Inbox{{Consumer: "has-had-it", Messages: 1, Revisions: 2}, {Consumer: "tested", Messages: 1, Revisions: 2}, {Consumer: "waits", Messages: 2, Revisions: 4}})
	})
}

// What waits for an instance is what it has not acknowledged itself.
func TestPendingToAnInstance(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		var made []rotation.Delivery
		s := addSecret(t, db, "a")
		for i, consumer := range []string{"app", "app", "app", "other", "app"} {
			d := rotation.Delivery{ID: fmt.Sprint("d", i), SecretID: s.ID, Consumer: consumer, Event: rotation.EventRotated, Version: 1, Generation: 1, Instances: 3, CreatedAt: now.Add(time.Duration(i) / 2 * time.Second)}
			update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &d) })
			made = append(made, d)
		}
		say := func(d rotation.Delivery, instance string) {
			t.Helper()
			update(t, db, func(tx *store.Tx) error {
				d.ReceivedAt = now
				return errors.Join(tx.AddAck(ctx, rotation.Ack{DeliveryID: d.ID, Instance: instance, At: now, By: "tok_1"}), tx.SaveDelivery(ctx, &d))
			})
		}
		say(made[0], "a")
		say(made[1], "")
		update(t, db, func(tx *store.Tx) error {
			d := made[4]
			d.Lease = now.Add(time.Second)
			return tx.SaveDelivery(ctx, &d)
		})
		waits := func(instance string, after rotation.Delivery, limit int) (ids string) {
			t.Helper()
			for _, d := range read(t, db, func(tx *store.Tx) ([]rotation.Delivery, error) {
				return tx.PendingTo(ctx, "app", instance, now, after, limit)
			}) {
				ids += d.ID + " "
			}
			return ids
		}
		same(t, "of who has no name", waits("", rotation.Delivery{}, 10), "d2 ")
		same(t, "of a", waits("a", rotation.Delivery{}, 10), "d1 d2 ")
		same(t, "of b", waits("b", rotation.Delivery{}, 10), "d0 d1 d2 ")
		same(t, "of b, the first", waits("b", rotation.Delivery{}, 1), "d0 ")
		same(t, "of b, those after it", waits("b", made[0], 10), "d1 d2 ")
		same(t, "of b, those after the second", waits("b", made[1], 10), "d2 ")
	})
}
