package store_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/local"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// addKey adds a key and returns a ring that seals by it.
func addKey(t *testing.T, db *store.DB, wrappings ...store.Wrapping) *seal.Keyring {
	t.Helper()
	kek := seal.NewKEK()
	update(t, db, func(tx *store.Tx) error {
		return tx.AddSealKey(t.Context(), store.SealKey{ID: kek.ID(), CreatedAt: now, Wrappings: wrappings})
	})
	return seal.NewKeyring(kek, nil)
}

func sealed(t *testing.T, ring *seal.Keyring, ad []byte) []byte {
	t.Helper()
	b, err := ring.Seal(t.Context(), []byte("value"), ad)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSealKeysAreNumberedAndWrapped(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		first := addKey(t, db, store.Wrapping{Seal: "file:1", Wrapped: []byte{1}, CreatedAt: now}).Newest().ID()
		second := addKey(t, db).Newest().ID()
		for _, w := range []store.Wrapping{{Seal: "kms:1", Wrapped: []byte{2}, CreatedAt: now}, {Seal: "kms:1", Wrapped: []byte{3}, CreatedAt: now}} {
			update(t, db, func(tx *store.Tx) error { return tx.PutWrapping(ctx, second, w) })
		}
		view(t, db, func(tx *store.Tx) error {
			keys, err := tx.SealKeys(ctx)
			want := fmt.Sprint([]store.SealKey{
				{ID: second, Number: 2, CreatedAt: now.UTC(), Wrappings: []store.Wrapping{{Seal: "kms:1", Wrapped: []byte{3}, Earlier: []byte{2}, CreatedAt: now.UTC()}}},
				{ID: first, Number: 1, CreatedAt: now.UTC(), Wrappings: []store.Wrapping{{Seal: "file:1", Wrapped: []byte{1}, CreatedAt: now.UTC()}}},
			})
			if fmt.Sprint(keys) != want {
				t.Errorf("keys %v, want %v", keys, want)
			}
			return err
		})
		err := db.Update(ctx, func(tx *store.Tx) error {
			return tx.AddSealKey(ctx, store.SealKey{ID: first, CreatedAt: now})
		})
		if !errors.Is(err, backends.ErrConflict) {
			t.Errorf("a key that is there was added: %v", err)
		}
	})
}

// TestEarlierWrappingStaysUntilItIsSettled, also if the later one was replaced before.
func TestEarlierWrappingStaysUntilItIsSettled(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		kek := addKey(t, db).Newest().ID()
		put := func(b byte) {
			update(t, db, func(tx *store.Tx) error {
				return tx.PutWrapping(ctx, kek, store.Wrapping{Seal: "kms:1", Wrapped: []byte{b}, CreatedAt: now})
			})
		}
		is := func(wrapped, earlier []byte) (w store.Wrapping) {
			t.Helper()
			view(t, db, func(tx *store.Tx) error {
				keys, err := tx.SealKeys(ctx)
				if w = keys[0].Wrappings[0]; !bytes.Equal(w.Wrapped, wrapped) || !bytes.Equal(w.Earlier, earlier) {
					t.Errorf("%v, earlier %v; want %v and %v", w.Wrapped, w.Earlier, wrapped, earlier)
				}
				return err
			})
			return w
		}
		settle := func(w store.Wrapping, good []byte) {
			update(t, db, func(tx *store.Tx) error { return tx.SettleWrapping(ctx, kek, w, good) })
		}
		put(1)
		first := is([]byte{1}, nil)
		put(2)
		put(3)
		third := is([]byte{3}, []byte{1})
		settle(first, first.Wrapped) // by somebody who has not seen the later ones
		is([]byte{3}, []byte{1})
		settle(third, third.Wrapped)
		is([]byte{3}, nil)
		put(4)
		fourth := is([]byte{4}, []byte{3})
		settle(fourth, fourth.Earlier)
		is([]byte{3}, nil)
	})
}

// TestRemovedKeyLeavesTheFiles: neither the database nor its log has what a seal wrapped.
func TestRemovedKeyLeavesTheFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keybroker.db")
	db := open(t, store.Config{SQLitePath: path})
	wrapped := make([]byte, 60)
	_, _ = rand.Read(wrapped)
	old := addKey(t, db, store.Wrapping{Seal: "file:1", Wrapped: wrapped, CreatedAt: now}).Newest().ID()
	addKey(t, db)
	found := func() (in []string) {
		files, err := filepath.Glob(path + "*")
		if err != nil || len(files) < 2 {
			t.Fatalf("files %v, %v", files, err)
		}
		for _, name := range files {
			if b, err := os.ReadFile(name); err != nil || bytes.Contains(b, wrapped) {
				in = append(in, filepath.Base(name))
			}
		}
		return in
	}
	if err := db.Checkpoint(t.Context()); err != nil { // so that it is in the database itself
		t.Fatal(err)
	}
	if in := found(); !slices.Equal(in, []string{"keybroker.db"}) {
		t.Fatalf("before, it is in %v", in)
	}
	update(t, db, func(tx *store.Tx) error { return tx.RemoveSealKey(t.Context(), old) })
	if err := db.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if in := found(); len(in) > 0 {
		t.Errorf("the removed key is still in %v", in)
	}
}

// TestCheckpointDoesNotWaitForReaders long, and writers go on.
func TestCheckpointDoesNotWaitForReaders(t *testing.T) {
	db := open(t, sqliteConfig(t))
	view(t, db, func(tx *store.Tx) error {
		if _, err := tx.SealKeys(t.Context()); err != nil { // a snapshot that is read
			return err
		}
		addKey(t, db)
		if err := db.Checkpoint(t.Context()); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("beside a reader: %v", err)
		}
		addKey(t, db)
		return nil
	})
	if err := db.Checkpoint(t.Context()); err != nil {
		t.Errorf("once nobody reads: %v", err)
	}
}

// fill seals one value in every place by ring.
func fill(t *testing.T, db *store.DB, ring *seal.Keyring, s rotation.Secret) {
	t.Helper()
	ctx := t.Context()
	for _, name := range []string{"pepper", "fingerprint"} {
		if _, err := db.OwnKeyOrAdd(ctx, name, func(ad []byte) ([]byte, error) { return sealed(t, ring, ad), nil }); err != nil {
			t.Fatal(err)
		}
	}
	addSigningKey(t, db, ring, signingKey("app", "ed25519"))
	addSigningKey(t, db, ring, signingKey("other", "hmac"))
	for i := range 3 {
		v := rotation.Version{SecretID: s.ID, Stage: rotation.StagePending, CreatedAt: now,
			Sealed: sealed(t, ring, backends.AssociatedData(s.Ref, i+1, "versions.sealed"))}
		update(t, db, func(tx *store.Tx) error { return tx.AddVersion(ctx, &v) })
		lv := local.Version{Number: i + 1, Sealed: sealed(t, ring, backends.AssociatedData(s.Ref, i+1, "local_versions.sealed")), CreatedAt: now}
		if err := db.LocalStorage().Put(ctx, s.Ref, i, lv); err != nil {
			t.Fatal(err)
		}
	}
}

// listed walks through all sealed values in small pages.
func listed(t *testing.T, db *store.DB, notBy string, limit int) (values []store.SealedValue) {
	t.Helper()
	page := store.Page{Limit: limit}
	for {
		view(t, db, func(tx *store.Tx) error {
			found, next, err := tx.SealedValues(t.Context(), notBy, page)
			values, page.After = append(values, found...), next
			return err
		})
		if page.After == "" {
			return values
		}
	}
}

// TestEverySealedValueIsFoundOpenedAndReplaced: what the list says a value is bound
// to is what it is bound to.
func TestEverySealedValueIsFoundOpenedAndReplaced(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		ring := addKey(t, db)
		old := ring.Newest().ID()
		fill(t, db, ring, addSecret(t, db, "app/key"))
		for _, limit := range []int{1, 2, 3, 100} {
			values := listed(t, db, "", limit)
			var where []string
			for _, v := range values {
				where = append(where, fmt.Sprintf("%s %s %d", v.Table, v.Ref.Name, v.Number))
				if _, err := ring.Open(ctx, v.Sealed, v.AssociatedData()); err != nil {
					t.Errorf("%v: %v", v, err)
				}
			}
			const want = "own_keys fingerprint 0;own_keys pepper 0;versions app/key 1;versions app/key 2;versions app/key 3;" +
				"local_versions app/key 1;local_versions app/key 2;local_versions app/key 3;signing_keys app 0;signing_keys other 0"
			if got := strings.Join(where, ";"); got != want {
				t.Errorf("%d a page: %s, want %s", limit, got, want)
			}
		}
		if left := listed(t, db, old, 2); len(left) != 0 {
			t.Errorf("%d values are not sealed by the only key", len(left))
		}

		newest := addKey(t, db).Newest()
		ring.Add(newest)
		ring.SealBy(newest.ID())
		for i, v := range listed(t, db, newest.ID(), 2) {
			fresh, _, err := ring.Rewrap(ctx, v.Sealed, v.AssociatedData())
			if err != nil {
				t.Fatal(err)
			}
			update(t, db, func(tx *store.Tx) error {
				swapped, err := tx.SwapSealed(ctx, v, fresh)
				if !swapped {
					t.Errorf("%v was not replaced", v)
				}
				return err
			})
			update(t, db, func(tx *store.Tx) error {
				swapped, err := tx.SwapSealed(ctx, v, v.Sealed)
				if swapped {
					t.Errorf("%v was replaced, although it is another by now", v)
				}
				return err
			})
			view(t, db, func(tx *store.Tx) error {
				counts, err := tx.SealedBy(ctx)
				if counts[old] != 9-i || counts[newest.ID()] != i+1 {
					t.Errorf("after %d: %v", i+1, counts)
				}
				return err
			})
		}
		only := seal.NewKeyring(newest, nil)
		for _, v := range listed(t, db, "", 3) {
			if _, err := only.Open(ctx, v.Sealed, v.AssociatedData()); err != nil {
				t.Errorf("%v: %v", v, err)
			}
		}
	})
}

// TestNoKeyGoesBeforeItsLastValue, and no value comes after its key has gone: the
// database itself sees to both.
func TestNoKeyGoesBeforeItsLastValue(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		ring := addKey(t, db, store.Wrapping{Seal: "file:1", Wrapped: []byte{1}, CreatedAt: now})
		s := addSecret(t, db, "app/key")
		fill(t, db, ring, s)
		newest := addKey(t, db).Newest()
		both := seal.NewKeyring(newest, nil)
		both.Add(ring.Newest())
		remove := func() error {
			return db.Update(ctx, func(tx *store.Tx) error { return tx.RemoveSealKey(ctx, ring.Newest().ID()) })
		}
		values := listed(t, db, newest.ID(), 100)
		slices.Reverse(values)
		for _, v := range values {
			if err := remove(); !errors.Is(err, backends.ErrConflict) {
				t.Fatalf("removed while it seals %v: %v", v, err)
			}
			fresh, _, err := both.Rewrap(ctx, v.Sealed, v.AssociatedData())
			if err != nil {
				t.Fatal(err)
			}
			update(t, db, func(tx *store.Tx) error { _, err := tx.SwapSealed(ctx, v, fresh); return err })
		}
		if err := remove(); err != nil {
			t.Fatalf("removing what seals nothing: %v", err)
		}
		if err := remove(); err != nil {
			t.Errorf("removing it again: %v", err)
		}
		v := rotation.Version{SecretID: s.ID, Stage: rotation.StagePending, CreatedAt: now, Sealed: sealed(t, ring, []byte("late"))}
		for what, err := range map[string]error{
			"a version": db.Update(ctx, func(tx *store.Tx) error { return tx.AddVersion(ctx, &v) }),
			"a local version": db.LocalStorage().Put(ctx, s.Ref, 3,
				local.Version{Number: 4, Sealed: sealed(t, ring, []byte("late")), CreatedAt: now}),
			"a signing key": db.Update(ctx, func(tx *store.Tx) error {
				k := signingKey("late", "hmac")
				k.Sealed = sealed(t, ring, k.AssociatedData())
				return tx.AddSigningKey(ctx, k)
			}),
			"an own key": func() error {
				_, err := db.OwnKeyOrAdd(ctx, "late", func(ad []byte) ([]byte, error) { return sealed(t, ring, ad), nil })
				return err
			}(),
		} {
			if !errors.Is(err, engine.ErrKeyGone) || backends.Class(err) != backends.ErrUnavailable {
				t.Errorf("%s was stored that nobody can open, or it is a conflict with somebody: %v", what, err)
			}
		}
	})
}

func TestOwnKeyOfTheFirstStays(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ring := addKey(t, db)
		add := func(seal func([]byte) ([]byte, error)) (store.SealedValue, error) {
			return db.OwnKeyOrAdd(t.Context(), "pepper", seal)
		}
		first, err := add(func(ad []byte) ([]byte, error) { return sealed(t, ring, ad), nil })
		if err != nil {
			t.Fatal(err)
		}
		again, err := add(func([]byte) ([]byte, error) { return nil, errors.New("asked for a second one") })
		if err != nil || string(again.Sealed) != string(first.Sealed) {
			t.Errorf("another key than the first: %v", err)
		}
	})
}
