package config_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/policy"
)

const limitedMail = `rotation_policy "all" {
  limits {
    max_overlap = "12h"
    max_age     = "90d"
  }
}
rotation_policy "mail" {
  match {
    paths = ["mail/*"]
  }
  max_age = "30d"
  limits {
    max_overlap = "48h"
  }
}
backend "local" "here" {}
issuer "api_key" "keys" {}
secret "mail/sender" {
  backend = "here"
  proof   = "none"
  issuer "keys" {}
  rotation {
    overlap = "6h"
  }
}
`

// TestPlacesOfSettingsAndLimits asks for what `secret plan` shows.
func TestPlacesOfSettingsAndLimits(t *testing.T) {
	cfg := parse(t, limitedMail)
	r := cfg.Resolve(cfg.Secrets[0])
	if r.Policy != "mail" || r.MaxOverlap != 12*time.Hour || r.MaxAge != 30*24*time.Hour {
		t.Errorf("of %q: a maximum overlap of %s, a maximum age of %s", r.Policy, r.MaxOverlap, r.MaxAge)
	}
	said, ok := cfg.Origins(cfg.Secrets[0].Ref)
	if !ok || said.Policy != "mail" {
		t.Fatalf("%+v, %t", said, ok)
	}
	lines := map[string]int{}
	for _, o := range said.Settings {
		lines[o.Setting] = o.Range.Start.Line
	}
	for setting, line := range map[string]int{"backend": 19, "overlap": 23, "max_age": 11, "max_overlap": 3, "proof": 20, "jitter": 0} {
		if got, there := lines[setting]; got != line || !there {
			t.Errorf("%s at line %d, want %d", setting, got, line)
		}
	}
	var limits []string
	for _, l := range said.Limits {
		limits = append(limits, fmt.Sprint(l.Limit, " ", l.Bound, " of ", l.Policy, " at ", l.Range.Start.Line))
	}
	if want := []string{"max_overlap 12h0m0s of all at 3", "max_age 2160h0m0s of all at 4"}; !slices.Equal(limits, want) {
		t.Errorf("limits %q", limits)
	}
	if _, ok := cfg.Origins(backends.Ref{Tenant: "default", Name: "mail/api"}); ok {
		t.Error("a secret of no file is said somewhere")
	}
}

func TestLimitsHoldForSecretsThatAreNotConfigured(t *testing.T) {
	cfg := parse(t, limitedMail)
	overlap, none := 13*time.Hour, policy.ProofNone
	_, err := cfg.Definition(&config.Secret{
		Ref: backends.Ref{Tenant: "default", Name: "pay/api"}, Backend: "here", Issuer: "keys",
		Rotation: policy.Settings{Overlap: &overlap, Proof: &none},
	})
	for _, want := range []string{
		`an overlap of 13h0m0s is longer than max_overlap of the rotation policy "all", 12h0m0s`,
		`which is more than max_age of the rotation policy "all", 2160h0m0s`,
	} {
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
