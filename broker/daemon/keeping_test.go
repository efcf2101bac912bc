package daemon_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

// farAway is a vault that nothing answers for.
const farAway = `
backend "vault" "us" {
  address = "http://127.0.0.1:1"
  auth "token" {
    token = env("US_TOKEN")
  }
}
`

func warningsOf(r client.Reload) string {
	var all strings.Builder
	for _, w := range r.Warnings {
		all.WriteString(w.What + " => " + w.Remedy + "\n")
	}
	return all.String()
}

// TestReloadTellsOfMirrorsThatAreGivenUp, and refuses to lose one that is named.
func TestReloadTellsOfMirrorsThatAreGivenUp(t *testing.T) {
	t.Parallel()
	const kept, mirrored = `  backend = "embedded"`, "  backend = \"embedded\"\n  mirrors = [\"us\"]"
	alone := withConsumer(embedded, nil)
	s := newSite(t, replaced(t, alone, kept, mirrored)+farAway)
	s.env["US_TOKEN"] = "none"
	n := s.start()
	mirror := func() string { return strings.Join(s.config().Secrets[0].Mirrors, " ") }
	if mirror() != "us" {
		t.Fatalf("mirrors %q", mirror())
	}
	with := s.hcl

	s.hcl = replaced(t, with, farAway, "")
	if got := n.refused(t, false); !strings.Contains(got, `There is no backend "us"`) {
		t.Errorf("a mirror without its block is refused for: %s", got)
	}
	dry := func(hcl string) (changes, warnings string) {
		t.Helper()
		s.hcl = hcl
		r, err := n.Client.Reload(t.Context(), client.ReloadRequest{DryRun: true})
		if err != nil {
			t.Fatalf("%v %s", err, problemsOf(err))
		}
		return changesOf(r), warningsOf(r)
	}
	without := replaced(t, with, mirrored, kept)
	if changes, warnings := dry(without); changes != "changed secret app/key" ||
		!strings.Contains(warnings, `backend "us" is given no new versions of app/key any more: what it holds stays there => let nobody read it there`) {
		t.Errorf("given up: %s; %s", changes, warnings)
	}
	if changes, warnings := dry(replaced(t, without, farAway, "")); changes != "changed secret app/key, removed backend us" ||
		!strings.Contains(warnings, `backend "us" leads elsewhere or nowhere now, and it held app/key: what it held stays there, also when it is revoked`) {
		t.Errorf("given up with its block: %s; %s", changes, warnings)
	}
	if changes, warnings := dry(replaced(t, with, mirrored, mirrored+"\n  on_drift = \"restore\"")); changes != "changed secret app/key" || warnings != "" {
		t.Errorf("another rule for drift: %s; %s", changes, warnings)
	}
	s.hcl = without
	n.reload(t)
	if changes, warnings := dry(with); changes != "changed secret app/key" || warnings != "" {
		t.Errorf("a mirror more: %s; %s", changes, warnings)
	}
}

// TestCallsOfBackendsAreCounted, also those that fail, until the backend goes.
func TestCallsOfBackendsAreCounted(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+farAway)
	s.env["US_TOKEN"] = "none"
	n := s.start()
	n.done(t, "app/key")
	metrics := func() string { _, text := s.get("GET", "/metrics", s.rootToken()); return text }
	for _, want := range []string{
		`keybroker_backend_calls_total{backend="embedded",class="ok",operation="publish"} 1`,
		`keybroker_backend_call_seconds_count{backend="embedded",operation="publish"} 1`,
		`keybroker_backend_calls_total{backend="us",class="unavailable",operation="check"}`,
		`keybroker_backend_breaker_open{backend="embedded"} 0`,
		`keybroker_backend_breaker_open{backend="us"}`,
	} {
		eventually(t, want, func() bool { return strings.Contains(metrics(), want) })
	}
	s.hcl = replaced(t, s.hcl, farAway, "")
	n.reload(t)
	eventually(t, "the end of its series", func() bool { return !strings.Contains(metrics(), `backend="us"`) })
	if !strings.Contains(metrics(), `backend="embedded"`) {
		t.Error("the series of a backend that stays are gone")
	}
}

// TestCapabilitiesAreThoseOfTheDriver: what a configuration is checked against is
// what the vault then can do.
func TestCapabilitiesAreThoseOfTheDriver(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+farAway+`
backend "local" "archive" {
  read_only = true
}
backend "aws_secrets_manager" "eu" {
  region            = "eu-central-1"
  endpoint          = "http://127.0.0.1:1"
  access_key_id     = env("US_TOKEN")
  secret_access_key = env("US_TOKEN")
  layout            = "binary"
}
backend "aws_parameter_store" "legacy" {
  region            = "eu-central-1"
  endpoint          = "http://127.0.0.1:1"
  access_key_id     = env("US_TOKEN")
  secret_access_key = env("US_TOKEN")
  layout            = "string"
}
`)
	s.env["US_TOKEN"] = "none"
	d, err := daemon.Open(context.Background(), daemon.Options{Config: s.config(), Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	seen := map[string]bool{}
	for _, b := range s.config().Backends {
		seen[b.Type] = true
		if got := d.Mount(b.Name).Capabilities(); got != b.Capabilities {
			t.Errorf("backend %s can %+v, its configuration says %+v", b.Name, got, b.Capabilities)
		}
	}
	for name := range daemon.Registry().Backends {
		if !seen[name] {
			t.Errorf("there is no backend of the type %s here", name)
		}
	}
}

// TestMistakesOfAVaultStandWhereTheyAre: the texts of its Validate name the place.
func TestMistakesOfAVaultStandWhereTheyAre(t *testing.T) {
	t.Parallel()
	const text = `backend "vault" "a" { # There must be exactly one auth block
  address     = "https://vault.example.com"
  path_prefix = "/"         # path_prefix "/" is no path
}
backend "vault" "b" {
  address = "https://user@vault.example.com" # address must not hold credentials
  auth "tokn" {             # auth "tokn" is no method
  }
}
`
	_, diags := config.Parse(map[string][]byte{"vault.hcl": []byte(text)}, daemon.Registry(), config.Options{Dir: t.TempDir()})
	want := map[int]string{}
	for i, line := range strings.Split(text, "\n") {
		if _, mark, ok := strings.Cut(line, " # "); ok {
			want[i+1] = mark
		}
	}
	for _, d := range diags.All() {
		if mark := want[d.Subject.Start.Line]; mark == "" || !strings.HasPrefix(d.Summary, mark) {
			t.Errorf("on line %d: %s: %s", d.Subject.Start.Line, d.Summary, d.Detail)
		}
		delete(want, d.Subject.Start.Line)
	}
	for line, mark := range want {
		t.Errorf("line %d: %q is not said", line, mark)
	}
}
