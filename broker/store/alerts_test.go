package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

func openAlerts(t *testing.T, db *store.DB) []store.Alert {
	t.Helper()
	return read(t, db, func(tx *store.Tx) ([]store.Alert, error) {
		items, _, err := tx.AlertsPage(t.Context(), store.AlertFilter{Open: true}, store.Page{})
		return items, err
	})
}

func TestOneOpenAlertOfEachSubject(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		one := store.Raise{Kind: "drift", Tenant: "acme", Subject: "us a", Text: "first", Next: "look"}
		again := one
		again.Text = "second"
		update(t, db, func(tx *store.Tx) error { return tx.RaiseAlert(ctx, one) })
		update(t, db, func(tx *store.Tx) error { return tx.RaiseAlert(ctx, again) })
		update(t, db, func(tx *store.Tx) error { return tx.OpenAlert(ctx, one) }) // no news
		other := one
		other.Tenant = "umbrella"
		update(t, db, func(tx *store.Tx) error { return tx.OpenAlert(ctx, other) })

		alerts := openAlerts(t, db)
		if len(alerts) != 2 || alerts[1].Count != 2 || alerts[1].Text != "second" || alerts[0].Count != 1 {
			t.Fatalf("alerts %+v", alerts)
		}
		a := alerts[1]
		stale := a
		a.ResolvedAt = time.Now()
		update(t, db, func(tx *store.Tx) error { return tx.SaveAlert(ctx, &a) })
		err := db.Update(ctx, func(tx *store.Tx) error { return tx.SaveAlert(ctx, &stale) })
		if !errors.Is(err, store.ErrStale) {
			t.Errorf("a swap that was lost: %v", err)
		}
		update(t, db, func(tx *store.Tx) error { return tx.RaiseAlert(ctx, one) })
		alerts = openAlerts(t, db)
		if len(alerts) != 2 || alerts[0].ID == a.ID || alerts[0].Count != 1 || alerts[0].Text != "first" {
			t.Errorf("raised again after its end: %+v", alerts)
		}
		counts := read(t, db, func(tx *store.Tx) (map[string]int, error) { return tx.CountAlerts(ctx) })
		if fmt.Sprint(counts) != "map[drift:2]" {
			t.Errorf("counted %v", counts)
		}
		for filter, want := range map[store.AlertFilter]int{{}: 3, {Open: true}: 2, {Tenant: "acme"}: 2, {Tenant: "acme", Open: true}: 1, {Kind: "drift"}: 3, {Kind: "unconfirmed"}: 0} {
			n := 0
			pages(t, db, 1, func(tx *store.Tx, p store.Page) (int, string, error) {
				items, next, err := tx.AlertsPage(ctx, filter, p)
				n += len(items)
				return len(items), next, err
			})
			if n != want {
				t.Errorf("%+v has %d alerts, want %d", filter, n, want)
			}
		}
	})
}

// TestWhatWasAcknowledgedIsNoNews: who has just acknowledged what cannot be over by
// itself is not told of it once more, save after a while.
func TestWhatWasAcknowledgedIsNoNews(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx, at := t.Context(), now
		cfg.Now = func() time.Time { return at }
		db := open(t, cfg)
		used := store.Raise{Kind: "break_glass", Tenant: "acme", Subject: "tok_1", Text: "from here"}
		raise := func(want, count int) store.Alert {
			t.Helper()
			update(t, db, func(tx *store.Tx) error { return tx.RaiseAlert(ctx, used) })
			all := read(t, db, func(tx *store.Tx) ([]store.Alert, error) {
				items, _, err := tx.AlertsPage(ctx, store.AlertFilter{}, store.Page{})
				return items, err
			})
			if len(all) != want || all[0].Count != count || all[0].Text != used.Text || !all[0].LastAt.Equal(at) {
				t.Fatalf("alerts %+v, want %d, the last raised %d times", all, want, count)
			}
			return all[0]
		}
		end := func(a store.Alert, acked, resolved time.Time) {
			a.AckedAt, a.ResolvedAt = acked, resolved
			update(t, db, func(tx *store.Tx) error { return tx.SaveAlert(ctx, &a) })
		}
		raise(1, 1)
		end(raise(1, 2), at, at)
		at, used.Text = at.Add(14*time.Minute), "from there"
		if a := raise(1, 3); a.Open() {
			t.Errorf("it is open again: %+v", a)
		}
		at = at.Add(time.Minute)
		end(raise(2, 1), at.Add(-time.Second), at) // over by itself, after an acknowledgement
		if a := raise(3, 1); !a.Open() {
			t.Errorf("what was over is no news: %+v", a)
		}
	})
}

func TestNoticesAreSwapped(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		update(t, db, func(tx *store.Tx) error { return tx.RaiseAlert(ctx, store.Raise{Kind: "drift", Subject: "a"}) })
		a := openAlerts(t, db)[0]
		n := store.Notice{ID: newID("ntc"), AlertID: a.ID, Rule: "security", Notifier: "pager", Event: "raised", Seq: 1,
			State: store.NoticePending, CreatedAt: now, NextAt: now}
		beat := store.Notice{ID: newID("ntc"), Rule: "security", Notifier: "pager", Event: "heartbeat", Seq: 1, State: store.NoticePending, CreatedAt: now}
		update(t, db, func(tx *store.Tx) error { return errors.Join(tx.AddNotice(ctx, &n), tx.AddNotice(ctx, &beat)) })
		twice := n
		twice.ID = newID("ntc")
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddNotice(ctx, &twice) }); !errors.Is(err, backends.ErrConflict) {
			t.Errorf("two notices of one thing: %v", err)
		}
		stale := n
		n.State, n.Told, n.SentAt, n.NextAt, n.Error, n.Owner, n.Lease = store.NoticeSent, 1, now, time.Time{}, "why", "me", now
		update(t, db, func(tx *store.Tx) error { return tx.SaveNotice(ctx, &n) })
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.SaveNotice(ctx, &stale) }); !errors.Is(err, store.ErrStale) {
			t.Errorf("a swap that was lost: %v", err)
		}
		got := read(t, db, func(tx *store.Tx) (store.Notice, error) { return tx.Notice(ctx, n.ID) })
		n.CreatedAt, n.SentAt, n.Lease = now.UTC(), now.UTC(), now.UTC()
		if got != n {
			t.Errorf("read back %+v, want %+v", got, n)
		}
		all := read(t, db, func(tx *store.Tx) ([]store.Notice, error) { return tx.UnsettledNotices(ctx) })
		if len(all) != 2 {
			t.Errorf("%d notices are not settled", len(all))
		}
		a.ResolvedAt, a.SettledAt = now, now
		update(t, db, func(tx *store.Tx) error { return tx.SaveAlert(ctx, &a) })
		all = read(t, db, func(tx *store.Tx) ([]store.Notice, error) { return tx.UnsettledNotices(ctx) })
		if len(all) != 1 || all[0].ID != beat.ID {
			t.Errorf("of what is settled is left: %+v", all)
		}
		of := func() int {
			return len(read(t, db, func(tx *store.Tx) ([]store.Notice, error) { return tx.NoticesOf(ctx, []string{a.ID}) }))
		}
		update(t, db, func(tx *store.Tx) error { return tx.PruneAlerts(ctx, now) })
		if of() != 1 {
			t.Errorf("pruned before its time: %d notices", of())
		}
		update(t, db, func(tx *store.Tx) error { return tx.PruneAlerts(ctx, now.Add(time.Second)) })
		if _, err := readErr(t, db, func(tx *store.Tx) (store.Alert, error) { return tx.Alert(ctx, a.ID) }); !errors.Is(err, backends.ErrNotFound) || of() != 0 {
			t.Errorf("not pruned: %v, %d notices", err, of())
		}
	})
}

func readErr[T any](t *testing.T, db *store.DB, query func(*store.Tx) (T, error)) (got T, err error) {
	t.Helper()
	view(t, db, func(tx *store.Tx) error {
		got, err = query(tx)
		return nil
	})
	return got, err
}

// taken collects what a query hands on.
func taken[T any](t *testing.T, db *store.DB, query func(*store.Tx, func(T)) error) []T {
	t.Helper()
	return read(t, db, func(tx *store.Tx) (all []T, err error) {
		err = query(tx, func(item T) { all = append(all, item) })
		return all, err
	})
}

func TestTroubledRetirements(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "payments/stripe")
		var all []rotation.Retirement
		for i, state := range []rotation.RetirementState{rotation.ProvenDead, rotation.Unconfirmed, rotation.Resurrected, rotation.Unprovable} {
			r := newRetirement(s, i+1)
			r.State = state
			r.RequestedAt = now.Add(time.Duration(i) * time.Second)
			update(t, db, func(tx *store.Tx) error {
				return errors.Join(tx.AddRetirement(ctx, &r), tx.RaiseAlert(ctx, store.Raise{Kind: "resurrected", Tenant: s.Ref.Tenant, Subject: r.ID}))
			})
			all = append(all, r)
		}
		found := taken(t, db, func(tx *store.Tx, take func(store.RetirementOf)) error { return tx.TroubledRetirements(ctx, take) })
		if len(found) != 2 || found[0].ID != all[1].ID || found[1].ID != all[2].ID || found[0].Ref != s.Ref {
			t.Errorf("troubled retirements %+v", found)
		}
		a := openAlerts(t, db)[0]
		a.ResolvedAt = now
		update(t, db, func(tx *store.Tx) error { return tx.SaveAlert(ctx, &a) })
		states := read(t, db, func(tx *store.Tx) (map[string]rotation.RetirementState, error) {
			return tx.StatesOfSubjects(ctx, "resurrected")
		})
		for _, r := range all {
			if _, there := states[r.ID]; there == (r.ID == a.Subject) || there && states[r.ID] != r.State {
				t.Errorf("the states of what is told of are %v", states)
			}
		}
	})
}

func TestStuckDeliveries(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "payments/stripe")
		change := func(consumers []string, state rotation.SecretState) {
			s.Definition.Consumers, s.State = consumers, state
			update(t, db, func(tx *store.Tx) error { return tx.SaveSecret(ctx, &s) })
		}
		change([]string{"web", "app", "old"}, rotation.SecretActive)
		dead, slow, superseded := newDelivery(s, "web", 1), newDelivery(s, "app", 1), newDelivery(s, "old", 1)
		for _, d := range []*rotation.Delivery{&dead, &slow, &superseded} {
			update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, d) })
		}
		for _, d := range []*rotation.Delivery{&dead, &superseded} {
			d.State = rotation.DeliveryDead
			update(t, db, func(tx *store.Tx) error { return tx.SaveDelivery(ctx, d) })
		}
		newer := newDelivery(s, "old", 2)
		newer.CreatedAt = now.Add(time.Hour)
		update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &newer) })
		want := func(before time.Time, ids ...string) {
			t.Helper()
			var got []string
			for _, d := range taken(t, db, func(tx *store.Tx, take func(rotation.Delivery)) error { return tx.StuckDeliveries(ctx, before, take) }) {
				got = append(got, d.ID)
				if d.Ref != s.Ref {
					t.Errorf("delivery %+v", d)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(ids) {
				t.Errorf("stuck before %s: %v, want %v", before, got, ids)
			}
		}
		want(now, dead.ID)
		want(now.Add(time.Second), dead.ID, slow.ID)
		change([]string{"app"}, rotation.SecretActive) // the others are told no more
		want(now.Add(time.Second), slow.ID)
		change([]string{"app"}, rotation.SecretUnmanaged)
		want(now.Add(time.Second))
	})
}

func TestTroubledRotations(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "payments/stripe")
		r := addRotation(t, db, s)
		r.State, r.WaitingFor = rotation.Overlap, rotation.WaitAcknowledgment
		update(t, db, func(tx *store.Tx) error { return tx.SaveRotation(ctx, &r) })
		held := taken(t, db, func(tx *store.Tx, take func(store.RotationOf)) error { return tx.HeldOverlaps(ctx, take) })
		if len(held) != 1 || held[0].ID != r.ID || held[0].Ref != s.Ref {
			t.Errorf("held overlaps %+v", held)
		}
		r.State, r.EndedAt = rotation.Failed, now
		update(t, db, func(tx *store.Tx) error { return tx.SaveRotation(ctx, &r) })
		failed := func() int {
			return len(taken(t, db, func(tx *store.Tx, take func(store.RotationOf)) error { return tx.FailedRotations(ctx, take) }))
		}
		if failed() != 1 {
			t.Errorf("%d failed rotations", failed())
		}
		for state, want := range map[rotation.SecretState]int{rotation.SecretUnmanaged: 0, rotation.SecretActive: 1} {
			s.State = state
			update(t, db, func(tx *store.Tx) error { return tx.SaveSecret(ctx, &s) })
			if failed() != want {
				t.Errorf("%d failed rotations of a secret that is %s", failed(), state)
			}
		}
		next := newRotation(s)
		next.CreatedAt = now.Add(time.Minute)
		update(t, db, func(tx *store.Tx) error { return tx.AddRotation(ctx, &next) })
		if failed() != 0 {
			t.Error("a failure that a newer rotation has followed")
		}
	})
}

func TestAstrayPlacements(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "payments/stripe")
		found := now.Add(-time.Hour)
		for i, p := range []rotation.Placement{
			{Backend: "fine", Role: rotation.RolePrimary, Want: 1, Have: 1},
			{Backend: "drifted", Role: rotation.RolePrimary, Want: 1, Have: 1, Drift: &rotation.Drift{Kind: rotation.DriftChanged, FoundAt: found}},
			{Backend: "behind", Role: rotation.RoleMirror, Want: 1},
			{Backend: "former", Role: rotation.RoleFormer, Want: 1},
		} {
			p.ID, p.SecretID = fmt.Sprint("p", i), s.ID
			update(t, db, func(tx *store.Tx) error { return tx.AddPlacement(ctx, &p) })
		}
		astray := taken(t, db, func(tx *store.Tx, take func(store.Astray)) error { return tx.AstrayPlacements(ctx, take) })
		if len(astray) != 2 || astray[0].Backend != "behind" || astray[0].Ref != s.Ref || astray[1].Backend != "drifted" || !astray[1].Since.Equal(found) {
			t.Errorf("astray %+v", astray)
		}
	})
}
