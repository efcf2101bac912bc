package store_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// A value is looked up in every field of every version ever, of one tenant.
func TestVersionsWithField(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		theirs := rotation.Secret{ID: newID("sec"), Ref: backends.Ref{Tenant: "acme", Name: "a"}, Origin: rotation.OriginAPI, State: rotation.SecretActive}
		update(t, db, func(tx *store.Tx) error { return tx.AddSecret(ctx, &theirs) })
		tenants := func() []string {
			return read(t, db, func(tx *store.Tx) ([]string, error) { return tx.TenantsWithFields(ctx) })
		}
		if got := tenants(); len(got) != 0 {
			t.Errorf("before there is any: %v", got)
		}
		add := func(s rotation.Secret, tag string, fields map[string]string) {
			t.Helper()
			update(t, db, func(tx *store.Tx) error {
				return tx.AddVersion(ctx, &rotation.Version{SecretID: s.ID, Ref: s.Ref, Stage: rotation.StageRetired, Tag: tag, CreatedAt: now, Fingerprints: fields})
			})
		}
		add(s, "1", map[string]string{"user": "fp-shop", "key": "fp-1"})
		add(s, "2", map[string]string{"user": "fp-shop", "key": "fp-2"})
		add(theirs, "3", map[string]string{"key": "fp-1"})
		same(t, "tenants", tenants(), []string{"acme", backends.DefaultTenant})

		find := func(tenant string, fingerprints ...string) (found []string) {
			t.Helper()
			for _, f := range read(t, db, func(tx *store.Tx) ([]store.FieldOf, error) { return tx.VersionsWithField(ctx, tenant, fingerprints...) }) {
				found = append(found, fmt.Sprint(f.SecretID, " ", f.Version, " ", f.Field, "=", f.Fingerprint, " of ", f.Fields))
			}
			slices.Sort(found)
			return found
		}
		first, second, user := " 1 key=fp-1 of 2", " 2 key=fp-2 of 2", []string{s.ID + " 1 user=fp-shop of 2", s.ID + " 2 user=fp-shop of 2"}
		same(t, "one", find(backends.DefaultTenant, "fp-1"), []string{s.ID + first})
		same(t, "of the other tenant", find("acme", "fp-1"), []string{theirs.ID + " 1 key=fp-1 of 1"})
		same(t, "several", find(backends.DefaultTenant, "fp-2", "fp-1", "nothing"), []string{s.ID + first, s.ID + second})
		same(t, "what all have", find(backends.DefaultTenant, "fp-shop"), user)
		same(t, "nothing", find(backends.DefaultTenant, "nothing"), nil)
		same(t, "of nobody", find("globex", "fp-1"), nil)
		many := make([]string, 600)
		for i := range many {
			many[i] = fmt.Sprint("x", i)
		}
		same(t, "many", find(backends.DefaultTenant, append(many, "fp-1")...), []string{s.ID + first})
	})
}

// A text that everything has keeps nothing else from being found.
func TestAValueThatIsEverywhere(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		fields := map[string]string{"rare": "fp-rare"}
		for i := range 6000 {
			fields[fmt.Sprint("f", i)] = "fp-everywhere"
		}
		update(t, db, func(tx *store.Tx) error {
			return tx.AddVersion(ctx, &rotation.Version{SecretID: s.ID, Ref: s.Ref, Stage: rotation.StageCurrent, Tag: "1", CreatedAt: now, Fingerprints: fields})
		})
		count := map[string]int{}
		for _, f := range read(t, db, func(tx *store.Tx) ([]store.FieldOf, error) {
			return tx.VersionsWithField(ctx, backends.DefaultTenant, "fp-everywhere", "fp-rare")
		}) {
			count[f.Fingerprint]++
		}
		if count["fp-rare"] != 1 || count["fp-everywhere"] < 1000 {
			t.Errorf("found: %v", maps.Collect(maps.All(count)))
		}
	})
}
