package broker

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// Who reads counts for the consumers of the secret that have its role and are of its
// tenant, whatever the configuration lets there be: at once, and then once a minute.
func TestWhoseReadCounts(t *testing.T) {
	db, err := store.Open(t.Context(), store.Config{SQLitePath: filepath.Join(t.TempDir(), "keybroker.db"), Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	began := time.Date(2031, 3, 9, 1, 59, 58, 0, time.UTC)
	now := began
	clock := func() time.Time { return now }
	b := New(Config{Store: db, Engine: &engine.Engine{}, Logger: hclog.NewNullLogger(), Now: clock,
		Authn: authn.NewCallers(authn.NewTokens(db, []byte("pepper"), clock), nil, hclog.NewNullLogger())})
	b.SetRules(Rules{Consumers: map[string]Consumer{
		"shop":     {Tenant: "acme", Role: "shop"},
		"backup":   {Tenant: "acme", Role: "shop"},
		"other":    {Tenant: "acme", Role: "other"},
		"foreign":  {Tenant: "globex", Role: "shop"},
		"roleless": {Tenant: "acme"},
		"unlisted": {Tenant: "acme", Role: "shop"},
	}})
	s := rotation.Secret{ID: "s", Origin: rotation.OriginConfig, State: rotation.SecretActive, Ref: backends.Ref{Tenant: "acme", Name: "app/key"},
		Definition: rotation.Definition{Consumers: []string{"shop", "backup", "other", "foreign", "roleless", "gone"}}}
	if err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.AddSecret(t.Context(), &s) }); err != nil {
		t.Fatal(err)
	}
	s.Generation = 3
	after := func(role string, version int, after time.Duration, want string) {
		t.Helper()
		now = began.Add(after)
		b.noteRead(t.Context(), authn.Principal{Role: role}, s, rotation.Version{Number: version})
		got := ""
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			reads, err := tx.ConsumerReads(t.Context(), s.ID)
			for _, r := range reads {
				got += fmt.Sprintf("%s %d %s..%s, ", r.Consumer, r.Version, r.FirstAt.Sub(began), r.LastAt.Sub(began))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("after a read of version %d as %q: %s, want %s", version, role, got, want)
		}
	}
	after("", 2, 0, "")
	after("nobody", 2, 0, "")
	after("shop", 2, 0, "backup 2 0s..0s, shop 2 0s..0s, ")
	after("shop", 2, 59*time.Second, "backup 2 0s..0s, shop 2 0s..0s, ")
	after("shop", 2, 61*time.Second, "backup 2 0s..1m1s, shop 2 0s..1m1s, ")
	after("other", 1, 62*time.Second, "backup 2 0s..1m1s, other 1 1m2s..1m2s, shop 2 0s..1m1s, ")
	s.Generation = 4 // a version that is current once more is fetched once more
	after("shop", 2, 63*time.Second, "backup 2 0s..1m3s, other 1 1m2s..1m2s, shop 2 0s..1m3s, ")

	hot := func() {
		b.noteRead(t.Context(), authn.Principal{Role: "shop"}, s, rotation.Version{Number: 2})
	}
	if allocs := testing.AllocsPerRun(100, hot); allocs > 0 {
		t.Errorf("a read that is kept already takes %v allocations", allocs)
	}
}
