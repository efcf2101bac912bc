package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

func notice(s rotation.Secret, event rotation.Event, version int, generation int64) rotation.Delivery {
	d := newDelivery(s, "web", generation)
	d.Event, d.Version = event, version
	return d
}

func TestNewsSupersedesWhatWaits(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s, other := addSecret(t, db, "a"), addSecret(t, db, "b")
		add := func(d rotation.Delivery) rotation.Delivery {
			t.Helper()
			update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &d) })
			return d
		}
		state := func(d rotation.Delivery) (got rotation.DeliveryState) {
			t.Helper()
			view(t, db, func(tx *store.Tx) error {
				d, err := tx.Delivery(ctx, d.ID)
				got = d.State
				return err
			})
			return got
		}
		elsewhere := add(newDelivery(other, "web", 1))
		rotating := add(notice(s, rotation.EventRotating, 1, 1))
		rotated := add(notice(s, rotation.EventRotated, 2, 2))
		retiring := add(notice(s, rotation.EventRetiring, 1, 2))
		emergency := add(notice(s, rotation.EventEmergency, 1, 2))
		retired := add(notice(s, rotation.EventRetired, 1, 2))
		ofTwo := add(notice(s, rotation.EventRetired, 2, 2))
		for d, want := range map[*rotation.Delivery]rotation.DeliveryState{
			&rotating: rotation.DeliverySuperseded, &retiring: rotation.DeliverySuperseded,
			&rotated: rotation.DeliveryPending, &emergency: rotation.DeliveryPending, &retired: rotation.DeliveryPending, &ofTwo: rotation.DeliveryPending,
		} {
			if got := state(*d); got != want {
				t.Errorf("%s of version %d is %s, not %s", d.Event, d.Version, got, want)
			}
		}
		back := add(notice(s, rotation.EventRolledBack, 1, 3))
		for _, d := range []rotation.Delivery{rotated, emergency, retired, ofTwo} {
			if got := state(d); got != rotation.DeliverySuperseded {
				t.Errorf("%s of generation 2 is %s in generation 3", d.Event, got)
			}
		}
		if state(elsewhere) != rotation.DeliveryPending {
			t.Error("what tells of another secret is superseded")
		}
		view(t, db, func(tx *store.Tx) error {
			last, err1 := tx.LastTold(ctx, s.ID, "web", 0)
			two, err2 := tx.LastTold(ctx, s.ID, "web", 2)
			_, never := tx.LastTold(ctx, s.ID, "web", 7)
			_, nobody := tx.LastTold(ctx, s.ID, "batch", 0)
			if last.ID != back.ID || two.ID != rotated.ID || !errors.Is(never, backends.ErrNotFound) || !errors.Is(nobody, backends.ErrNotFound) {
				t.Errorf("last told %+v, of version 2 %+v, never %v, nobody %v", last, two, never, nobody)
			}
			latest, err3 := tx.LatestDeliveries(ctx, s.ID)
			if len(latest) != 1 || latest[0].ID != back.ID {
				t.Errorf("the latest: %+v", latest)
			}
			gen, err4 := tx.Deliveries(ctx, s.ID, 2)
			if len(gen) != 1 || gen[0].ID != rotated.ID {
				t.Errorf("what generation 2 made current: %+v", gen)
			}
			return errors.Join(err1, err2, err3, err4)
		})
	})
}

func TestTestOfAConsumerIsOfNoSecret(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		before := rotation.Delivery{ID: newID("del"), Ref: backends.Ref{Tenant: "acme"}, Consumer: "web", Event: rotation.EventTest, CreatedAt: now, NextAttemptAt: now}
		update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &before) })
		defer func() {
			view(t, db, func(tx *store.Tx) error {
				got, err := tx.Delivery(ctx, before.ID)
				if got.State != rotation.DeliverySuperseded {
					t.Errorf("the test before is %s", got.State)
				}
				return err
			})
		}()
		d := rotation.Delivery{ID: newID("del"), Ref: backends.Ref{Tenant: "acme"}, Consumer: "web", Event: rotation.EventTest, CreatedAt: now, NextAttemptAt: now}
		update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &d) })
		d.State, d.ReceivedAt = rotation.DeliveryReceived, now
		update(t, db, func(tx *store.Tx) error { return tx.SaveDelivery(ctx, &d) })
		view(t, db, func(tx *store.Tx) error {
			got, err := tx.Delivery(ctx, d.ID)
			if got.SecretID != "" || got.Ref != (backends.Ref{Tenant: "acme"}) || got.Event != rotation.EventTest || got.Instances != 1 {
				t.Errorf("read back: %+v", got)
			}
			page, _, err2 := tx.DeliveriesPage(ctx, store.DeliveryFilter{Tenant: "acme", Event: rotation.EventTest}, store.Page{})
			if len(page) != 2 {
				t.Errorf("listed: %+v", page)
			}
			x, err3 := tx.Sending(ctx, d.ID, now)
			changes, err4 := tx.Changes(ctx, 0, 0)
			if x.Delivery != got || x.InFlight || x.Outdated || x.Revoking || x.Previous != nil || x.Version.Number != 0 || len(changes) != 3 || changes[1].ID != d.ID || changes[1].Secret != "" {
				t.Errorf("to be sent: %+v, changes %+v", x, changes)
			}
			return errors.Join(err, err2, err3, err4)
		})
	})
}

func TestAcknowledgementsOfInstances(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		d := newDelivery(addSecret(t, db, "a"), "web", 1)
		d.Instances = 3
		now := now.UTC()
		ack := func(instance string, applied bool, at time.Time, by string) rotation.Ack {
			return rotation.Ack{DeliveryID: d.ID, Instance: instance, Applied: applied, At: at, By: by}
		}
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddDelivery(ctx, &d), tx.AddAck(ctx, ack("c", false, now, "tok_1")), tx.AddAck(ctx, ack("b", true, now, "webhook")),
				tx.AddAck(ctx, ack("a", true, now.Add(time.Second), "tok_1")), tx.AddAck(ctx, ack("b", true, now.Add(time.Hour), "tok_2")),
				tx.AddAck(ctx, ack("a", false, now.Add(time.Hour), "tok_2")), tx.AddAck(ctx, ack("c", true, now.Add(time.Minute), "tok_3")))
		})
		view(t, db, func(tx *store.Tx) error {
			acks, err := tx.Acks(ctx, d.ID)
			if want := []rotation.Ack{ack("b", true, now, "webhook"), ack("a", true, now.Add(time.Second), "tok_1"), ack("c", true, now.Add(time.Minute), "tok_3")}; !slices.Equal(acks, want) {
				t.Errorf("acknowledgements %+v", acks)
			}
			got, err2 := tx.Delivery(ctx, d.ID)
			if got.Instances != 3 {
				t.Errorf("%d instances are to acknowledge it", got.Instances)
			}
			return errors.Join(err, err2)
		})
		update(t, db, func(tx *store.Tx) error { return tx.DropAcks(ctx, d.ID) })
		view(t, db, func(tx *store.Tx) error {
			acks, err := tx.Acks(ctx, d.ID)
			if len(acks) > 0 {
				t.Errorf("dropped: %+v", acks)
			}
			return err
		})
	})
}

func TestWhatWaitsForAConsumer(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		due, later, held, leased, others := newDelivery(s, "web", 1), newDelivery(s, "web", 1), newDelivery(s, "web", 1), newDelivery(s, "web", 1), newDelivery(s, "batch", 1)
		later.NextAttemptAt, held.NextAttemptAt, leased.Lease = now.Add(time.Hour), time.Time{}, now.Add(time.Minute)
		due.CreatedAt = now.Add(-time.Minute)
		update(t, db, func(tx *store.Tx) (err error) {
			for _, d := range []*rotation.Delivery{&due, &later, &held, &leased, &others} {
				err = errors.Join(err, tx.AddDelivery(ctx, d))
			}
			return err
		})
		look := func(wantDue, wantPending []string, wantHeld []string) {
			t.Helper()
			view(t, db, func(tx *store.Tx) error {
				found, err := tx.DueTo(ctx, "web", now, 10)
				var ids []string
				for _, d := range found {
					ids = append(ids, d.ID)
					if d.Consumer != "web" || d.SecretID != s.ID {
						t.Errorf("due: %+v", d)
					}
				}
				pending, err2 := tx.PendingTo(ctx, "web", "", now, rotation.Delivery{}, 10)
				var waiting []string
				for _, d := range pending {
					waiting = append(waiting, d.ID)
				}
				names, err3 := tx.HeldConsumers(ctx)
				for _, pair := range [][2][]string{{ids, wantDue}, {waiting, wantPending}, {names, wantHeld}} {
					slices.Sort(pair[0])
					slices.Sort(pair[1])
					if !slices.Equal(pair[0], pair[1]) {
						t.Errorf("%v, not %v", pair[0], pair[1])
					}
				}
				return errors.Join(err, err2, err3)
			})
		}
		all := []string{due.ID, later.ID, held.ID}
		look([]string{due.ID}, all, []string{"web"})
		update(t, db, func(tx *store.Tx) error { return tx.WakeDeliveries(ctx, "web", now) })
		look(all, all, nil)
		update(t, db, func(tx *store.Tx) error { return tx.HoldDeliveries(ctx, "web") })
		look(nil, all, []string{"web"})
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.SaveDelivery(ctx, &leased) }); !errors.Is(err, backends.ErrConflict) {
			t.Errorf("who read the row before it was held saves it: %v", err)
		}
	})
}

func TestConsumerState(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		read := func() (got rotation.ConsumerState) {
			t.Helper()
			view(t, db, func(tx *store.Tx) (err error) {
				got, err = tx.ConsumerState(ctx, "web")
				return err
			})
			return got
		}
		if got := read(); got != (rotation.ConsumerState{Name: "web"}) {
			t.Errorf("of one that nothing is known of: %+v", got)
		}
		disabled := rotation.ConsumerState{Name: "web", DisabledAt: now.UTC(), Why: "status 410", Endpoint: "digest"}
		update(t, db, func(tx *store.Tx) error { return tx.SaveConsumerState(ctx, disabled) })
		if got := read(); got != disabled {
			t.Errorf("disabled: %+v", got)
		}
		update(t, db, func(tx *store.Tx) error {
			return tx.SaveConsumerState(ctx, rotation.ConsumerState{Name: "web"})
		})
		view(t, db, func(tx *store.Tx) error {
			all, err := tx.ConsumerStates(ctx)
			if len(all) != 1 || !all[0].DisabledAt.IsZero() {
				t.Errorf("enabled: %+v", all)
			}
			return err
		})
	})
}

// A consumer that is down, with more waiting than anybody looks at, hides nobody else's.
func TestDueDeliveriesOfOneConsumerHideNoOther(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		const many = 250
		s := addSecret(t, db, "a")
		update(t, db, func(tx *store.Tx) (err error) {
			for i := range many {
				d := notice(s, rotation.EventRetired, i+1, 1) // of versions of its own: none takes another's place
				d.Consumer, d.ID = "down", fmt.Sprintf("d%03d", i)
				d.NextAttemptAt = now.Add(-time.Hour)
				err = errors.Join(err, tx.AddDelivery(ctx, &d))
			}
			d := notice(s, rotation.EventRetired, 1, 1)
			uncollected := d
			uncollected.ID, uncollected.Consumer, uncollected.NextAttemptAt, uncollected.CreatedAt = newID("del"), "inbox", time.Time{}, now.Add(-engine.Uncollected)
			return errors.Join(err, tx.AddDelivery(ctx, &d), tx.AddDelivery(ctx, &uncollected))
		})
		view(t, db, func(tx *store.Tx) error {
			got, err := tx.Due(ctx, now, 200) // as many as those of the one that is down
			count := map[string]int{}
			for _, d := range got.Deliveries {
				count[d.Consumer]++
			}
			if count["web"] != 1 || count["inbox"] != 1 || count["down"] != 199 {
				t.Errorf("due: %v", count)
			}
			return err
		})
	})
}

func TestSecretsWhoseConsumersAreToBeTold(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s, paused, later := addSecret(t, db, "a"), addSecret(t, db, "b"), addSecret(t, db, "c")
		s.NoticeAt, s.NoticedDue, paused.NoticeAt, later.NoticeAt = now, now.Add(-time.Hour), now, now.Add(time.Hour)
		paused.State = rotation.SecretPaused
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.SaveSecret(ctx, &s), tx.SaveSecret(ctx, &paused), tx.SaveSecret(ctx, &later))
		})
		view(t, db, func(tx *store.Tx) error {
			due, err := tx.Beginning(ctx, now, 10)
			read, err2 := tx.Secret(ctx, s.ID)
			if !slices.Equal(due.Notices, []string{s.ID}) || !read.NoticeAt.Equal(now) || !read.NoticedDue.Equal(s.NoticedDue) {
				t.Errorf("to be told: %v; read back %v %v", due.Notices, read.NoticeAt, read.NoticedDue)
			}
			return errors.Join(err, err2)
		})
	})
}
