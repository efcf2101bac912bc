package daemon_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

var hclBlock = regexp.MustCompile("(?s)```hcl\n(.*?)```")

// around stands beside what is documented of issuers and probes.
const around = `
data_dir = "data"
backend "local" "embedded" {}
issuer "api_key" "beside" {}
secret "beside/key" {
  backend = "embedded"
  issuer "beside" {}
  proof = "none"
}
`

// covered are secrets that documented triggers act on.
const covered = `
secret "payments/stripe" {
  backend = "embedded"
  labels  = { tier = "high" }
  issuer "beside" {}
  proof = "none"
}
`

// TestDocumentedConfigurationsAreValid loads config.hcl, the examples, and every HCL
// block of the READMEs, as `keybroker validate --offline` would.
func TestDocumentedConfigurationsAreValid(t *testing.T) {
	sources := map[string]string{}
	documents := []string{"config.hcl", "README.md", "docs/backends.md", "docs/consumers.md", "docs/events.md", "examples/consumer/README.md"}
	for _, pattern := range []string{"examples/*/*.hcl", "examples/issuers/*/*.hcl", "docs/issuers/*.md"} {
		found, err := filepath.Glob("../../" + pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		for _, path := range found {
			if !strings.HasSuffix(path, config.AssertionsSuffix) {
				documents = append(documents, strings.TrimPrefix(filepath.ToSlash(path), "../../"))
			}
		}
	}
	for _, file := range documents {
		b, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".hcl") {
			sources[file] = string(b)
			continue
		}
		blocks := hclBlock.FindAllStringSubmatch(string(b), -1)
		if len(blocks) == 0 {
			t.Errorf("%s shows no configuration", file)
		}
		for _, m := range blocks {
			sources[file] += m[1]
		}
	}
	for file, text := range sources {
		whole := map[string][]byte{file: []byte(text)}
		switch {
		case file == "docs/events.md":
			whole["config.hcl"] = []byte(around + covered)
		case strings.HasPrefix(file, "docs/issuers/"), strings.Contains(file, "consumer"): // of the blocks alone that it is about
			whole["config.hcl"] = []byte(around)
		case !strings.Contains(text, "\nsecret "): // what is added to a configuration
			whole["config.hcl"] = []byte(sources["config.hcl"])
		}
		_, diags := config.Parse(whole, daemon.Registry(), config.Options{Offline: true, Dir: t.TempDir()})
		var found strings.Builder
		if err := diags.WriteText(&found, false); err != nil || found.Len() > 0 {
			t.Errorf("%s (%v):\n%s", file, err, found.String())
		}
	}
}
