package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/config"
)

// digested is a block with everything that a digest is about.
type digested struct {
	Address string `hcl:"address"`
	CAFile  string `hcl:"ca_file,optional"`
	Auth    *struct {
		Token     backends.SecretString `hcl:"token"`
		TokenFile string                `hcl:"token_file,optional" file:"reread"`
	} `hcl:"auth,block"`
}

// TestDigestOfABlock: it is about all that a block does, and about nothing else.
func TestDigestOfABlock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := map[string]string{"TOKEN": "one"}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	digest := func(hcl string) string {
		t.Helper()
		reg := registry()
		reg.Backends["digested"] = config.BackendType{Type: config.Type{New: func() any { return new(digested) }}, Capabilities: able}
		cfg, diags := config.Parse(map[string][]byte{"x.hcl": []byte(hcl)}, reg, config.Options{Dir: dir,
			LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok }})
		if err := diags.Err(); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		cfg.Backends[0].Digest(&out)
		return out.String()
	}
	const plain = `backend "digested" "b" {
  address = "https://a"
  ca_file = "ca.pem"
  auth {
    token      = env("TOKEN")
    token_file = "token"
  }
}`
	write("ca.pem", "certificate")
	write("token", "one")
	first := digest(plain)
	if got := digest(strings.NewReplacer("  ", "", `"https://a"`, `"https://a" # note`+"\n\n").Replace(plain) + "\n# more"); got != first {
		t.Errorf("layout and comments change it:\n%s\n%s", first, got)
	}
	if got := digest(strings.Replace(plain, "https://a", "https://b", 1)); got == first {
		t.Error("another address does not change it")
	}
	env["TOKEN"] = "two"
	second := digest(plain)
	if second == first {
		t.Error("another secret does not change it")
	}
	write("token", "two")
	if got := digest(plain); got != second {
		t.Error("a file that is read anew by itself changes it")
	}
	write("ca.pem", "another")
	if got := digest(plain); got == second {
		t.Error("another content of a file does not change it")
	}
}
