package config_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// parse reads a configuration that must be right.
func parse(t *testing.T, source string) *config.Config {
	t.Helper()
	cfg, diags := config.Parse(map[string][]byte{"test.hcl": []byte(source)}, registry(), testOptions())
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestDefaults(t *testing.T) {
	cfg := parse(t, "")
	if cfg.DataDir != "data" || cfg.Listener.Address != "127.0.0.1:8400" || cfg.Listener.TLS() {
		t.Errorf("data_dir %q, listener %+v", cfg.DataDir, cfg.Listener)
	}
	if cfg.Storage != (config.Storage{Type: config.SQLite, Path: "data/keybroker.db"}) {
		t.Errorf("storage %+v", cfg.Storage)
	}
	if want := []config.Seal{{Type: config.SealFile, File: config.FileSeal{Path: "data/seal.key"}}}; !config.SameSeals(cfg.Seals, want) {
		t.Errorf("seals %+v", cfg.Seals)
	}
}

func TestEverythingIsDecoded(t *testing.T) {
	cfg, diags := config.Load("testdata/valid.hcl", registry(), testOptions())
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	if cfg.DataDir != "testdata/state" || cfg.Storage.Path != "testdata/state/x.db" || cfg.Listener.Address != "127.0.0.1:0" {
		t.Errorf("data_dir %q, storage %+v, listener %+v", cfg.DataDir, cfg.Storage, cfg.Listener)
	}
	vault := cfg.Backends[0]
	if want := (backends.Limits{Timeout: 3 * time.Second, RequestsPerSecond: 2.5, MaxConcurrent: 4}); vault.Limits != want {
		t.Errorf("limits %+v", vault.Limits)
	}
	v := vault.Config.(*vaultConfig)
	if v.Token.Reveal() != "s3cr3t-token" || v.Keys[0].Reveal() != "s3cr3t-file" || v.Headers["X"].Reveal() != "s3cr3t-token" {
		t.Error("env() and file() gave something else than was there")
	}
	if v.Auth.RoleID.Reveal() != "role-s3cr3t-token" || v.Auth.SecretIDFile != "testdata/secret-id" || v.Auth.Method != "approle" {
		t.Errorf("auth %+v", v.Auth)
	}
	if v.Renew != 24*time.Hour || v.DefRange.Start.Line == 0 || vault.Type != "vault" || vault.Name != "prod" {
		t.Errorf("backend %+v, renew %s", vault.Named, v.Renew)
	}
	if vault.ReadOnly || vault.DriftCheck != 15*time.Minute || !vault.Capabilities.CompareSwap || vault.Capabilities.ReadOnly {
		t.Errorf("by default: %+v", vault)
	}
	if us := cfg.Backends[1]; us.DriftCheck != time.Hour || us.ReadOnly {
		t.Errorf("mirror %+v", us)
	}
	if old := cfg.Backends[2]; !old.ReadOnly || !old.Capabilities.ReadOnly || old.DriftCheck != 0 {
		t.Errorf("read-only backend %+v", old)
	}
	probe := cfg.Probes[0].Config.(*probeConfig)
	if vars := probe.URL.Expr.Variables(); len(vars) != 1 || vars[0].RootName() != "field" {
		t.Errorf("the url's template: %v", vars)
	}
	if vars := probe.Headers.Variables(); len(vars) != 1 || probe.Accepted.Status[0] != 200 {
		t.Errorf("the headers' template: %v, status %v", vars, probe.Accepted.Status)
	}
	told := *cfg.Consumers[0]
	if told.Tenant != "acme" || told.Role != "newsletter" || told.Instances != 3 || told.Concurrency != 2 || told.Inbox || len(told.Events) != 2 ||
		told.Payload != webhook.Sealed || told.PublicKeyFile != "testdata/recipient.jwk" ||
		told.Signature != webhook.HMAC || told.SigningSecretFile != "testdata/signing_keys.txt" ||
		told.Endpoint.URL != "https://example.com/hook" || told.Endpoint.TLS.MinVersion != tls.VersionTLS12 || len(told.Endpoint.TLS.Pins) != 2 {
		t.Errorf("consumer %+v", told)
	}
	if c := cfg.Consumers[1]; !c.Inbox || c.Events == nil || len(c.Events) != 0 || c.Instances != 1 || c.Concurrency != 4 ||
		c.Payload != webhook.Reference || c.Signature != webhook.Ed25519 {
		t.Errorf("consumer %+v", *c)
	}
	s := cfg.Secrets[0]
	if s.Ref != (backends.Ref{Tenant: "acme", Name: "mail/sender"}) || s.Probe != "mailer" || s.Labels["risk"] != "high" {
		t.Errorf("secret %+v", s)
	}
	if string(s.Settings) != `{"limits":{"daily":5},"scopes":["send"]}` {
		t.Errorf("settings %s", s.Settings)
	}
	if p := cfg.Policies[0]; p.Name != "reader" || !reflect.DeepEqual(p.Rules, []policy.Rule{{Path: "mail/*", Capabilities: []policy.Capability{policy.Read}}}) {
		t.Errorf("policy %+v", p)
	}
	if tr := cfg.Triggers[0]; tr.Action != config.ActionRotate || !tr.Covers("mail/a", nil) || tr.Covers("pay/a", nil) || tr.Covers("sys/x", nil) ||
		tr.MaxSecrets != 5 || tr.Cooldown != 10*time.Minute || tr.Type != config.TriggerAPI {
		t.Errorf("trigger %+v", tr)
	}
}

func TestTriggers(t *testing.T) {
	cfg, diags := config.Load("testdata/triggers_valid.hcl", registry(), testOptions())
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	byName := map[string]*config.Trigger{}
	for _, tr := range cfg.Triggers {
		byName[tr.Name] = tr
	}
	growth := map[string]string{"team": "growth", "risk": "high"}
	for _, c := range []struct {
		trigger, secret string
		labels          map[string]string
		want            bool
	}{
		{"all", "anything/at/all", nil, true},
		{"labelled", "mail/a", growth, true},
		{"labelled", "mail/a", map[string]string{"team": "core"}, false},
		{"labelled", "mail/a", nil, false},
		{"both", "mail/a", growth, true},
		{"both", "pay/a", growth, true},
		{"both", "pay/b", growth, false},
		{"both", "mail/a", nil, false},
		{"nothing", "mail/a", growth, false},
	} {
		if got := byName[c.trigger].Covers(c.secret, c.labels); got != c.want {
			t.Errorf("%s covers %s %v: %v", c.trigger, c.secret, c.labels, got)
		}
	}
	if tr := byName["both"]; tr.MaxSecrets != 20 || tr.Cooldown != time.Hour || tr.Reason != "found by the SIEM" || tr.Action != config.ActionEmergency || tr.Tenant != "acme" {
		t.Errorf("%+v", tr)
	}
	if secret := byName["all"].Config.(*hookConfig).SigningSecret.Reveal(); secret != "s3cr3t-token" {
		t.Errorf("signing secret %q", secret)
	}
	if tr := byName["noticed"]; !slices.Equal(tr.On, []string{"resurrected", "drift"}) || tr.Threshold != nil {
		t.Errorf("%+v", tr)
	}
	if tr := byName["hot"]; tr.On != nil || *tr.Threshold.ReadsPerMinute != 600 || tr.Threshold.DeniedPerMinute != nil {
		t.Errorf("%+v", tr)
	}
}

func TestDefinition(t *testing.T) {
	cfg, diags := config.Load("testdata/valid.hcl", registry(), testOptions())
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	got, err := cfg.Definition(cfg.Secrets[0])
	if err != nil {
		t.Fatal(err)
	}
	want := rotation.Definition{
		Backend: "prod", Mirrors: []string{"us"}, OnDrift: rotation.DriftRestore, Issuer: "mailer", Probe: "mailer", Consumers: []string{"newsletter"},
		Settings: json.RawMessage(`{"limits":{"daily":5},"scopes":["send"]}`),
		Labels:   map[string]string{"risk": "high", "environment": "production"},
		Schedule: "0 3 1 * *", TimeZone: "Europe/Berlin", Jitter: 30 * time.Minute, MinInterval: time.Hour,
		Window: "Mon-Fri 02:00-05:00", MaxAge: 35 * 24 * time.Hour, Policy: "monthly", MaxConcurrent: 10, Pair: "mail",
		NoticeBefore: 72 * time.Hour,
		Plan: rotation.Plan{
			Overlap: 12 * time.Hour, MaxOverlap: 36 * time.Hour,
			Verify: rotation.Verify{Successes: 3, Interval: time.Second, Timeout: time.Minute},
			Confirm: rotation.Confirm{
				Rejections: 4, Window: 30 * time.Minute, Budget: 30 * time.Minute, // both from the issuer
				Recheck: []time.Duration{time.Hour, 7 * 24 * time.Hour},
			},
			Acknowledgement: rotation.Acknowledgement{Require: rotation.RequireApplied, Timeout: 12 * time.Hour, Hold: true},
			Emergency:       rotation.Emergency{RevokeFirst: true, ReplaceWithin: 30 * time.Second},
			Key:             rotation.KeySpec{Length: 40, Alphabet: "base62", Classes: []string{"lower", "digit"}, Prefix: "pk", Checksum: true},
			MinLength:       32,
			Approval:        true, // WaitForMirrors is not: the secret says so
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	static, err := cfg.Definition(cfg.Secrets[1])
	if err != nil || static.Schedule != "" || static.Issuer != "" || static.Backend != "prod" || static.OnDrift != rotation.DriftReport || !static.Plan.WaitForMirrors {
		t.Errorf("without an issuer: %+v, %v", static, err)
	}
}

func TestDefinitionOfSecretsThatAreNotConfigured(t *testing.T) {
	cfg := parse(t, `
		backend "local" "here" { read_only = true }
		issuer "api_key" "keys" {}
		issuer "set" "user" {}
		issuer "http" "api" { revocation_budget = "1m" }`)
	ref := backends.Ref{Tenant: "default", Name: "a"}
	none := policy.ProofNone
	noProof := policy.Settings{Proof: &none}
	for name, c := range map[string]struct {
		secret config.Secret
		want   string // empty: it is right
	}{
		"right":              {config.Secret{Issuer: "keys", Probe: "p"}, ""},
		"no proof":           {config.Secret{Issuer: "keys", Rotation: noProof}, ""},
		"read-only":          {config.Secret{Backend: "here", Issuer: "keys", Probe: "p"}, `the backend "here" is read-only`},
		"served only":        {config.Secret{Backend: "here"}, ""},
		"adopted blindly":    {config.Secret{OnDrift: rotation.DriftAdopt}, "the secret has no probe"},
		"no issuer there":    {config.Secret{Issuer: "gone"}, `there is no issuer "gone"`},
		"no probe":           {config.Secret{Issuer: "keys"}, "rotates without a probe"},
		"impossible overlap": {config.Secret{Issuer: "user", Probe: "p"}, "cannot give an overlap"},
		"wrong settings":     {config.Secret{Issuer: "api", Probe: "p", Settings: json.RawMessage(`{}`)}, "scopes is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			c.secret.Ref = ref
			d, err := cfg.Definition(&c.secret)
			if c.want == "" {
				if err != nil || d.Plan.MaxOverlap < d.Plan.Overlap || d.Plan.Confirm.Window != 5*time.Second && c.secret.Issuer != "" {
					t.Errorf("%+v, %v", d, err)
				}
				return
			}
			if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestLoadWithoutFiles(t *testing.T) {
	empty := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(empty, "none.hcl"): "no such file or directory",
		empty:                            "holds no *.hcl file",
	} {
		cfg, diags := config.Load(path, registry(), testOptions())
		if err := diags.Err(); cfg != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestOffline checks every fixture without env() and file(): nothing is read, so
// nothing of them is wrong; all other mistakes are found.
func TestOffline(t *testing.T) {
	read := func(string) (string, bool) {
		t.Error("the environment was read")
		return "", false
	}
	for _, fixture := range []string{"testdata/valid.hcl", "testdata/unreadable.hcl"} {
		cfg, diags := config.Load(fixture, registry(), config.Options{Offline: true, LookupEnv: read})
		if err := diags.Err(); err != nil || cfg == nil {
			t.Errorf("%s: %v", fixture, err)
		}
	}
	_, diags := config.Load("testdata/literal_secret.hcl", registry(), config.Options{Offline: true, LookupEnv: read})
	if want := len(expected(t, "testdata/literal_secret.hcl")); len(diags.All()) != want {
		t.Errorf("%d diagnostics, want %d", len(diags.All()), want)
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "90s": 90 * time.Second, "7d": 7 * 24 * time.Hour, "1d12h": 36 * time.Hour,
		"1.5d": 36 * time.Hour, "-1d": -24 * time.Hour, "1h30m": 90 * time.Minute,
	} {
		if got, err := config.ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "7", "7 d", "1h1d", "1d1d", "1d-1h", "-1d1h", "999999999d", "NaNd", "Infd", "106751d24h"} {
		if got, err := config.ParseDuration(text); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

func TestDiagnosticsForPeopleAndPrograms(t *testing.T) {
	source := "data_dir = \"x\"\nbackend \"lokal\" \"a\" {}\nseal \"file\" { pth = 1 }\n"
	_, diags := config.Parse(map[string][]byte{"broker.hcl": []byte(source)}, registry(), testOptions())
	var b strings.Builder
	if err := diags.WriteText(&b, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`Error: There is no backend "lokal"`, "on broker.hcl line 2, in backend \"lokal\" \"a\":",
		`   2: backend "lokal" "a" {}`, `Did you mean "local"?`, `There is no attribute "pth" here`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, b.String())
		}
	}
	encoded, err := json.Marshal(diags)
	if err != nil {
		t.Fatal(err)
	}
	var list []map[string]any
	if err := json.Unmarshal(encoded, &list); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"severity": "error", "summary": `There is no backend "lokal"`, "detail": `Did you mean "local"?`,
		"file": "broker.hcl", "line": 2.0, "column": 9.0,
	}
	if len(list) != 2 || !maps.Equal(list[0], want) {
		t.Errorf("JSON %s", encoded)
	}
	if err := diags.Err(); err.Error() != `invalid configuration: broker.hcl:2: There is no backend "lokal": Did you mean "local"? (and 1 more)` {
		t.Errorf("error %q", err)
	}
}

// TestCanary forces mistakes around a secret, read or written where it belongs,
// and looks for it in all that is said of them.
func TestCanary(t *testing.T) {
	const canary = "CANARY-7f3a"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret.txt"), []byte(canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := config.Options{Dir: dir, LookupEnv: func(string) (string, bool) { return canary, true }}
	for i, source := range []string{
		`backend "vault" "a" { token = "` + canary + `" }`,
		"backend \"vault\" \"a\" {\n token = <<X\n" + canary + "\nX\n}",
		`backend "vault" "a" { token = 5 + env("X") }`,
		`backend "vault" "a" { token = { a = 1 }[env("X")] }`,
		`backend "vault" "a" { token = env("X") ? "a" : "b" }`,
		`backend "vault" "a" { token = file("${env("X")}/y") }`,
		`backend "vault" "a" { token = file(env("X")) }`,
		`backend "vault" "a" { token = "${env("X")}${5}" }`,
		`backend "vault" "a" { token = "` + canary + `${file("none")}" }`,
		`backend "vault" "a" { tokne = "` + canary + `" }`,
		"backend \"vault\" \"a\" {\n ath \"x\" { role_id = \"" + canary + "\" }\n}",
		"backend \"vault\" \"a\" {\n ath \"x\" {\n b \"y\" { z = \"" + canary + "\" }\n}\n}",
		`backend "valut" "a" { token = "` + canary + `" }`,
		`backend "vault" { token = "` + canary + `" }`,
		"storage \"sqlite\" {}\nstorage \"postgresql\" { url = \"" + canary + "\" }",
		`backend "vault" "a" { headers = ["` + canary + `"] }`,
		`backend "vault" "a" { headers = { A = "` + canary + `" } }`,
		`backend "vault" "a" { keys = { A = file("secret.txt") } }`,
		`backend "vault" "a" { address = file("secret.txt") }`,
		`backend "vault" "a" { address = upper(env("X")) }`,
		`backend "vault" "a" { limits { timeout = env("X") } }`,
		`data_dir = { a = 1 }[env("X")]`,
		"consumer \"a\" {\n webhook {\n url = \"https://example.com\"\n signing_secret = env(\"X\")\n}\n}",
		"consumer \"a\" {\n webhook { url = \"https://user:" + canary + "@example.com\" }\n}",
		"consumer \"a\" {\n webhook { url = \"https://user:" + canary + "@example .com\" }\n}",
		"consumer \"a\" {\n webhook { url = \"https://user:" + canary + "\x01@example.com\" }\n}",
		`backend "vault" "a" { auth "x" { role_id = "` + canary + `" } }`,
		`backend "vault" "a" { token = "` + canary + ` }`,
		`backend "vault" "a" { token = ["` + canary + `", "` + canary + `${x" }`,
		"backend \"vault\" \"a\" {\n token = <<X\n" + canary + "\nX\n token = 1\n",
		"backend \"vault\" \"a\" {\n token = <<X\n" + canary,
		`storage "postgresql" { url = "postgres://x:` + canary + `@h/d" }`,
		`audit "splunk_hec" { token = "` + canary + `" }`,
		"audit \"file\" { path = \"x\" }\naudit \"file\" { token = \"" + canary + "\" }",
		`audit "splunk" { token = "` + canary + `" }`,
		`audit { token = "` + canary + `" }`,
		`notifier "webhook" "a" { token = "` + canary + `" }`,
		`notifier "pager" "a" { token = "` + canary + `" }`,
		`auth "mtls" "a" { client_secret = "` + canary + `" }`,
		`auth "gitlab" "a" { client_secret = "` + canary + `" }`,
		"role \"a\" {\n policies = [\"root\"]\n bind \"b\" { claims = { a = env(\"X\") } }\n}",
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			cfg, diags := config.Parse(map[string][]byte{"a.hcl": []byte(source)}, registry(), opts)
			if !diags.HasErrors() {
				t.Fatalf("no mistake was found in %s", source)
			}
			var b strings.Builder
			if err := diags.WriteText(&b, true); err != nil {
				t.Fatal(err)
			}
			encoded, err := json.Marshal(diags)
			if err != nil {
				t.Fatal(err)
			}
			said := b.String() + string(encoded) + diags.Err().Error() + diags.All().Error() + fmt.Sprintf("%+v", cfg)
			if strings.Contains(said, canary) {
				t.Errorf("the secret is shown:\n%s", said)
			}
		})
	}
}

// TestSecretsKeepTheirBytes: HCL would bring the text into normal form C.
func TestSecretsKeepTheirBytes(t *testing.T) {
	const decomposed = "cafe\u0301\n"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret.txt"), []byte(decomposed+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, diags := config.Parse(map[string][]byte{"a.hcl": []byte(`backend "vault" "a" {
		address = "https://x"
		token   = file("secret.txt")
	}`)}, registry(), config.Options{Dir: dir})
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	if got := cfg.Backends[0].Config.(*vaultConfig).Token.Reveal(); got != decomposed {
		t.Errorf("%d bytes, want %d", len(got), len(decomposed))
	}
}

func TestPathsAreOfTheConfigurationsDirectory(t *testing.T) {
	cfg, diags := config.Parse(map[string][]byte{"a.hcl": []byte(`
		data_dir = "/var/lib/x"
		listener "tcp" {
			tls_cert_file = "tls.crt"
			tls_key_file  = "/etc/tls.key"
		}
		seal "file" { path = "seal.key" }`)}, registry(), config.Options{Dir: "/etc/keybroker"})
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	got := []string{cfg.DataDir, cfg.Storage.Path, cfg.Listener.TLSCertFile, cfg.Listener.TLSKeyFile, cfg.Seals[0].File.Path}
	want := []string{"/var/lib/x", "/var/lib/x/keybroker.db", "/etc/keybroker/tls.crt", "/etc/tls.key", "/etc/keybroker/seal.key"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestOutsizedSources: what the HCL library would die of is a mistake like any other.
func TestOutsizedSources(t *testing.T) {
	for name, source := range map[string]string{
		"brackets":  "data_dir = " + strings.Repeat("(", 20_000),
		"lists":     "data_dir = " + strings.Repeat("[\n", 20_000),
		"blocks":    strings.Repeat("a {\n", 20_000),
		"templates": "data_dir = " + strings.Repeat(`"${`, 20_000),
		"operators": "data_dir = " + strings.Repeat("!", 20_000) + "true",
		"exponent":  "data_dir = 1e99999999",
	} {
		t.Run(name, func(t *testing.T) {
			_, diags := config.Parse(map[string][]byte{"a.hcl": []byte(source)}, registry(), testOptions())
			if err := diags.Err(); err == nil || !strings.Contains(err.Error(), "The parser cannot take this") {
				t.Errorf("error %v", err)
			}
			if err := diags.WriteText(&strings.Builder{}, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// FuzzParse: whatever is written, there is either a Config or an error with
// every place inside of the source.
func FuzzParse(f *testing.F) {
	fixtures, err := filepath.Glob("testdata/*.hcl")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range fixtures {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	reg := registry()
	f.Fuzz(func(t *testing.T, source []byte) {
		cfg, diags := config.Parse(map[string][]byte{"a.hcl": source}, reg, config.Options{Offline: true})
		if (cfg == nil) != diags.HasErrors() {
			t.Fatalf("config %v, diagnostics %v", cfg != nil, diags.Err())
		}
		for _, d := range diags.All() {
			if d.Subject == nil || d.Subject.Filename != "a.hcl" || d.Subject.Start.Byte > len(source) {
				t.Errorf("a diagnostic without its place: %s", d)
			}
			if d.Severity != hcl.DiagError && d.Severity != hcl.DiagWarning || d.Summary == "" {
				t.Errorf("an empty diagnostic: %+v", d)
			}
		}
		if err := diags.WriteText(&strings.Builder{}, false); err != nil {
			t.Error(err)
		}
		if cfg == nil {
			return
		}
		for _, s := range cfg.Secrets {
			if _, err := cfg.Definition(s); err != nil {
				t.Errorf("what was accepted has no definition: %s", err)
			}
		}
		checkWalls(t, cfg)
	})
}

// TestDefaultConfiguration loads the config.hcl of the repository, with the
// broker's own probe.
func TestDefaultConfiguration(t *testing.T) {
	cfg, diags := config.Load("../../config.hcl", httpProbes(), testOptions())
	if len(diags.All()) > 0 {
		t.Fatal(diags.All())
	}
	if len(cfg.Secrets) != 1 || cfg.Secrets[0].Ref.Name != "demo/api-key" {
		t.Fatalf("secrets %+v", cfg.Secrets)
	}
	d, err := cfg.Definition(cfg.Secrets[0])
	if err != nil {
		t.Fatal(err)
	}
	if d.Schedule != "* * * * *" || d.Plan.Overlap != 20*time.Second || d.Plan.Confirm.Window != 8*time.Second {
		t.Errorf("definition %+v", d)
	}
	if c := cfg.Consumers[0]; c.Payload != webhook.Plain || c.Signature != webhook.Ed25519 || c.SigningSecretFile != "" {
		t.Errorf("consumer %+v", *c)
	}
}
