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
	s := cfg.Secrets[0]
	r := cfg.Resolve(s)
	if r.Policy != "mail" || r.MaxOverlap != 12*time.Hour || r.MaxAge != 30*24*time.Hour {
		t.Errorf("of %q: a maximum overlap of %s, a maximum age of %s", r.Policy, r.MaxOverlap, r.MaxAge)
	}
	for setting, line := range map[string]int{"overlap": 23, "max_age": 11, "max_overlap": 3, "proof": 20, "jitter": 0} {
		where, ok := cfg.SettingRange(s, r.Origin(setting))
		if ok != (line > 0) || where.Start.Line != line {
			t.Errorf("%s at %s, %t; want line %d", setting, where, ok, line)
		}
	}
	var limits []string
	for _, b := range r.Bounds {
		where, ok := cfg.LimitRange(b)
		limits = append(limits, fmt.Sprint(b.Limit, " ", b, " of ", b.Policy, " at ", where.Start.Line, ok))
	}
	if want := []string{"max_overlap 12h0m0s of all at 3 true", "max_age 2160h0m0s of all at 4 true"}; !slices.Equal(limits, want) {
		t.Errorf("limits %q", limits)
	}
	elsewhere := &config.Secret{Ref: backends.Ref{Tenant: "default", Name: "mail/api"}, Rotation: s.Rotation}
	if where, ok := cfg.SettingRange(elsewhere, cfg.Resolve(elsewhere).Origin("overlap")); ok {
		t.Errorf("a secret of no file says its overlap at %s", where)
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
