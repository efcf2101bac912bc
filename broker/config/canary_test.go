package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/probe/httpprobe"
)

// httpProbes is the registry with the broker's own probe.
func httpProbes() config.Registry {
	reg := registry()
	reg.Probes = map[string]config.Type{"http": {
		New: func() any { return new(httpprobe.Config) },
		Check: func(cfg any, _ config.CheckContext) hcl.Diagnostics {
			_, diags := httpprobe.New(*cfg.(*httpprobe.Config))
			return diags
		},
	}}
	return reg
}

// TestProbeCanary: the canary of the broker's own probe comes from files and the
// environment as it is, and what is wrong with it is said with its line, without it.
func TestProbeCanary(t *testing.T) {
	const canary = "CANARY-55b0"
	dir := t.TempDir()
	for name, content := range map[string]string{"canary": canary + "\n", "spaced": canary + "\n\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opts := config.Options{Dir: dir, LookupEnv: func(string) (string, bool) { return canary, true }}
	for attribute, want := range map[string]string{
		`canary = { key = file("canary") }`:                         "",
		`canary = { key = env("X") }`:                               "",
		`canary = { "key" = "${env("X")}" }`:                        "",
		`canary = { kye = file("canary") }`:                         "uses field.key, which the canary lacks",
		`canary = { key = file("canary"), user = env("X") }`:        "does not use field.user",
		`canary = { key = file("spaced") }`:                         "line breaks",
		`canary = {}`:                                               "which the canary lacks",
		`canary = { key = "` + canary + `" }`:                       "A literal where a secret belongs",
		`canary = { (1 + "x") = "` + canary + `" }`:                 "A literal where a secret belongs",
		`canary = "` + canary + `"`:                                 "is an object",
		`canary = { key = env("X") ? "` + canary + `" : "x" }`:      "cannot be computed",
		"lockout_after = -1":                                        "lockout_after is a number of tries",
		`canary = { key = "${env("X")}` + canary + `${file("x")}"}`: "no such file",
	} {
		source := "probe \"http\" \"p\" {\n" + attribute + `
			url      = "https://api.example.com/v1/me"
			headers  = { Authorization = "Bearer ${field.key}" }
			accepted { status = [200] }
			rejected { status = [401] }
		}`
		cfg, diags := config.Parse(map[string][]byte{"a.hcl": []byte(source)}, httpProbes(), opts)
		shown := strings.ReplaceAll(attribute, canary, "…")
		if diags.HasErrors() != (want != "") {
			t.Errorf("%s: %v", shown, diags.Err())
			continue
		}
		var b strings.Builder
		if err := diags.WriteText(&b, false); err != nil {
			t.Fatal(err)
		}
		said := strings.Join(strings.Fields(b.String()), " ")
		if !strings.Contains(said, want) || want != "" && !strings.Contains(said, "a.hcl line 2") {
			t.Errorf("%s: got %q, want %q and its line", shown, b.String(), want)
		}
		if strings.Contains(b.String()+fmt.Sprintf("%+v %#v", cfg, cfg), canary) {
			t.Errorf("%s: the canary is shown", shown)
		}
		if want != "" {
			continue
		}
		compiled := cfg.Probes[0].Config.(*httpprobe.Config)
		probe, _ := httpprobe.New(*compiled)
		if got, ok := probe.Canary(); !ok || got.Reveal()["key"] != canary || strings.Contains(fmt.Sprintf("%+v %#v", *compiled, *probe), canary) {
			t.Errorf("%s: it has a canary: %t, or it is altered or shown", shown, ok)
		}
	}
}
