package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keybroker/keybroker/broker/config"
)

const twoPolicies = `backend "local" "b" {}
policy "one" {
  path "a/*" {
    capabilities = ["read"]
  }
  path "teams/{{identity.tenant}}/*" {
    capabilities = ["read"]
  }
}
policy "two" {
  path "a/*" {
    capabilities = ["list"]
  }
}
`

func TestRuleRange(t *testing.T) {
	cfg, diags := config.Parse(map[string][]byte{"a.hcl": []byte(twoPolicies)}, registry(), testOptions())
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		policy, path string
		line         int // 0: there is none
	}{
		{"one", "a/*", 3}, {"one", "teams/{{identity.tenant}}/*", 6}, {"two", "a/*", 11},
		{"two", "b", 0}, {"root", "*", 0},
	} {
		at, ok := cfg.RuleRange(c.policy, c.path)
		if ok != (c.line > 0) || at.Start.Line != c.line {
			t.Errorf("%s %s: %v %v", c.policy, c.path, at, ok)
		}
	}
}

// TestAssertionsAreNoConfiguration: they stand in the same directory.
func TestAssertionsAreNoConfiguration(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"a.hcl": twoPolicies, "a.test.hcl": `test "x" {}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, diags := config.Load(dir, registry(), testOptions()); diags.HasErrors() {
		t.Error(diags.Err())
	}
	if _, diags := config.Load(filepath.Join(dir, "a.test.hcl"), registry(), testOptions()); !diags.HasErrors() {
		t.Error("assertions were taken for a configuration")
	}
	if err := os.Remove(filepath.Join(dir, "a.hcl")); err != nil {
		t.Fatal(err)
	}
	if _, diags := config.Load(dir, registry(), testOptions()); !diags.HasErrors() {
		t.Error("a directory of assertions alone was taken for a configuration")
	}
}
