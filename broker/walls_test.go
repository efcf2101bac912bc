package broker

import (
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/rotation"
)

// The configuration refuses most of this; the walls hold all the same.
func TestWallsHoldWhateverIsConfigured(t *testing.T) {
	b := New(Config{})
	b.SetRules(Rules{Environments: map[string][]string{"prod": {"production"}, "stage": {"staging"}, "both": {"staging", "production"}, "silent": nil}})
	for _, c := range []struct {
		what                string
		tenant, environment string // of the principal
		owner, label        string // of the secret
		backend             string
		mirrors             []string
		want                bool
	}{
		{"bound to nothing", "", "", "acme", "", "silent", nil, true},
		{"its own tenant", "acme", "", "acme", "", "silent", nil, true},
		{"another tenant", "acme", "", "default", "", "silent", nil, false},
		{"its environment", "", "staging", "acme", "staging", "stage", nil, true},
		{"its environment, in a vault of several", "", "staging", "acme", "staging", "both", nil, true},
		{"another environment", "", "staging", "acme", "production", "prod", nil, false},
		{"another environment, in a vault of several", "", "staging", "acme", "production", "both", nil, false},
		{"no label", "", "staging", "acme", "", "stage", nil, false},
		{"the wrong label in a vault of production", "", "staging", "acme", "staging", "prod", nil, false},
		{"a mirror in production", "", "staging", "acme", "staging", "stage", []string{"prod"}, false},
		{"a mirror of both", "", "staging", "acme", "staging", "stage", []string{"both"}, true},
		{"a vault that names no environment", "", "staging", "acme", "staging", "silent", nil, false},
		{"a vault that is gone", "", "staging", "acme", "staging", "gone", nil, false},
		{"its environment of another tenant", "acme", "staging", "default", "staging", "stage", nil, false},
		{"its tenant and environment", "acme", "staging", "acme", "staging", "stage", nil, true},
	} {
		s := rotation.Secret{ID: "s", Ref: backends.Ref{Tenant: c.owner, Name: "app/key"}}
		s.Definition.Backend, s.Definition.Mirrors = c.backend, c.mirrors
		if c.label != "" {
			s.Definition.Labels = map[string]string{"environment": c.label}
		}
		if got := b.reaches(authn.Principal{Tenant: c.tenant, Environment: c.environment}, s); got != c.want {
			t.Errorf("%s: reaches it: %v", c.what, got)
		}
	}
}
