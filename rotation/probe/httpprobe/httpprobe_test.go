package httpprobe_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
	"github.com/keybroker/keybroker/rotation/outbound/outboundtest"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/httpprobe"
	"github.com/keybroker/keybroker/rotation/probe/probetest"
)

const canary = "canary-90e1f2"

// mailer is the probe of the configuration's documentation, against BASE.
const mailer = `
method   = "GET"
url      = "BASE/v1/me"
headers  = { Authorization = "Bearer ${field.key}" }
accepted { status = [200] }
rejected { status = [401] }
lockout_after = 5
allow_private_network = true
`

// load decodes and compiles a configuration as the daemon does; duration() stands
// for the daemon's reading of texts by the type of the field, which gohcl does
// not know, and secret() for file() and env().
func load(t *testing.T, src string) (*httpprobe.Probe, hcl.Diagnostics, string) {
	t.Helper()
	parser := hclparse.NewParser()
	file, diags := parser.ParseHCL([]byte(src), "config.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	duration := function.New(&function.Spec{
		Params: []function.Parameter{{Name: "text", Type: cty.String}},
		Type:   function.StaticReturnType(cty.Number),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			d, err := time.ParseDuration(args[0].AsString())
			return cty.NumberIntVal(int64(d)), err
		},
	})
	secret := function.New(&function.Spec{
		Params: []function.Parameter{{Name: "text", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl:   func(args []cty.Value, _ cty.Type) (cty.Value, error) { return args[0], nil },
	})
	ctx := &hcl.EvalContext{Functions: map[string]function.Function{"duration": duration, "secret": secret}}
	var cfg httpprobe.Config
	var p *httpprobe.Probe
	if diags = gohcl.DecodeBody(file.Body, ctx, &cfg); !diags.HasErrors() {
		p, diags = httpprobe.New(cfg)
	}
	var out bytes.Buffer
	_ = hcl.NewDiagnosticTextWriter(&out, parser.Files(), 0, false).WriteDiagnostics(diags)
	return p, diags, out.String()
}

func mustLoad(t *testing.T, src string) *httpprobe.Probe {
	t.Helper()
	p, diags, text := load(t, src)
	if diags.HasErrors() {
		t.Fatal(text)
	}
	return p
}

func key(text string) backends.Value { return backends.NewValue(map[string]string{"key": text}) }

// create makes a key at the server as an administrator would.
func create(t *testing.T, s *keyserver.Server) (id, secret string) {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/keys", strings.NewReader(`{"name":"probed"}`))
	req.Header.Set("Authorization", "Bearer "+s.AdminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	_, rest, _ := strings.Cut(string(body), `"secret":"`)
	secret, _, _ = strings.Cut(rest, `"`)
	live := s.Live()
	return live[len(live)-1].ID, secret
}

func revoke(t *testing.T, s *keyserver.Server, id string) {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodDelete, s.URL+"/v1/keys/"+id, nil)
	req.Header.Set("Authorization", "Bearer "+s.AdminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

func harness(t *testing.T, src string) probetest.Harness {
	s := keyserver.Start(t)
	id, secret := create(t, s)
	faults := map[string]func(bool){}
	for _, status := range []int{302, 403, 404, 429, 500, 503} {
		faults[fmt.Sprint("status ", status)] = func(on bool) {
			s.Override("GET /v1/me", status, map[bool]int{true: -1}[on])
		}
	}
	var control backends.Value
	if strings.Contains(src, "CANARY") {
		control = key(s.Canary())
	}
	return probetest.Harness{
		Probe:        mustLoad(t, strings.NewReplacer("BASE", s.URL, "CANARY", s.Canary()).Replace(src)),
		Good:         key(secret),
		Bad:          key("ks-" + canary),
		Rejected:     map[string]backends.Value{"cut off": key(secret[:len(secret)-1]), "another case": key(strings.ToLower(secret))},
		Undecided:    map[string]backends.Value{"no header": key("ks\n" + canary), "another field": backends.NewValue(map[string]string{"token": secret})},
		Broken:       broken(t, src, s),
		Addresses:    s.Addresses,
		Canary:       control,
		LockoutAfter: 5,
		Revoke:       func() { revoke(t, s, id) },
		Faults:       faults,
		Connections:  s.Connections,
		Attempts:     func() int { return s.Requests("GET /v1/me") },
		Marked:       s.Probes,
	}
}

// broken are probes that get no answer from the server.
func broken(t *testing.T, src string, s *keyserver.Server) map[string]probe.Probe {
	gone := httptest.NewServer(nil)
	gone.Close()
	untrusted := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a credential was sent to a server that is not trusted")
	}))
	t.Cleanup(untrusted.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: untrusted.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	outboundtest.Names(t, map[string][]string{"keys.test": {"127.0.0.1"}})
	at := func(url, more string) probe.Probe {
		return mustLoad(t, strings.NewReplacer("BASE", url, "CANARY", s.Canary()).Replace(src)+more)
	}
	return map[string]probe.Probe{
		"nobody listens":        at(gone.URL, ""),
		"no TLS":                at(strings.Replace(s.URL, "http:", "https:", 1), ""),
		"untrusted certificate": at(untrusted.URL, ""),
		"another's certificate": at(strings.Replace(untrusted.URL, "127.0.0.1", "keys.test", 1), fmt.Sprintf("ca_file = %q\n", ca)),
		"no such host":          at("http://no-such.invalid", ""),
	}
}

// The same server behind what spoils its answers, in more ways than it does itself.
func TestConformanceOfSpoiltAnswers(t *testing.T) {
	probetest.Run(t, func(t *testing.T) probetest.Harness {
		s := keyserver.Start(t)
		p := faultproxy.New(t, s.URL)
		id, secret := create(t, s)
		return probetest.Harness{
			Probe:        mustLoad(t, strings.ReplaceAll(mailer, "BASE", p.URL)),
			Good:         key(secret),
			Bad:          key("ks-" + canary),
			LockoutAfter: 5,
			Revoke:       func() { revoke(t, s, id) },
			Faults:       probetest.HTTPFaults(p),
			Hang: func(on bool) {
				if p.Set(); on {
					p.Set(faultproxy.Rule{Fault: faultproxy.Latency(time.Hour)})
				}
			},
			Attempts: func() int { return s.Requests("GET /v1/me") },
			Marked:   s.Probes,
		}
	})
}

func TestConformance(t *testing.T) {
	probetest.Run(t, func(t *testing.T) probetest.Harness { return harness(t, mailer) })
}

func TestConformanceWithCanary(t *testing.T) {
	probetest.Run(t, func(t *testing.T) probetest.Harness {
		return harness(t, mailer+"canary = { key = secret(\"CANARY\") }\n")
	})
}

func TestConformanceWithBodies(t *testing.T) {
	src := strings.NewReplacer(
		"accepted { status = [200] }", "accepted {\n status = [200]\n json {\n path = \"$.ok\"\n equals = true\n }\n}",
		"rejected { status = [401] }", "rejected {\n status = [401]\n json {\n path = \"$.ok\"\n equals = false\n }\n}",
	).Replace(mailer)
	probetest.Run(t, func(t *testing.T) probetest.Harness { return harness(t, src) })
}

// Several servers answer for one name, and each is tried by itself: where the
// resolver's choice would hide it, one still accepts a revoked key, one rejects
// everything, and one cannot be reached.
func TestEveryServerOfAName(t *testing.T) {
	s := keyserver.StartAt(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	outboundtest.Names(t, map[string][]string{"keys.test": {"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"}})
	_, port, _ := strings.Cut(s.Addresses[0], ":")
	p := mustLoad(t, strings.ReplaceAll(mailer, "BASE", "http://keys.test:"+port))
	addresses, err := p.Addresses(t.Context())
	if want := append(slices.Clone(s.Addresses), "127.0.0.4:"+port); err != nil || !slices.Equal(addresses, want) {
		t.Fatalf("addresses %v, %v, want %v", addresses, err, want)
	}
	_, live := create(t, s)
	s.SetStanding(s.Addresses[0], keyserver.RejectingAll)
	s.SetStanding(s.Addresses[1], keyserver.AcceptingAll)
	id, dead := create(t, s)
	revoke(t, s, id)
	for i, want := range []struct{ live, dead probe.Verdict }{
		{probe.Rejected, probe.Rejected},
		{probe.Accepted, probe.Accepted},
		{probe.Accepted, probe.Rejected},
		{probe.Inconclusive, probe.Inconclusive},
	} {
		for secret, want := range map[string]probe.Verdict{live: want.live, dead: want.dead} {
			got := p.Try(t.Context(), probe.Try{Value: key(secret), Address: addresses[i]})
			if got.Verdict != want || (got.Address == "") != (want == probe.Inconclusive) {
				t.Errorf("server %d: got %s at %q (%s), want %s", i, got.Verdict, got.Address, got.Detail, want)
			}
		}
	}
}

// A locked account says nothing about the keys of it.
func TestLockoutIsInconclusive(t *testing.T) {
	for _, status := range []int{403, 429} {
		s := keyserver.Start(t)
		s.SetLockout(keyserver.Lockout{After: 2, Status: status})
		_, live := create(t, s)
		id, dead := create(t, s)
		revoke(t, s, id)
		p := mustLoad(t, strings.NewReplacer("BASE", s.URL, "CANARY", s.Canary()).Replace(mailer+"canary = { key = secret(\"CANARY\") }\n"))
		for i, want := range []probe.Verdict{probe.Rejected, probe.Rejected, probe.Inconclusive, probe.Inconclusive} {
			if got := p.Try(t.Context(), probe.Try{Value: key(dead)}); got.Verdict != want {
				t.Errorf("try %d: got %s, want %s", i+1, got.Verdict, want)
			}
		}
		if got := p.Try(t.Context(), probe.Try{Value: key(live)}); got.Verdict != probe.Inconclusive || s.Lockouts() != 1 {
			t.Errorf("the live key: %s after %d lockouts", got.Verdict, s.Lockouts())
		}
		control, _ := p.Canary()
		if got := p.Try(t.Context(), probe.Try{Value: control}); got.Verdict != probe.Accepted {
			t.Errorf("the canary: %s", got.Verdict)
		}
	}
}

// Verdicts are given strictly as declared, whatever the endpoint answers.
func TestVerdicts(t *testing.T) {
	status := mailer
	slack := strings.NewReplacer(
		"accepted { status = [200] }", "accepted {\n status = [200]\n json {\n path = \"$.ok\"\n equals = true\n }\n}",
		"rejected { status = [401] }", "rejected {\n status = [200, 403]\n json {\n path = \"$.error\"\n equals = \"revoked\"\n }\n}",
	).Replace(mailer)
	number := strings.Replace(mailer, "rejected { status = [401] }", "rejected {\n status = [400]\n json {\n path = \"$.code\"\n equals = 17\n }\n}", 1)
	for _, tt := range []struct {
		src    string
		status int
		body   string
		want   probe.Verdict
	}{
		{status, 200, "", probe.Accepted},
		{status, 401, "", probe.Rejected},
		{status, 204, "", probe.Inconclusive},
		{status, 302, "", probe.Inconclusive},
		{status, 403, "", probe.Inconclusive},
		{status, 404, "", probe.Inconclusive},
		{status, 429, "", probe.Inconclusive},
		{status, 500, "", probe.Inconclusive},
		{slack, 200, `{"ok":true}`, probe.Accepted},
		{slack, 200, `{"ok":false,"error":"revoked"}`, probe.Rejected},
		{slack, 403, `{"error":"revoked"}`, probe.Rejected},
		{slack, 200, `{"ok":false,"error":"rate"}`, probe.Inconclusive},
		{slack, 200, `{"ok":true,"error":"revoked"}`, probe.Inconclusive}, // both
		{slack, 200, `{"ok":"true"}`, probe.Inconclusive},
		{slack, 200, `{}`, probe.Inconclusive},
		{slack, 200, canary, probe.Inconclusive},
		{slack, 403, `{"error":["revoked"]}`, probe.Inconclusive},
		{number, 400, `{"code":17}`, probe.Rejected},
		{number, 400, `{"code":17.0}`, probe.Rejected},
		{number, 400, `{"code":"17"}`, probe.Inconclusive},
		{number, 400, `{"code":18}`, probe.Inconclusive},
		{number, 400, `{"code":1e999999999}`, probe.Inconclusive},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/me" {
				t.Errorf("a redirect was followed to %s", r.URL.Path)
			}
			w.Header().Set("Location", "/accepted")
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		}))
		p := mustLoad(t, strings.ReplaceAll(tt.src, "BASE", s.URL))
		got := p.Try(t.Context(), probe.Try{Value: key(canary)})
		if got.Verdict != tt.want {
			t.Errorf("status %d, body %s: got %s (%s), want %s", tt.status, tt.body, got.Verdict, got.Detail, tt.want)
		}
		if strings.Contains(got.Detail, canary) {
			t.Errorf("the detail %q holds the canary", got.Detail)
		}
		s.Close()
	}
}

func TestTransportFailuresAreInconclusive(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	cut := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer cut.Close()
	tls := httptest.NewTLSServer(nil)
	defer tls.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, url := range map[string]string{
		"timeout": silent.URL, "cut": cut.URL, "unknown authority": tls.URL, "nobody listens": gone.URL,
		"no TLS": strings.Replace(cut.URL, "http:", "https:", 1),
	} {
		src := strings.ReplaceAll(mailer, "BASE", url)
		if name == "timeout" {
			src += "timeout = duration(\"50ms\")\n"
		}
		got := mustLoad(t, src).Try(t.Context(), probe.Try{Value: key(canary)})
		if got.Verdict != probe.Inconclusive || got.Detail == "" || strings.Contains(got.Detail, canary) {
			t.Errorf("%s: got %+v", name, got)
		}
		if reached := name != "nobody listens"; reached != (got.Address != "") {
			t.Errorf("%s: the address is %q", name, got.Address)
		}
	}
	refused := mustLoad(t, strings.NewReplacer("BASE", "https://127.0.0.1:1", "allow_private_network = true", "").Replace(mailer))
	if got := refused.Try(t.Context(), probe.Try{Value: key(canary)}); got.Verdict != probe.Inconclusive || !strings.Contains(got.Detail, "refused") {
		t.Errorf("a private network: %+v", got)
	}
}

func TestScope(t *testing.T) {
	p := mustLoad(t, strings.Replace(strings.ReplaceAll(mailer, "BASE", "https://api.example"), "/v1/me", "/v1/me?u=${field.user}", 1))
	if got := p.Scope(); got != "GET https://api.example/v1/me?u=${field.user}" {
		t.Errorf("the scope is %q", got)
	}
	if p.LockoutAfter() != 5 {
		t.Errorf("lockout_after is %d", p.LockoutAfter())
	}
}

// A canary has the fields that the request uses, can stand where it puts them,
// and is in no message about it.
func TestCanaryMistakes(t *testing.T) {
	two := strings.Replace(mailer, "/v1/me", "/v1/me?u=${field.user}", 1)
	labelled := strings.Replace(mailer, "/v1/me", "/v1/${secret.labels.account}/me", 1)
	whole := strings.Replace(mailer, "method   = \"GET\"", "method = \"POST\"\nbody = jsonencode(field)", 1)
	const good = `secret("` + canary + `")`
	for _, tt := range []struct{ src, canary, want string }{
		{mailer, "{ key = " + good + " }", ""},
		{two, "{ key = " + good + ", user = " + good + " }", ""},
		{labelled, "{ key = " + good + " }", ""},
		{whole, "{ key = " + good + ", more = " + good + " }", ""},
		{mailer, "{}", "field.key, which the canary lacks"},
		{two, "{ key = " + good + " }", "field.user, which the canary lacks"},
		{two, "{ key = " + good + " }", `canary = { key = file("…"), user = file("…") }`},
		{mailer, "{ kye = " + good + " }", "field.key, which the canary lacks"},
		{mailer, "{ kye = " + good + " }", "does not use field.kye; it uses field.key"},
		{mailer, "{ key = " + good + ", user = " + good + " }", "does not use field.user"},
		{whole, "{ more = " + good + " }", "field.key, which the canary lacks"},
		{strings.Replace(whole, "headers", "# ", 1), "{}", "names the fields"},
		{mailer, `{ key = secret("` + canary + `\n") }`, "cannot stand in the header Authorization"},
		{mailer, `{ key = secret("` + canary + ` ") }`, "outer spaces"},
		{mailer, `{ key = secret("\u0301` + canary + `") }`, "normal form C"},
	} {
		_, diags, text := load(t, strings.ReplaceAll(tt.src, "BASE", "http://127.0.0.1:1")+"canary = "+tt.canary+"\n")
		if diags.HasErrors() != (tt.want != "") || !strings.Contains(strings.Join(strings.Fields(text), " "), tt.want) {
			t.Errorf("canary = %s: got %q, want %q", strings.ReplaceAll(tt.canary, canary, "…"), text, tt.want)
		}
		for _, d := range diags {
			if d.Subject == nil || d.Subject.Start.Line == 0 || strings.Contains(d.Error(), canary) {
				t.Errorf("canary = %s: no line, or the canary itself", strings.ReplaceAll(tt.canary, canary, "…"))
			}
		}
	}
}

func TestMistakes(t *testing.T) {
	jsonBlock := func(path, equals string) string {
		return fmt.Sprintf("{\n status = [200]\n json {\n path = %s\n equals = %s\n }\n}", path, equals)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"[401]", "[401, 200]", "accepted and as rejected"},
		{"rejected { status = [401] }", "rejected " + jsonBlock(`"$.ok"`, "false"), "accepted and as rejected"},
		{"accepted { status = [200] }\nrejected { status = [401] }",
			"accepted " + jsonBlock(`"$.ok"`, "true") + "\nrejected " + jsonBlock(`"$.ok"`, "true"), "accepted and as rejected"},
		{"[401]", "[]", "At least one status"},
		{"[401]", "[429]", "429 cannot tell"},
		{"[401]", "[401, 503]", "503 cannot tell"},
		{"[200]", "[100]", "100 cannot tell"},
		{"rejected { status = [401] }", "", "Missing rejected block"},
		{"rejected {", "rejectd {", `Did you mean "rejected"?`},
		{`"Bearer ${field.key}"`, `"Bearer ${secret.name}"`, "does not use field"},
		{`field.key`, `feild.key`, `Did you mean "field"?`},
		{`field.key`, `secret.issuer.key`, `no secret.issuer`},
		{"BASE", "api.example", "https://"},
		{"BASE", "https://${secret.name}", "literal"},
		{"allow_private_network = true", "", "plain http"},
		{"lockout_after = 5", "lockout_after = -5", "no limit"},
		{"lockout_after = 5", `timeout = duration("0s")`, "0s is not above zero"},
		{"lockout_after = 5", `ca_file = "/nonexistent/ca.pem"`, "ca_file"},
		{"rejected { status = [401] }", "rejected " + jsonBlock(`"ok"`, "false"), `starts with "$"`},
		{"rejected { status = [401] }", "rejected " + jsonBlock(`"$.ok"`, "[1]"), "a text, a number"},
		{`headers  = { Authorization`, `headers  = { User-Agent = "x", Authorization`, "broker itself"},
	} {
		src := strings.Replace(mailer, tt.old, tt.new, 1)
		src = strings.ReplaceAll(src, "BASE", "http://127.0.0.1:1")
		_, diags, text := load(t, src)
		if !diags.HasErrors() || !strings.Contains(text, tt.want) || !strings.Contains(text, "config.hcl line") {
			t.Errorf("%s → %s: got %q, want %q and the place in it", tt.old, tt.new, text, tt.want)
		}
	}
}
