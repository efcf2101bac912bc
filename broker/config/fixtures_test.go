package config_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
)

var marker = regexp.MustCompile(`# (ERROR|WARNING): ([^#\n]*[^#\s])`)

// expected reads the marks of a fixture: "file:line" → what must be said there.
func expected(t *testing.T, path string) map[string][]string {
	t.Helper()
	files := []string{path}
	if info, err := os.Stat(path); err != nil {
		t.Fatal(err)
	} else if info.IsDir() {
		if files, err = filepath.Glob(filepath.Join(path, "*.hcl")); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string][]string{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(content), "\n") {
			for _, m := range marker.FindAllStringSubmatch(line, -1) {
				where := fmt.Sprintf("%s:%d", file, i+1)
				want[where] = append(want[where], m[1]+": "+m[2])
			}
		}
	}
	return want
}

func testOptions() config.Options {
	env := map[string]string{"TOKEN": "s3cr3t-token", "EMPTY": "",
		"WHSEC": "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "WHSK": "whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
	return config.Options{LookupEnv: func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}}
}

// TestFixtures compares what is said of each configuration in testdata with the
// marks in it: the same lines, the marked text, and nothing else.
func TestFixtures(t *testing.T) {
	fixtures, err := filepath.Glob("testdata/*")
	if err != nil || len(fixtures) < 25 {
		t.Fatalf("%d fixtures, %v", len(fixtures), err)
	}
	for _, path := range fixtures {
		if ext := filepath.Ext(path); ext != ".hcl" && ext != "" || filepath.Base(path) == "fuzz" {
			continue
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			want := expected(t, path)
			cfg, diags := config.Load(path, registry(), testOptions())
			if (cfg == nil) != diags.HasErrors() || (diags.Err() != nil) != diags.HasErrors() {
				t.Errorf("config %v, err %v", cfg, diags.Err())
			}
			for _, d := range diags.All() {
				where := fmt.Sprintf("%s:%d", d.Subject.Filename, d.Subject.Start.Line)
				if !take(want, where, d) {
					t.Errorf("unexpected at %s: %s", where, text(d))
				}
			}
			for _, where := range slices.Sorted(maps.Keys(want)) {
				t.Errorf("missing at %s: %q", where, want[where])
			}
		})
	}
}

func text(d *hcl.Diagnostic) string {
	severity := map[hcl.DiagnosticSeverity]string{hcl.DiagError: "ERROR", hcl.DiagWarning: "WARNING"}[d.Severity]
	return severity + ": " + d.Summary + ". " + d.Detail
}

// take removes the mark that d fulfils.
func take(want map[string][]string, where string, d *hcl.Diagnostic) bool {
	for i, mark := range want[where] {
		severity, said, _ := strings.Cut(mark, ": ")
		if rest, ok := strings.CutPrefix(text(d), severity+": "); ok && strings.Contains(rest, said) {
			if want[where] = slices.Delete(want[where], i, i+1); len(want[where]) == 0 {
				delete(want, where)
			}
			return true
		}
	}
	return false
}
