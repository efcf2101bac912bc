package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// A leak is of the versions whose credentials are in it: what names a user or a host in it
// leads to no one.
func TestWhatALeakGivesAway(t *testing.T) {
	b, db, s, _, _ := newReading(t)
	ctx := t.Context()
	add := func(s rotation.Secret, fields map[string]string) {
		t.Helper()
		prints := map[string]string{}
		for name, text := range fields {
			prints[b.Engine.Fingerprint(s.Ref.Tenant, "field "+name)] = b.Engine.Fingerprint(s.Ref.Tenant, text)
		}
		if err := db.Update(ctx, func(tx *store.Tx) error {
			return tx.AddVersion(ctx, &rotation.Version{SecretID: s.ID, Ref: s.Ref, Stage: rotation.StageRetired, Tag: fmt.Sprint(s.ID, fields), CreatedAt: b.Now(), Fingerprints: prints})
		}); err != nil {
			t.Fatal(err)
		}
	}
	secret := func(tenant, name string) rotation.Secret {
		t.Helper()
		made := rotation.Secret{ID: tenant + name, Origin: rotation.OriginConfig, State: rotation.SecretActive, Ref: backends.Ref{Tenant: tenant, Name: name}}
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddSecret(ctx, &made) }); err != nil {
			t.Fatal(err)
		}
		return made
	}
	add(s, map[string]string{"username": "shop-user", "password": "password-one", "realm": "the-realm"})
	add(s, map[string]string{"username": "shop-user", "password": "password-two", "realm": "the-realm"})
	theirs := secret("globex", "key")
	add(theirs, map[string]string{"key": "password-one"})
	host := secret("acme", "host")
	add(host, map[string]string{"host": "db.example.com"})
	for i := range maxSharing {
		add(secret("acme", fmt.Sprint("many", i)), map[string]string{"realm": "the-realm", "key": fmt.Sprint("a-key-of-its-own-", i)})
	}
	for name, tt := range map[string]struct {
		tenant, text string
		want         map[string][]int
	}{
		"of all tenants":            {"", "password-one", map[string][]int{s.ID: {1}, theirs.ID: {1}}},
		"of one tenant":             {"acme", "password-one", map[string][]int{s.ID: {1}}},
		"several":                   {"acme", "password-two password-one", map[string][]int{s.ID: {1, 2}}},
		"beside the user's name":    {"acme", "postgres://shop-user:password-two@db/shop", map[string][]int{s.ID: {2}}},
		"the user's name":           {"acme", "shop-user", map[string][]int{}},
		"what very many have":       {"acme", "the-realm", map[string][]int{}},
		"a name that is the secret": {"acme", "db.example.com", map[string][]int{host.ID: {1}}},
		"nothing":                   {"", "never seen before", map[string][]int{}},
	} {
		if err := db.View(ctx, func(tx *store.Tx) error {
			got, err := b.leaked(ctx, tx, authn.Principal{Tenant: tt.tenant}, client.SecretText(tt.text))
			if !equalVersions(got, tt.want) {
				t.Errorf("%s: %v, want %v", name, got, tt.want)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	var found []hit
	if err := db.View(ctx, func(tx *store.Tx) (err error) {
		found, err = b.lookUp(ctx, tx, "acme", []string{"shop-user", "password-one", "the-realm"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(found, func(h hit) bool { return h.secretID == s.ID && h.version == 1 })
	j := slices.IndexFunc(found, func(h hit) bool { return h.secretID == s.ID && h.version == 2 })
	if i < 0 || j < 0 || !found[i].whole || found[i].nameOnly || found[j].whole || !found[j].nameOnly || len(found) != 2+maxSharing {
		t.Errorf("%d found", len(found))
	}
}

func equalVersions(x, y map[string][]int) bool {
	if len(x) != len(y) {
		return false
	}
	for id, versions := range x {
		if !slices.Equal(versions, y[id]) {
			return false
		}
	}
	return true
}
