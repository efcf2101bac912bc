package store_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
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
			update(t, db, func(tx *store.Tx) error { return tx.NoteConsumerRead(ctx, s.ID, consumer, version, at) })
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

// Who was given a version is found by who they are and by where they were.
func TestWhoWasGivenWhat(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		a, b := addSecret(t, db, "a"), addSecret(t, db, "b")
		theirs := rotation.Secret{ID: newID("sec"), Ref: backends.Ref{Tenant: "acme", Name: "a"}, Origin: rotation.OriginAPI, State: rotation.SecretActive}
		update(t, db, func(tx *store.Tx) error { return tx.AddSecret(ctx, &theirs) })
		later := now.Add(time.Hour)
		note := func(s rotation.Secret, version int, who, role, address string, at time.Time) {
			t.Helper()
			r := store.Read{SecretID: s.ID, Version: version, Who: who, Role: role, Actor: "tok of " + who, LastAt: at}
			if address != "" {
				r.Address = netip.MustParseAddr(address)
			}
			changed := db.Changed()
			update(t, db, func(tx *store.Tx) error { return tx.NoteRead(ctx, r) })
			select {
			case <-changed:
				t.Error("a read wakes who waits for changes")
			default:
			}
		}
		note(a, 1, "corp/alice", "shop", "10.0.0.7", now)
		note(a, 1, "corp/alice", "shop", "::ffff:10.0.0.7", later) // the same
		note(a, 1, "corp/alice", "shop", "10.0.0.7", now)          // of a node whose clock is behind
		note(a, 2, "corp/alice", "shop", "10.0.1.7", later)
		note(b, 1, "tok_1", "", "2001:db8::1", now)
		note(b, 3, "tok_1", "shop", "", later)
		note(theirs, 1, "corp/bob", "shop", "10.0.0.7", now)

		same(t, "reads", read(t, db, func(tx *store.Tx) ([]store.Read, error) { return tx.Reads(ctx, a.ID, 1, 10) }), []store.Read{
			{SecretID: a.ID, Version: 1, Who: "corp/alice", Role: "shop", Address: netip.MustParseAddr("10.0.0.7"), Actor: "tok of corp/alice", FirstAt: now.UTC(), LastAt: later.UTC()}})
		if r := read(t, db, func(tx *store.Tx) ([]store.Read, error) { return tx.Reads(ctx, b.ID, 3, 10) }); len(r) != 1 || r[0].Address.IsValid() {
			t.Errorf("from an unknown address: %+v", r)
		}
		for name, tt := range map[string]struct {
			by   store.ReadFilter
			want map[string][]int
		}{
			"a role":                 {store.ReadFilter{Who: "shop"}, map[string][]int{a.ID: {1, 2}, b.ID: {3}, theirs.ID: {1}}},
			"a role, lately":         {store.ReadFilter{Who: "shop", Since: later}, map[string][]int{a.ID: {1, 2}, b.ID: {3}}},
			"a role, of a tenant":    {store.ReadFilter{Who: "shop", Tenant: "acme"}, map[string][]int{theirs.ID: {1}}},
			"an identity":            {store.ReadFilter{Who: "corp/alice"}, map[string][]int{a.ID: {1, 2}}},
			"a token":                {store.ReadFilter{Who: "tok_1"}, map[string][]int{b.ID: {1, 3}}},
			"nobody":                 {store.ReadFilter{Who: "carol"}, map[string][]int{}},
			"an address":             {store.ReadFilter{Network: netip.MustParsePrefix("10.0.0.7/32")}, map[string][]int{a.ID: {1}, theirs.ID: {1}}},
			"a network":              {store.ReadFilter{Network: netip.MustParsePrefix("10.0.0.0/23")}, map[string][]int{a.ID: {1, 2}, theirs.ID: {1}}},
			"a network of IPv6":      {store.ReadFilter{Network: netip.MustParsePrefix("2001:db8::/32")}, map[string][]int{b.ID: {1}}},
			"all of IPv4":            {store.ReadFilter{Network: netip.MustParsePrefix("0.0.0.0/0")}, map[string][]int{a.ID: {1, 2}, theirs.ID: {1}}},
			"everywhere":             {store.ReadFilter{Network: netip.MustParsePrefix("::/0")}, map[string][]int{a.ID: {1, 2}, b.ID: {1}, theirs.ID: {1}}},
			"a role in a network":    {store.ReadFilter{Who: "shop", Network: netip.MustParsePrefix("10.0.1.0/24")}, map[string][]int{a.ID: {2}}},
			"a network, of a tenant": {store.ReadFilter{Network: netip.MustParsePrefix("10.0.0.0/8"), Tenant: "acme"}, map[string][]int{theirs.ID: {1}}},
		} {
			same(t, name, read(t, db, func(tx *store.Tx) (map[string][]int, error) { return tx.ReadBy(ctx, tt.by) }), tt.want)
		}
		update(t, db, func(tx *store.Tx) error {
			return tx.AddVersion(ctx, &rotation.Version{SecretID: a.ID, Ref: a.Ref, Stage: rotation.StageRetired, Tag: "x", CreatedAt: now})
		})
		update(t, db, func(tx *store.Tx) error { return tx.PruneReads(ctx, later.Add(time.Second)) })
		same(t, "of retired versions the old ones go", read(t, db, func(tx *store.Tx) (map[string][]int, error) {
			return tx.ReadBy(ctx, store.ReadFilter{Who: "corp/alice"})
		}), map[string][]int{a.ID: {2}})
	})
}

// What a consumer was sent is what was tried, and received or not.
func TestWhatConsumersWereSent(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "sent")
		for i, edit := range []func(*rotation.Delivery){
			func(d *rotation.Delivery) { d.Attempts, d.ReceivedAt = 1, now.Add(time.Minute) },
			func(d *rotation.Delivery) { d.Attempts = 3 },
			func(*rotation.Delivery) {},                                 // it waits
			func(d *rotation.Delivery) { d.Since = now.Add(time.Hour) }, // it is replayed
			func(d *rotation.Delivery) { d.Attempts, d.Event, d.ReceivedAt = 1, rotation.EventRetired, now },
			func(d *rotation.Delivery) {
				d.Attempts, d.SecretID, d.Event, d.ReceivedAt = 1, "", rotation.EventTest, now
			},
		} {
			d := newDelivery(s, "web", int64(i+1))
			d.CreatedAt = now.Add(time.Duration(i) * time.Second)
			wanted := d
			edit(&wanted)
			d.Event, d.SecretID = wanted.Event, wanted.SecretID
			update(t, db, func(tx *store.Tx) error {
				if err := tx.AddDelivery(ctx, &d); err != nil {
					return err
				}
				d.Attempts, d.ReceivedAt = wanted.Attempts, wanted.ReceivedAt
				if !wanted.Since.IsZero() {
					d.Since = wanted.Since
				}
				return tx.SaveDelivery(ctx, &d)
			})
		}
		var to []store.Told
		view(t, db, func(tx *store.Tx) error { return tx.ToldTo(ctx, "web", func(t store.Told) { to = append(to, t) }) })
		slices.SortFunc(to, func(x, y store.Told) int { return x.Version - y.Version })
		first := store.Told{SecretID: s.ID, Version: 1, Consumer: "web", At: now.Add(time.Minute).UTC(), SentAt: now.UTC()}
		same(t, "to the consumer", to, []store.Told{first, {SecretID: s.ID, Version: 2, Consumer: "web", SentAt: now.Add(time.Second).UTC()},
			{SecretID: s.ID, Version: 4, Consumer: "web", SentAt: now.Add(3 * time.Second).UTC()}})
		same(t, "of a version", read(t, db, func(tx *store.Tx) ([]store.Told, error) { return tx.ToldOf(ctx, s.ID, 1) }), []store.Told{first})
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
