package config_test

import (
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/config"
)

// kmsConfig is a seal with a login.
type kmsConfig struct {
	Key   string                `hcl:"key"`
	Token backends.SecretString `hcl:"token,optional"`
}

func sealTypes() map[string]config.Type {
	return map[string]config.Type{"kms": {New: func() any { return new(kmsConfig) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
		if cfg.(*kmsConfig).Key != "" {
			return nil
		}
		return hcl.Diagnostics{c.Mistake("key", "The key is empty", "Write its name.")}
	}}}
}

func TestSealsAreTheSameInAnyOrder(t *testing.T) {
	seals := func(hcl string) []config.Seal {
		t.Helper()
		cfg, diags := config.Parse(map[string][]byte{"c.hcl": []byte(hcl)}, registry(), testOptions())
		if diags.HasErrors() {
			t.Fatal(diags.Err())
		}
		return cfg.Seals
	}
	const file, kms = "seal \"file\" {\n  path = \"a.key\"\n}\n", "seal \"kms\" {\n  key = \"k\"\n  token = env(\"TOKEN\")\n}\n"
	both := seals(file + kms)
	if len(both) != 2 || both[1].Type != "kms" || *both[1].Config.(*kmsConfig) != (kmsConfig{"k", "s3cr3t-token"}) {
		t.Errorf("seals %+v", both)
	}
	for hcl, same := range map[string]bool{
		kms + file:        true,
		"\n" + file + kms: true,
		file:              false,
		kms:               false,
		"":                false,
		"seal \"file\" {\n  path = \"b.key\"\n}\n" + kms:                      false,
		file + "seal \"kms\" {\n  key = \"k\"\n}\n":                           false,
		file + "seal \"kms\" {\n  key = \"l\"\n  token = env(\"TOKEN\")\n}\n": false,
	} {
		if got := config.SameSeals(both, seals(hcl)); got != same {
			t.Errorf("%s: the same: %t", hcl, got)
		}
	}
}
