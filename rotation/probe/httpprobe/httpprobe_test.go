package httpprobe_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
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
// not know.
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
	ctx := &hcl.EvalContext{Functions: map[string]function.Function{"duration": duration}}
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

func harness(t *testing.T, src string) probetest.Harness {
	s := keyserver.Start(t)
	id, secret := create(t, s)
	faults := map[string]func(bool){}
	for _, status := range []int{302, 403, 404, 429, 500, 503} {
		faults[fmt.Sprint("status ", status)] = func(on bool) {
			s.Override("GET /v1/me", status, map[bool]int{true: -1}[on])
		}
	}
	return probetest.Harness{
		Probe: mustLoad(t, strings.ReplaceAll(src, "BASE", s.URL)),
		Good:  key(secret),
		Bad:   key("ks-" + canary),
		Revoke: func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodDelete, s.URL+"/v1/keys/"+id, nil)
			req.Header.Set("Authorization", "Bearer "+s.AdminToken)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		},
		Faults:      faults,
		Connections: s.Connections,
		Marked:      s.Probes,
	}
}

func TestConformance(t *testing.T) {
	probetest.Run(t, func(t *testing.T) probetest.Harness { return harness(t, mailer) })
}

func TestConformanceWithBodies(t *testing.T) {
	src := strings.NewReplacer(
		"accepted { status = [200] }", "accepted {\n status = [200]\n json {\n path = \"$.ok\"\n equals = true\n }\n}",
		"rejected { status = [401] }", "rejected {\n status = [401]\n json {\n path = \"$.ok\"\n equals = false\n }\n}",
	).Replace(mailer)
	probetest.Run(t, func(t *testing.T) probetest.Harness { return harness(t, src) })
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
