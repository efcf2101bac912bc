package broker

import (
	"context"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// The configuration refuses most of this; the walls hold all the same.
func TestWallsHoldWhateverIsConfigured(t *testing.T) {
	db, err := store.Open(t.Context(), store.Config{SQLitePath: filepath.Join(t.TempDir(), "keybroker.db"), Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	b := New(Config{Store: db, Authn: authn.NewCallers(authn.NewTokens(db, []byte("pepper"), time.Now), nil, hclog.NewNullLogger()), Now: time.Now})
	b.SetRules(Rules{Environments: map[string][]string{"prod": {"production"}, "stage": {"staging"}, "both": {"staging", "production"}, "silent": nil}})
	for i, c := range []struct {
		what                string
		tenant, environment string // of the principal
		owner, label        string // of the secret
		backend             string
		mirrors             []string
		made                *rotation.Version // that is alive; nil: none
		want                bool
	}{
		{"bound to nothing", "", "", "acme", "", "silent", nil, nil, true},
		{"its own tenant", "acme", "", "acme", "", "silent", nil, nil, true},
		{"another tenant", "acme", "", "default", "", "silent", nil, nil, false},
		{"its environment", "", "staging", "acme", "staging", "stage", nil, nil, true},
		{"its environment, in a vault of several", "", "staging", "acme", "staging", "both", nil, nil, true},
		{"another environment", "", "staging", "acme", "production", "prod", nil, nil, false},
		{"another environment, in a vault of several", "", "staging", "acme", "production", "both", nil, nil, false},
		{"no label", "", "staging", "acme", "", "stage", nil, nil, false},
		{"the wrong label in a vault of production", "", "staging", "acme", "staging", "prod", nil, nil, false},
		{"a mirror in production", "", "staging", "acme", "staging", "stage", []string{"prod"}, nil, false},
		{"a mirror of both", "", "staging", "acme", "staging", "stage", []string{"both"}, nil, true},
		{"a vault that names no environment", "", "staging", "acme", "staging", "silent", nil, nil, false},
		{"a vault that is gone", "", "staging", "acme", "staging", "gone", nil, nil, false},
		{"its environment of another tenant", "acme", "staging", "default", "staging", "stage", nil, nil, false},
		{"its tenant and environment", "acme", "staging", "acme", "staging", "stage", nil, nil, true},
		{"made where it is now", "", "staging", "acme", "staging", "stage", nil, &rotation.Version{Environment: "staging", Backend: "stage"}, true},
		{"made in production, and labelled anew since", "", "staging", "acme", "staging", "both", nil, &rotation.Version{Environment: "production", Backend: "both"}, false},
		{"made in no environment, and labelled since", "", "staging", "acme", "staging", "both", nil, &rotation.Version{Backend: "both"}, false},
		{"moved away from a vault of production", "", "staging", "acme", "staging", "stage", nil, &rotation.Version{Environment: "staging", Backend: "prod"}, false},
		{"made in another environment, for who is bound to none", "acme", "", "acme", "staging", "stage", nil, &rotation.Version{Environment: "production", Backend: "prod"}, true},
	} {
		id := strconv.Itoa(i)
		s := rotation.Secret{ID: id, Origin: rotation.OriginConfig, State: rotation.SecretActive, Ref: backends.Ref{Tenant: c.owner, Name: "app/key-" + id}}
		s.Definition.Backend, s.Definition.Mirrors = c.backend, c.mirrors
		if c.label != "" {
			s.Definition.Labels = map[string]string{"environment": c.label}
		}
		got := false
		err := db.Update(t.Context(), func(tx *store.Tx) (err error) {
			if err := tx.AddSecret(t.Context(), &s); err != nil {
				return err
			}
			if c.made != nil {
				v := *c.made
				v.SecretID, v.Ref, v.Number, v.Stage, v.Tag = s.ID, s.Ref, 1, rotation.StageCurrent, "kb-"+id
				if err := tx.AddVersion(t.Context(), &v); err != nil {
					return err
				}
			}
			got, err = b.reaches(t.Context(), tx, authn.Principal{Tenant: c.tenant, Environment: c.environment}, s)
			return err
		})
		if err != nil || got != c.want {
			t.Errorf("%s: reaches it: %v (%v)", c.what, got, err)
		}
	}
}
