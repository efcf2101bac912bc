package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/local"
	"github.com/keybroker/keybroker/backends/local/localtest"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/keys"
)

func TestListSecrets(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		var want []string
		for i := range 7 {
			want = append(want, fmt.Sprintf("app/%02d", i))
			addSecret(t, db, want[i])
		}
		for _, name := range []string{"appendix", "app_00", "other", "B", "a.b", "Other", "a-b"} {
			addSecret(t, db, name)
		}
		foreign := rotation.Secret{ID: newID("sec"), Ref: backends.Ref{Tenant: "acme", Name: "app/foreign"}, Origin: rotation.OriginAPI}
		update(t, db, func(tx *store.Tx) error { return tx.AddSecret(t.Context(), &foreign) })
		list := func(by store.SecretFilter, limit int) (names []string) {
			pages(t, db, limit, func(tx *store.Tx, p store.Page) (int, string, error) {
				items, next, err := tx.Secrets(t.Context(), by, p)
				for _, s := range items {
					names = append(names, s.Ref.Name)
				}
				return len(items), next, err
			})
			return names
		}
		mine := store.SecretFilter{Tenant: backends.DefaultTenant, Prefix: "app/"}
		for _, limit := range []int{1, 3, 7, 8} {
			if got := list(mine, limit); !slices.Equal(got, want) {
				t.Errorf("limit %d: %v", limit, got)
			}
		}
		every := append([]string{"app/foreign", "B", "Other", "a-b", "a.b"}, want...) // of tenant acme, then in byte order
		every = append(every, "app_00", "appendix", "other")
		if got := list(store.SecretFilter{}, 4); !slices.Equal(got, every) {
			t.Errorf("all: %v", got)
		}
		if got := list(store.SecretFilter{Origin: rotation.OriginAPI}, 4); !slices.Equal(got, []string{"app/foreign"}) {
			t.Errorf("by origin: %v", got)
		}
	})
}

func TestListsAreNewestFirst(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s, other := addSecret(t, db, "a"), addSecret(t, db, "b")
		var rotations, retirements, deliveries, tokens []string
		for i := range 5 {
			at := now.Add(time.Duration(i/2) * time.Second) // two of a time: the id decides
			r, ret, del := newRotation(s), newRetirement(s, i+1), newDelivery(s, "web", int64(i))
			tok := store.Token{ID: newID("tok"), Tenant: "acme", Hash: []byte{byte(i)}, CreatedAt: at}
			r.CreatedAt, ret.RequestedAt, del.CreatedAt = at, at, at
			r.State, r.EndedAt = rotation.Done, at
			if i == 4 {
				r.State, r.EndedAt = rotation.Queued, time.Time{}
			}
			update(t, db, func(tx *store.Tx) error {
				return errors.Join(tx.AddRotation(ctx, &r), tx.AddRetirement(ctx, &ret), tx.AddDelivery(ctx, &del), tx.AddToken(ctx, tok))
			})
			rotations, retirements = append(rotations, r.ID), append(retirements, ret.ID)
			deliveries, tokens = append(deliveries, del.ID), append(tokens, tok.ID)
		}
		foreign := addRotation(t, db, other)
		for _, ids := range [][]string{rotations, retirements, deliveries, tokens} {
			slices.Reverse(ids)
		}
		type lister func(*store.Tx, store.Page) ([]string, string, error)
		for name, tt := range map[string]struct {
			want []string
			list lister
		}{
			"rotations": {rotations, func(tx *store.Tx, p store.Page) ([]string, string, error) {
				items, next, err := tx.Rotations(ctx, store.RotationFilter{Tenant: s.Ref.Tenant, SecretID: s.ID}, p)
				return names(items, func(r store.RotationOf) string { return r.ID }), next, err
			}},
			"live rotations": {[]string{rotations[0], foreign.ID}, func(tx *store.Tx, p store.Page) ([]string, string, error) {
				items, next, err := tx.Rotations(ctx, store.RotationFilter{Live: true}, p)
				return names(items, func(r store.RotationOf) string { return r.ID }), next, err
			}},
			"retirements": {retirements, func(tx *store.Tx, p store.Page) ([]string, string, error) {
				items, next, err := tx.RetirementsPage(ctx, store.RetirementFilter{SecretID: s.ID, State: rotation.Requested}, p)
				return names(items, func(r store.RetirementOf) string { return r.ID }), next, err
			}},
			"deliveries": {deliveries, func(tx *store.Tx, p store.Page) ([]string, string, error) {
				items, next, err := tx.DeliveriesPage(ctx, store.DeliveryFilter{Tenant: s.Ref.Tenant, Consumer: "web"}, p)
				return names(items, func(d rotation.Delivery) string { return d.ID }), next, err
			}},
			"pending deliveries": {deliveries[:1], func(tx *store.Tx, p store.Page) ([]string, string, error) {
				items, next, err := tx.DeliveriesPage(ctx, store.DeliveryFilter{SecretID: s.ID, State: rotation.DeliveryPending}, p)
				return names(items, func(d rotation.Delivery) string { return d.ID }), next, err
			}},
			"tokens": {tokens, func(tx *store.Tx, p store.Page) ([]string, string, error) {
				items, next, err := tx.Tokens(ctx, store.TokenFilter{Tenant: "acme"}, p)
				return names(items, func(t store.Token) string { return t.ID }), next, err
			}},
		} {
			for _, limit := range []int{2, 100} {
				var got []string
				pages(t, db, limit, func(tx *store.Tx, p store.Page) (int, string, error) {
					ids, next, err := tt.list(tx, p)
					got = append(got, ids...)
					return len(ids), next, err
				})
				if !slices.Equal(got, tt.want) {
					t.Errorf("%s in pages of %d: got %v, want %v", name, limit, got, tt.want)
				}
			}
		}
		view(t, db, func(tx *store.Tx) error {
			items, _, err := tx.Rotations(ctx, store.RotationFilter{SecretID: s.ID}, store.Page{Limit: 1})
			if len(items) != 1 || items[0].Ref != s.Ref {
				t.Errorf("with the name of the secret: %+v", items)
			}
			for _, after := range []string{"x", "!", "W10", "WzEsMiwzXQ"} {
				if _, _, err := tx.Rotations(ctx, store.RotationFilter{}, store.Page{After: after}); !errors.Is(err, backends.ErrInvalid) {
					t.Errorf("cursor %q: %v", after, err)
				}
			}
			return err
		})
	})
}

func names[T any](items []T, name func(T) string) []string {
	var out []string
	for _, item := range items {
		out = append(out, name(item))
	}
	return out
}

func TestTokens(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		want := store.Token{
			ID: "tok_1", Kind: store.TokenBreakGlass, Tenant: "acme", Environment: "production", Name: "ci", Hash: []byte{0, 1, 2},
			Method: "corp", Identity: "alice", Role: "on-call", Policies: []string{"reader", "ops"}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			Parent: "tok_0", Lineage: "tok_0/tok_1", Uses: 3, UsesLeft: 2, CreatedAt: now.UTC(), TTL: time.Minute,
			ExpiresAt: now.Add(time.Hour).UTC(), EndsAt: now.Add(2 * time.Hour).UTC(), Idle: time.Hour,
		}
		update(t, db, func(tx *store.Tx) error { return tx.AddToken(ctx, want) })
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.TouchToken(ctx, want.ID, now.Add(2)), tx.TouchToken(ctx, want.ID, now.Add(time.Second)),
				tx.TouchToken(ctx, want.ID, now), tx.TouchToken(ctx, "none", now))
		})
		want.LastUsedAt = now.Add(time.Second).UTC()
		same(t, "token", read(t, db, func(tx *store.Tx) (store.Token, error) { return tx.TokenByHash(ctx, want.Hash) }), want)

		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.RevokeToken(ctx, want.ID, now), tx.RevokeToken(ctx, want.ID, now.Add(time.Hour)))
		})
		want.RevokedAt = now.UTC()
		same(t, "revoked token", read(t, db, func(tx *store.Tx) (store.Token, error) { return tx.Token(ctx, want.ID) }), want)
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.RevokeToken(ctx, "none", now) }); !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("revoking a missing token: %v", err)
		}
		if err := db.View(ctx, func(tx *store.Tx) error { _, err := tx.TokenByHash(ctx, []byte{9}); return err }); !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("an unknown hash: %v", err)
		}
	})
}

func TestSettingsAreAgreedOn(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		const nodes = 6
		got := make(chan []byte, nodes)
		for i := range nodes {
			go func() {
				var value []byte
				err := db.Update(ctx, func(tx *store.Tx) (err error) {
					value, err = tx.PutSettingIfAbsent(ctx, "id", []byte{byte(i)})
					return err
				})
				if err != nil {
					t.Error(err)
				}
				got <- value
			}()
		}
		first := <-got
		for range nodes - 1 {
			if value := <-got; !bytes.Equal(value, first) {
				t.Errorf("got %v and %v", first, value)
			}
		}
		if err := db.View(ctx, func(tx *store.Tx) error { _, err := tx.Setting(ctx, "none"); return err }); !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("a missing one: %v", err)
		}
	})
}

func TestAuditOutbox(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		var want []rotation.AuditEvent
		for i := range 6 {
			ev := rotation.AuditEvent{
				At: now.UTC(), Tenant: "acme", Actor: "keybroker", Action: "rotation.publish", Path: fmt.Sprint("a/", i),
				Outcome: "ok", Detail: map[string]string{"n": "1"},
			}
			want = append(want, ev)
			if i%2 == 0 {
				continue // two events a commit
			}
			changed := db.Changed()
			update(t, db, func(tx *store.Tx) error { return errors.Join(tx.AddAudit(ctx, want[i-1]), tx.AddAudit(ctx, ev)) })
			<-changed
		}
		entries := read(t, db, func(tx *store.Tx) ([]store.AuditEntry, error) { return tx.AuditOutbox(ctx, "", 2) })
		if len(entries) != 4 {
			t.Fatalf("%d entries", len(entries))
		}
		for i, e := range entries {
			same(t, "event", e.Event, want[i])
		}
		update(t, db, func(tx *store.Tx) error { return tx.DeleteAudit(ctx, "", entries[3].Seq) })
		rest := read(t, db, func(tx *store.Tx) ([]store.AuditEntry, error) { return tx.AuditOutbox(ctx, "", 0) })
		if len(rest) != 2 || rest[0].Seq != entries[3].Seq+1 || rest[0].Event.Path != "a/4" {
			t.Errorf("the rest: %+v", rest)
		}
	})
}

// TestAuditOutboxOfManyNodes has each node take what it has committed, and what one that
// died has left behind: once, however many claim it.
func TestAuditOutboxOfManyNodes(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx, at := t.Context(), now
		cfg.Now = func() time.Time { return at }
		db := open(t, cfg)
		paths := func(node string) (out []string) {
			for _, e := range read(t, db, func(tx *store.Tx) ([]store.AuditEntry, error) { return tx.AuditOutbox(ctx, node, 0) }) {
				out = append(out, e.Event.Path)
			}
			return out
		}
		for _, node := range []string{"", "a", "b", "a"} {
			db.AuditInto(node)
			update(t, db, func(tx *store.Tx) error {
				return tx.AddAudit(ctx, rotation.AuditEvent{At: at, Action: "x", Path: "of " + node})
			})
		}
		same(t, "a's", paths("a"), []string{"of a", "of a"})
		update(t, db, func(tx *store.Tx) error { return tx.ClaimAudit(ctx, "b", at.Add(-time.Minute)) })
		same(t, "b's, and anybody's", paths("b"), []string{"of ", "of b"})
		at = at.Add(2 * time.Minute) // a has died
		var claiming sync.WaitGroup
		for _, node := range []string{"b", "c"} {
			claiming.Go(func() {
				if err := db.Update(ctx, func(tx *store.Tx) error { return tx.ClaimAudit(ctx, node, at.Add(-time.Minute)) }); err != nil {
					t.Error(err)
				}
			})
		}
		claiming.Wait()
		if got := len(paths("b")) + len(paths("c")); got != 4 || len(paths("a")) != 0 {
			t.Errorf("b has %q, c has %q, a has %q", paths("b"), paths("c"), paths("a"))
		}
		last := read(t, db, func(tx *store.Tx) (int64, error) { return tx.AuditSeq(ctx) })
		update(t, db, func(tx *store.Tx) error { return tx.DeleteAudit(ctx, "a", last) }) // it was only slow
		if got := len(paths("b")) + len(paths("c")); got != 4 {
			t.Errorf("what others have claimed is gone: %d are left", got)
		}
	})
}

// TestAuditLosses keeps what is lost until every node has looked.
func TestAuditLosses(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		want := store.Loss{After: 3, UpTo: 9, At: now.UTC(), Told: []string{"a"}}
		for range 40 {
			update(t, db, func(tx *store.Tx) error { return tx.AddAuditLoss(ctx, want) })
		}
		update(t, db, func(tx *store.Tx) error { return tx.ToldAuditLosses(ctx, "b") })
		got := read(t, db, func(tx *store.Tx) ([]store.Loss, error) { return tx.AuditLosses(ctx) })
		want.Told = append(want.Told, "b")
		if len(got) != 32 {
			t.Fatalf("%d are kept", len(got))
		}
		same(t, "loss", got[31], want)
	})
}

func TestAPIKeys(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		cfg.Now = func() time.Time { return now }
		apiKeys := open(t, cfg).APIKeys()
		want := keys.Record{
			ID: "key_1", Tenant: "acme", Secret: "a", Version: 3, Tag: "kb-1", PepperVersion: 2, Hash: []byte{1, 2}, CreatedAt: now.UTC(),
		}
		for range 2 { // the second finds the first
			if err := apiKeys.Create(ctx, want); err != nil {
				t.Fatal(err)
			}
		}
		otherHash, otherTag, foreign := want, want, want
		otherHash.ID, otherHash.Hash = "key_2", []byte{3}
		otherTag.ID, otherTag.Tag = "key_3", "kb-2"
		foreign.ID, foreign.Tenant, foreign.Hash = "key_4", "other", []byte{4}
		for name, k := range map[string]keys.Record{"another hash under the tag": otherHash, "the hash under another tag": otherTag} {
			if err := apiKeys.Create(ctx, k); !errors.Is(err, backends.ErrConflict) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := apiKeys.Create(ctx, foreign); err != nil {
			t.Errorf("the tag of another tenant: %v", err)
		}
		if found, err := apiKeys.FindByTag(ctx, "kb-1"); err != nil || len(found) != 2 {
			t.Errorf("by tag: %+v, %v", found, err)
		}
		for range 2 {
			if err := apiKeys.Revoke(ctx, want.ID); err != nil {
				t.Error(err)
			}
		}
		want.RevokedAt = now.UTC()
		got, err := apiKeys.FindByHash(ctx, want.Hash)
		if err != nil {
			t.Error(err)
		}
		same(t, "revoked key", got, want)
		if err := apiKeys.Revoke(ctx, "none"); !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("revoking a missing key: %v", err)
		}
		if _, err := apiKeys.FindByHash(ctx, []byte{9}); !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("a missing hash: %v", err)
		}
	})
}

func TestLocalStorage(t *testing.T) {
	for name, config := range map[string]func(*testing.T) store.Config{"sqlite": sqliteConfig, "postgresql": postgresConfig} {
		t.Run(name, func(t *testing.T) {
			localtest.RunStorage(t, func(t *testing.T) local.Storage { return open(t, config(t)).LocalStorage() })
		})
	}
}
