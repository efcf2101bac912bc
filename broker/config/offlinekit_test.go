package config_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/config"
)

func TestOfflineKit(t *testing.T) {
	opts := testOptions()
	opts.Dir = "/etc/keybroker"
	text := `backend "local" "b" {}
offline_kit {
  path            = "kit.age"
  recipients_file = "people"
}
`
	cfg, diags := config.Parse(map[string][]byte{"a.hcl": []byte(text)}, registry(), opts)
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	k := cfg.OfflineKit
	if k.Path != filepath.FromSlash("/etc/keybroker/kit.age") || k.RecipientsFile != filepath.FromSlash("/etc/keybroker/people") || k.Interval != 5*time.Minute || k.NoCredentials {
		t.Errorf("%+v", k)
	}
	cfg, diags = config.Parse(map[string][]byte{"a.hcl": []byte(`backend "local" "b" {}`)}, registry(), opts)
	if diags.HasErrors() || cfg.OfflineKit != nil {
		t.Errorf("without a block: %v, %v", cfg.OfflineKit, diags.Err())
	}
}

// The text of a block is itself a configuration that says the same, without what people
// wrote beside it.
func TestTextOfABlock(t *testing.T) {
	const source = "# before\n" + `backend "vault" "prod" { # password: hunter2
  # another line
  address = "https://vault.example.com" // and this
  token   = env("TOKEN") /* and that */
  headers = { X = env("TOKEN") }
  auth "approle" {
    role_id        = "role-${env("TOKEN")}"
    secret_id_file = "secret-id" # last
  }
}
`
	opts := testOptions()
	cfg, diags := config.Parse(map[string][]byte{"a.hcl": []byte(source)}, registry(), opts)
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	first := cfg.Backends[0]
	text := first.Text()
	for _, said := range []string{"hunter2", "another", "this", "that", "before", "last"} {
		if strings.Contains(text, said) {
			t.Errorf("it has a comment: %s", text)
		}
	}
	again, diags := config.Parse(map[string][]byte{"b.hcl": []byte(text)}, registry(), opts)
	if err := diags.Err(); err != nil {
		t.Fatalf("%v of:\n%s", err, text)
	}
	if again.Backends[0].Written() != first.Written() {
		t.Errorf("it says something else: %s", text)
	}
}
