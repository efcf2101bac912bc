package store_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/store"
)

// signingKey is a new key of a consumer of the default tenant, not sealed yet.
func signingKey(consumer, algorithm string) store.SigningKey {
	return store.SigningKey{ID: newID("sgk"), Tenant: backends.DefaultTenant, Consumer: consumer, Algorithm: algorithm, Public: "whpk_" + consumer, CreatedAt: now}
}

func addSigningKey(t *testing.T, db *store.DB, ring *seal.Keyring, k store.SigningKey) store.SigningKey {
	t.Helper()
	k.Sealed = sealed(t, ring, k.AssociatedData())
	update(t, db, func(tx *store.Tx) error { return tx.AddSigningKey(t.Context(), k) })
	return k
}

// signingKeysOf are the ids of a consumer's keys, the newest first, each with the time
// from now on until which it signs.
func signingKeysOf(t *testing.T, db *store.DB, tenant, consumer string) string {
	t.Helper()
	var list []string
	for _, k := range read(t, db, func(tx *store.Tx) ([]store.SigningKey, error) { return tx.SigningKeys(t.Context()) }) {
		if k.Tenant != tenant || k.Consumer != consumer {
			continue
		}
		if k.Until.IsZero() {
			list = append(list, k.ID)
			continue
		}
		list = append(list, k.ID+"+"+k.Until.Sub(now).String())
	}
	return strings.Join(list, " ")
}

func TestSigningKeysAreReadAsTheyWereAdded(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ring := addKey(t, db)
		added := addSigningKey(t, db, ring, signingKey("app", "ed25519"))
		got := read(t, db, func(tx *store.Tx) ([]store.SigningKey, error) { return tx.SigningKeys(t.Context()) })
		if len(got) != 1 || got[0].ID != added.ID || got[0].Tenant != added.Tenant || got[0].Consumer != "app" || got[0].Algorithm != "ed25519" ||
			got[0].Public != "whpk_app" || !got[0].CreatedAt.Equal(now) || !got[0].Until.IsZero() {
			t.Fatalf("read %+v", got)
		}
		if _, err := ring.Open(t.Context(), got[0].Sealed, got[0].AssociatedData()); err != nil {
			t.Errorf("what is read does not open: %v", err)
		}
	})
}

// TestSigningKeyIsBoundToAllThatIsSaidOfIt: whoever changes a row in the database has one
// that does not open.
func TestSigningKeyIsBoundToAllThatIsSaidOfIt(t *testing.T) {
	k := signingKey("app", "ed25519")
	bound := map[string]bool{string(k.AssociatedData()): true}
	for _, change := range []func(*store.SigningKey){
		func(k *store.SigningKey) { k.ID = "sgk_2" }, func(k *store.SigningKey) { k.Tenant = "other" }, func(k *store.SigningKey) { k.Consumer = "other" },
		func(k *store.SigningKey) { k.Algorithm = "hmac" }, func(k *store.SigningKey) { k.Public = "whpk_other" },
	} {
		other := k
		change(&other)
		if ad := string(other.AssociatedData()); bound[ad] {
			t.Errorf("%+v is bound as another is", other)
		} else {
			bound[ad] = true
		}
	}
}

// TestANewSigningKeyBesideThoseOfBefore: there is one newest for each consumer of each
// tenant, and what was to end earlier still does.
func TestANewSigningKeyBesideThoseOfBefore(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx, ring := t.Context(), addKey(t, db)
		first := addSigningKey(t, db, ring, signingKey("app", "ed25519"))
		foreign := signingKey("app", "ed25519")
		foreign.Tenant = "acme"
		foreign = addSigningKey(t, db, ring, foreign)
		second, third := signingKey("app", "ed25519"), signingKey("app", "hmac")
		second.Sealed = sealed(t, ring, second.AssociatedData())
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddSigningKey(ctx, second) }); !errors.Is(err, backends.ErrConflict) {
			t.Fatalf("a second newest one was added: %v", err)
		}
		for _, replacing := range []struct {
			key     store.SigningKey
			overlap time.Duration
			want    string
		}{
			{second, time.Hour, second.ID + " " + first.ID + "+1h0m0s"},
			{third, 2 * time.Hour, third.ID + " " + second.ID + "+2h0m0s " + first.ID + "+1h0m0s"},
			{signingKey("app", "ed25519"), 0, " " + third.ID + "+0s " + second.ID + "+0s " + first.ID + "+0s"},
		} {
			update(t, db, func(tx *store.Tx) error {
				return tx.EndSigningKeys(ctx, backends.DefaultTenant, "app", now.Add(replacing.overlap))
			})
			k := addSigningKey(t, db, ring, replacing.key)
			if got := signingKeysOf(t, db, backends.DefaultTenant, "app"); strings.TrimPrefix(got, k.ID) != strings.TrimPrefix(replacing.want, k.ID) {
				t.Errorf("after an overlap of %s: %s, want %s", replacing.overlap, got, replacing.want)
			}
		}
		if got := signingKeysOf(t, db, "acme", "app"); got != foreign.ID {
			t.Errorf("another tenant's consumer of that name has %s", got)
		}
	})
}

// TestNodesThatMakeASigningKeyTogetherAgree on one, whichever it is.
func TestNodesThatMakeASigningKeyTogetherAgree(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx, ring := t.Context(), addKey(t, db)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				k := signingKey("app", "ed25519")
				k.Sealed = sealed(t, ring, k.AssociatedData())
				err := db.UpdateLatest(ctx, func(tx *store.Tx) error {
					keys, err := tx.SigningKeys(ctx)
					if err != nil || len(keys) > 0 {
						return err
					}
					return tx.AddSigningKey(ctx, k)
				})
				if err != nil {
					t.Errorf("making one: %v", err)
				}
			})
		}
		wg.Wait()
		if got := signingKeysOf(t, db, backends.DefaultTenant, "app"); got == "" || strings.Contains(got, " ") {
			t.Errorf("the keys are %q, want one", got)
		}
	})
}

func TestPruneSigningKeys(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx, ring := t.Context(), addKey(t, db)
		old := addSigningKey(t, db, ring, signingKey("app", "ed25519"))
		update(t, db, func(tx *store.Tx) error {
			return tx.EndSigningKeys(ctx, backends.DefaultTenant, "app", now.Add(time.Hour))
		})
		newest := addSigningKey(t, db, ring, signingKey("app", "ed25519"))
		gone := addSigningKey(t, db, ring, signingKey("gone", "hmac"))
		prune := func(over, unwanted time.Time) (ids []string) {
			t.Helper()
			update(t, db, func(tx *store.Tx) error {
				removed, err := tx.PruneSigningKeys(ctx, over, unwanted)
				ids = nil
				for _, k := range removed {
					if ids = append(ids, k.ID); k.Sealed != nil {
						t.Errorf("what was sealed in %s is given away", k.ID)
					}
				}
				return err
			})
			return ids
		}
		const month = 30 * 24 * time.Hour
		if ids := prune(now.Add(time.Hour-time.Microsecond), now); ids != nil {
			t.Errorf("removed %v, all of which may sign", ids)
		}
		if ids := prune(now.Add(time.Hour), now); !slices.Equal(ids, []string{old.ID}) {
			t.Errorf("removed %v, want %s, which was over", ids, old.ID)
		}
		update(t, db, func(tx *store.Tx) error {
			wanted := []store.Consumer{{Tenant: backends.DefaultTenant, Name: "app"}, {Tenant: "acme", Name: "gone"}, {Tenant: backends.DefaultTenant, Name: "nobody"}}
			return tx.WantSigningKeys(ctx, wanted, now.Add(month))
		})
		if ids := prune(now.Add(2*month), now.Add(month)); !slices.Equal(ids, []string{gone.ID}) {
			t.Errorf("removed %v, want %s, whose consumer nobody has", ids, gone.ID)
		}
		update(t, db, func(tx *store.Tx) error { // a node whose clock is behind
			return tx.WantSigningKeys(ctx, []store.Consumer{{Tenant: backends.DefaultTenant, Name: "app"}}, now)
		})
		if ids := prune(now.Add(2*month), now.Add(month)); ids != nil {
			t.Errorf("removed %v, which is wanted", ids)
		}
		if got := signingKeysOf(t, db, backends.DefaultTenant, "app"); got != newest.ID {
			t.Errorf("left %s, want %s", got, newest.ID)
		}
	})
}
