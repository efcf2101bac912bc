package broker

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// TestNobodyIsWhoTheyWereAndMayWhatIsAllowedNow: a policy is taken from a role by the
// configuration that makes it wide, so its holder never had what it grants then.
func TestNobodyIsWhoTheyWereAndMayWhatIsAllowedNow(t *testing.T) {
	ctx := t.Context()
	db, err := store.Open(ctx, store.Config{SQLitePath: filepath.Join(t.TempDir(), "keybroker.db"), Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	callers := authn.NewCallers(authn.NewTokens(db, []byte("pepper"), time.Now), nil, hclog.NewNullLogger())
	b := New(Config{Store: db, Authn: callers, Now: time.Now})
	rules := func(role policy.Role, path string, environment string) Rules {
		return Rules{
			Rules: authn.Rules{Roles: map[string]*policy.Role{"ci": &role}, Logins: map[string]authn.LoginMethod{"corp": nil}},
			Policies: []policy.Policy{{Name: "deploy", Rules: []policy.Rule{
				{Path: path, Capabilities: []policy.Capability{policy.Rotate}}}}},
			Environments: map[string][]string{"vault": {environment}},
		}
	}
	role := policy.Role{Name: "ci", Policies: []string{"deploy"}, Environment: "staging"}
	b.SetRules(rules(role, "build/*", "production"))
	rec, text := callers.MakeFor(authn.Identity{Method: "corp", Subject: "ci"}, &role, time.Now())
	if err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddToken(ctx, rec) }); err != nil {
		t.Fatal(err)
	}
	p, err := callers.Authenticate(ctx, authn.Credentials{Token: text.Reveal()})
	if err != nil {
		t.Fatal(err)
	}
	s := rotation.Secret{ID: "s", Ref: backends.Ref{Tenant: "acme", Name: "app/key"}}
	s.Definition.Backend, s.Definition.Labels = "vault", map[string]string{policy.EnvironmentLabel: "staging"}
	may := func(p authn.Principal) (reaches, rotates bool) {
		t.Helper()
		err := db.View(ctx, func(tx *store.Tx) (err error) {
			reaches, err = b.reaches(ctx, tx, p, s)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return reaches, b.allows(p, "app/key", s, policy.Rotate)
	}
	if reaches, rotates := may(p); reaches || rotates {
		t.Fatalf("before: reaches it: %v, may rotate it: %v", reaches, rotates)
	}
	role.Policies = nil
	b.SetRules(rules(role, "app/*", "staging"))
	if reaches, rotates := may(p); reaches || rotates {
		t.Errorf("who was authenticated before: reaches it: %v, may rotate it: %v", reaches, rotates)
	}
	again, err := callers.Again(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if reaches, rotates := may(again); !reaches || rotates {
		t.Errorf("by now: reaches it: %v, may rotate it: %v", reaches, rotates)
	}
}

// TestLoginsEnd also where a role does not say when, and soon for those who may do much.
func TestLoginsEnd(t *testing.T) {
	b := New(Config{Authn: authn.NewCallers(authn.NewTokens(nil, nil, time.Now), nil, hclog.NewNullLogger()), Now: time.Now})
	b.SetRules(Rules{Policies: []policy.Policy{
		{Name: "reader", Rules: []policy.Rule{{Path: "app/*", Capabilities: []policy.Capability{policy.Read}}}},
		{Name: "tokens", Rules: []policy.Rule{{Path: "sys/tokens", Capabilities: []policy.Capability{policy.Create}}}},
	}})
	const month, shift = 32 * 24 * time.Hour, 12 * time.Hour
	for what, tt := range map[string]struct {
		role policy.Role
		want time.Duration
	}{
		"a reader":                  {policy.Role{Policies: []string{"reader"}}, month},
		"a reader for longer":       {policy.Role{Policies: []string{"reader"}, TokenTTL: 2 * month}, 2 * month},
		"root":                      {policy.Role{Policies: []string{"root"}}, shift},
		"root of a tenant":          {policy.Role{Policies: []string{"root"}, Tenant: "acme"}, shift},
		"who makes tokens":          {policy.Role{Policies: []string{"reader", "tokens"}}, shift},
		"who makes tokens, briefly": {policy.Role{Policies: []string{"tokens"}, TokenTTL: time.Hour}, shift},
		"root, as the role says":    {policy.Role{Policies: []string{"root"}, TokenMaxTTL: month}, month},
	} {
		if got := b.forLogin(authn.Principal{}, tt.role).TokenMaxTTL; got != tt.want {
			t.Errorf("%s: %s, want %s", what, got, tt.want)
		}
	}
}
