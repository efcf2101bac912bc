package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/config"
)

const referring = `
backend "local" "here" {}
secret "infra/vault" {
  backend = "here"
}
backend "guarded" "prod" {
  tenant  = "default"
  address = "https://x"
  ca_file = "ca.pem"
  auth {
    user  = secret("infra/vault").name
    token = "a-${secret("infra/vault")["key"]}-${file("token")}"
  }
}
`

// guarded is a block that takes no spaces in its token.
type guarded struct {
	Address string `hcl:"address"`
	CAFile  string `hcl:"ca_file"`
	Auth    struct {
		User  string                `hcl:"user" from:"secret"`
		Token backends.SecretString `hcl:"token"`
	} `hcl:"auth,block"`
}

func loadReferring(t *testing.T, dir string, opts config.Options) *config.Config {
	t.Helper()
	reg := registry()
	reg.Backends["guarded"] = config.BackendType{Capabilities: able, Type: config.Type{
		New: func() any { return new(guarded) },
		Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			if strings.Contains(cfg.(*guarded).Auth.Token.Reveal(), " ") {
				return hcl.Diagnostics{c.Mistake("auth.token", "The token has a space", "Leave it out.")}
			}
			return nil
		},
	}}
	opts.Dir = dir
	cfg, diags := config.Parse(map[string][]byte{"x.hcl": []byte(referring)}, reg, opts)
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestResolve: the values come into a block of their own; the configuration stays as it
// was, and what file() gave then is what it gives.
func TestResolve(t *testing.T) {
	t.Parallel()
	dir, path := t.TempDir(), ""
	if path = filepath.Join(dir, "token"); os.WriteFile(path, []byte("from-file\n"), 0o600) != nil {
		t.Fatal("no file")
	}
	cfg := loadReferring(t, dir, config.Options{})
	b := cfg.Backends[1]
	before := *b.Config.(*guarded)
	if text := before.Auth.Token.Reveal(); strings.Contains(text, " ") || !strings.HasSuffix(text, "-from-file") || before.Auth.User == "" {
		t.Errorf("before it is known: %q, %q", text, before.Auth.User)
	}
	refs := b.References()
	if len(refs) != 2 || refs[0].Ref.String() != "infra/vault" || refs[0].Field+refs[1].Field != "namekey" || len(cfg.Backends[0].References()) != 0 {
		t.Fatalf("references: %+v", refs)
	}
	if err := os.WriteFile(path, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"CANARY-one", "CANARY-two"} {
		got, err := b.Resolve(map[backends.Ref]backends.Value{refs[0].Ref: backends.NewValue(map[string]string{"key": key, "name": "orders_a"})})
		if err != nil {
			t.Fatal(err)
		}
		if g := got.(*guarded); g.Auth.Token.Reveal() != "a-"+key+"-from-file" || g.Auth.User != "orders_a" || g.Address != "https://x" || g.CAFile != filepath.Join(dir, "ca.pem") {
			t.Errorf("resolved: %q, %q, %+v", g.Auth.Token.Reveal(), g.Auth.User, g)
		}
	}
	if *b.Config.(*guarded) != before {
		t.Error("the configuration was changed")
	}
	if got, err := cfg.Backends[0].Resolve(nil); err != nil || got != cfg.Backends[0].Config {
		t.Errorf("without references: %v, %v", got, err)
	}
	if all := fmt.Sprintf("%+v %#v", b, *b); strings.Contains(all, "CANARY") || strings.Contains(all, "from-file") {
		t.Error("the block prints what is secret")
	}
}

// TestResolveRefuses: what lacks a field, or does not do for the block, is an error
// without the value.
func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := loadReferring(t, dir, config.Options{}).Backends[1]
	ref := b.References()[0].Ref
	for want, values := range map[string]map[string]string{
		`the secret infra/vault has no field "key", or an empty one (x.hcl:1`:  {"name": "CANARY"},
		`the secret infra/vault has no field "name", or an empty one (x.hcl:1`: {"name": "", "key": "CANARY"},
		"The token has a space: Leave it out":                                  {"name": "CANARY-name", "key": "CANARY key"},
	} {
		got, err := b.Resolve(map[backends.Ref]backends.Value{ref: backends.NewValue(values)})
		if got != nil || !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%v, %v; want %q", got, err, want)
		}
	}
	if _, err := b.Resolve(nil); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("without a value: %v", err)
	}
}

// TestReferencesOffline: nothing is needed for them.
func TestReferencesOffline(t *testing.T) {
	t.Parallel()
	cfg := loadReferring(t, t.TempDir(), config.Options{Offline: true})
	if got := cfg.Backends[1].References(); len(got) != 2 {
		t.Errorf("references: %+v", got)
	}
}
