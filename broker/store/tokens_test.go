package store_test

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
)

// TestNoUseOfATokenIsGivenTwice lets many take what is left at the same time.
func TestNoUseOfATokenIsGivenTwice(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		const uses, callers = 5, 20
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddToken(ctx, store.Token{ID: "tok_1", Hash: []byte{1}, CreatedAt: now, Uses: uses, UsesLeft: uses}),
				tx.AddToken(ctx, store.Token{ID: "tok_2", Hash: []byte{2}, CreatedAt: now}))
		})
		var given atomic.Int32
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				var ok bool
				err := db.Update(ctx, func(tx *store.Tx) (err error) {
					ok, err = tx.SpendToken(ctx, "tok_1")
					return err
				})
				if err != nil {
					t.Error(err)
				}
				if ok {
					given.Add(1)
				}
			})
		}
		all.Wait()
		left := read(t, db, func(tx *store.Tx) (store.Token, error) { return tx.Token(ctx, "tok_1") }).UsesLeft
		if given.Load() != uses || left != 0 {
			t.Errorf("%d uses were given, %d are left; it had %d", given.Load(), left, uses)
		}
		for _, id := range []string{"tok_2", "none"} {
			update(t, db, func(tx *store.Tx) error {
				ok, err := tx.SpendToken(ctx, id)
				if ok {
					t.Errorf("%s had no number of uses, and one was given", id)
				}
				return err
			})
		}
	})
}

func TestTokensEnd(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		at := func(hours int) time.Time { return now.Add(time.Duration(hours) * time.Hour).UTC() }
		for i, tok := range []store.Token{
			{ID: "eternal"},
			{ID: "revoked", RevokedAt: at(1)},
			{ID: "revoked later", RevokedAt: at(5)},
			{ID: "expired", ExpiresAt: at(2)},
			{ID: "expires later", ExpiresAt: at(5)},
			{ID: "idle", Idle: time.Hour},
			{ID: "in use", Idle: time.Hour, LastUsedAt: at(4)},
			{ID: "root", Kind: store.TokenRoot, ExpiresAt: at(5)},
			{ID: "root revoked", Kind: store.TokenRoot, RevokedAt: at(5)},
			{ID: "root expired", Kind: store.TokenRoot, ExpiresAt: at(3)},
			{ID: "break glass", Kind: store.TokenBreakGlass},
		} {
			tok.Hash, tok.CreatedAt = []byte{byte(i)}, now.UTC()
			update(t, db, func(tx *store.Tx) error { return tx.AddToken(ctx, tok) })
		}
		list := func() []string {
			ids := names(read(t, db, func(tx *store.Tx) ([]store.Token, error) {
				items, _, err := tx.Tokens(ctx, store.TokenFilter{}, store.Page{})
				return items, err
			}), func(tok store.Token) string { return tok.ID })
			slices.Sort(ids)
			return ids
		}
		roots := names(read(t, db, func(tx *store.Tx) ([]store.Token, error) { return tx.RootTokens(ctx, at(3)) }), func(tok store.Token) string { return tok.ID })
		if want := []string{"root"}; !slices.Equal(roots, want) {
			t.Errorf("root tokens %q, want %q", roots, want)
		}
		update(t, db, func(tx *store.Tx) error { return tx.RenewToken(ctx, "expires later", at(9)) })
		if got := read(t, db, func(tx *store.Tx) (store.Token, error) { return tx.Token(ctx, "expires later") }).ExpiresAt; !got.Equal(at(9)) {
			t.Errorf("the renewed one expires %s", got)
		}
		for _, id := range []string{"revoked", "none"} {
			if err := db.Update(ctx, func(tx *store.Tx) error { return tx.RenewToken(ctx, id, at(9)) }); !errors.Is(err, backends.ErrNotFound) {
				t.Errorf("renewing %s: %v", id, err)
			}
		}
		update(t, db, func(tx *store.Tx) error { return tx.PruneTokens(ctx, at(4)) })
		want := []string{"break glass", "eternal", "expires later", "in use", "revoked later", "root", "root revoked"}
		if got := list(); !slices.Equal(got, want) {
			t.Errorf("left after pruning: %q, want %q", got, want)
		}
	})
}

func TestTokensOfOneEnvironment(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddToken(ctx, store.Token{ID: "a", Tenant: "acme", Environment: "production", Hash: []byte{1}, CreatedAt: now}),
				tx.AddToken(ctx, store.Token{ID: "b", Tenant: "acme", Hash: []byte{2}, CreatedAt: now}),
				tx.AddToken(ctx, store.Token{ID: "c", Tenant: "globex", Environment: "production", Hash: []byte{3}, CreatedAt: now}))
		})
		items := read(t, db, func(tx *store.Tx) ([]store.Token, error) {
			items, _, err := tx.Tokens(ctx, store.TokenFilter{Tenant: "acme", Environment: "production"}, store.Page{})
			return items, err
		})
		if len(items) != 1 || items[0].ID != "a" {
			t.Errorf("found %+v", items)
		}
	})
}

func TestLiveLogins(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		for i, tok := range []store.Token{
			{ID: "endless"},
			{ID: "lives", ExpiresAt: now.Add(2 * time.Hour)},
			{ID: "expired", ExpiresAt: now.Add(time.Hour)},
			{ID: "revoked", RevokedAt: now},
			{ID: "other method", Method: "mesh"},
			{ID: "other person", Identity: "bob"},
			{ID: "other role", Role: "reader"},
			{ID: "by hand", Method: "-"},
		} {
			tok.Hash, tok.CreatedAt = []byte{byte(i)}, now.UTC()
			tok.Method, tok.Identity, tok.Role = cmp.Or(tok.Method, "corp"), cmp.Or(tok.Identity, "alice"), cmp.Or(tok.Role, "on-call")
			if tok.Method == "-" {
				tok.Method = ""
			}
			update(t, db, func(tx *store.Tx) error { return tx.AddToken(ctx, tok) })
		}
		if n := read(t, db, func(tx *store.Tx) (int, error) {
			return tx.LiveLogins(ctx, "corp", "alice", "on-call", now.Add(time.Hour))
		}); n != 2 {
			t.Errorf("%d live, want 2", n)
		}
		if n := read(t, db, func(tx *store.Tx) (int, error) { return tx.LiveLogins(ctx, "", "alice", "on-call", now) }); n != 0 {
			t.Errorf("%d made by hand", n)
		}
	})
}

func TestLiveDescendants(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		for i, tok := range []store.Token{
			{ID: "root"},
			{ID: "child", Parent: "root"},
			{ID: "revoked child", Parent: "root", RevokedAt: now},
			{ID: "grandchild", Parent: "child", ExpiresAt: now.Add(2 * time.Hour)},
			{ID: "of the revoked", Parent: "revoked child"},
			{ID: "expired", Parent: "grandchild", ExpiresAt: now.Add(time.Hour)},
			{ID: "other"},
			{ID: "of the other", Parent: "other"},
		} {
			tok.Hash, tok.CreatedAt = []byte{byte(i)}, now.UTC()
			update(t, db, func(tx *store.Tx) error { return tx.AddToken(ctx, tok) })
		}
		for of, want := range map[string]int{"root": 3, "child": 1, "expired": 0, "": 0, "other": 1} {
			if n := read(t, db, func(tx *store.Tx) (int, error) { return tx.LiveDescendants(ctx, of, now.Add(time.Hour)) }); n != want {
				t.Errorf("%d descend from %q, want %d", n, of, want)
			}
		}
	})
}
