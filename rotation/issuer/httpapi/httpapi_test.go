package httpapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/httpapi"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// mailer is the issuer of the configuration's documentation, against BASE.
const mailer = `
base_url = "BASE"
auth "bearer" {
  token = secret()
}
create {
  method = "POST"
  path   = "/v1/keys"
  body   = jsonencode({ name = rotation.tag, scopes = secret.issuer.scopes })
  handle = { id = "$.id" }
  fields = { key = "$.secret" }
}
find {
  method = "GET"
  path   = "/v1/keys?name=${rotation.tag}"
  items  = "$.data"
  tag    = "$.name"
  handle = { id = "$.id" }
}
revoke {
  method = "DELETE"
  path   = "/v1/keys/${handle.id}"
}
max_live          = 5
show_once         = true
revocation_budget = duration("30m")
allow_private_network = true
`

var subject = issuer.Subject{
	Ref:      backends.Ref{Tenant: "acme", Name: "mail/sender"},
	Settings: json.RawMessage(`{"scopes":["send"]}`),
}

const canary = "canary-c4d9e0"

// load decodes and compiles a configuration as the daemon does; secret() stands
// for file() and env(), duration() for the daemon's reading of texts by the type
// of the field, which gohcl does not know.
func load(t *testing.T, src, token string) (issuer.Issuer, hcl.Diagnostics, string) {
	t.Helper()
	parser := hclparse.NewParser()
	file, diags := parser.ParseHCL([]byte(src), "config.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	secret := function.New(&function.Spec{
		Type: function.StaticReturnType(cty.String),
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) { return cty.StringVal(token), nil },
	})
	duration := function.New(&function.Spec{
		Params: []function.Parameter{{Name: "text", Type: cty.String}},
		Type:   function.StaticReturnType(cty.Number),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			d, err := time.ParseDuration(args[0].AsString())
			return cty.NumberIntVal(int64(d)), err
		},
	})
	var cfg httpapi.Config
	ctx := &hcl.EvalContext{Functions: map[string]function.Function{"secret": secret, "duration": duration}}
	diags = gohcl.DecodeBody(file.Body, ctx, &cfg)
	var i issuer.Issuer
	if !diags.HasErrors() {
		i, diags = httpapi.New(cfg)
	}
	var out bytes.Buffer
	_ = hcl.NewDiagnosticTextWriter(&out, parser.Files(), 0, false).WriteDiagnostics(diags)
	return i, diags, out.String()
}

func mustLoad(t *testing.T, src, token string) issuer.Issuer {
	t.Helper()
	i, diags, text := load(t, src, token)
	if diags.HasErrors() {
		t.Fatal(text)
	}
	return i
}

// nobody is the address of a server that is gone.
func nobody(t *testing.T) string {
	s := httptest.NewServer(nil)
	defer s.Close()
	return s.URL
}

// Only where no request was made can the credential be known not to exist.
func TestNotSent(t *testing.T) {
	var seen atomic.Int32
	hangsUp := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen.Add(1)
		panic(http.ErrAbortHandler)
	}))
	defer hangsUp.Close()
	untrusted := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) }))
	defer untrusted.Close()
	for url, notSent := range map[string]bool{
		nobody(t):                true,
		untrusted.URL:            true,
		"http://no-such.invalid": true,
		strings.Replace(hangsUp.URL, "http:", "https:", 1): true,
		hangsUp.URL:                             false,
		fixed(t, 503, canary):                   false,
		fixed(t, 201, `{"secret":"`+canary+`"`): false,
	} {
		i := mustLoad(t, strings.ReplaceAll(mailer, "BASE", url)+"timeout = duration(\"2s\")\n", "admin-"+canary)
		before := seen.Load()
		_, err := i.Issue(t.Context(), issuer.Request{Subject: subject, Tag: "rot-1"})
		sameClass(t, "create at "+url, 0, err, backends.ErrUnavailable)
		if got := errors.Is(err, issuer.ErrNotSent); got != notSent {
			t.Errorf("%s: not sent is %t: %v", url, got, err)
		}
		if saw := seen.Load() > before; saw && notSent {
			t.Errorf("%s: the server saw a request", url)
		}
	}
	if seen.Load() != 1 {
		t.Errorf("%d requests were seen, want the one that was hung up on", seen.Load())
	}
}

func without(src, block string) string {
	start := strings.Index(src, block+" {")
	end := start + strings.Index(src[start:], "\n}\n") + 3
	return src[:start] + src[end:]
}

func TestTraitsAndOptionalFind(t *testing.T) {
	src := strings.ReplaceAll(mailer, "BASE", "https://api.example")
	i := mustLoad(t, src, canary)
	if _, ok := i.(issuer.Finder); !ok {
		t.Error("with a find block it is no Finder")
	}
	want := issuer.Traits{Kind: issuer.Mint, Fields: []string{"key"}, Handle: []string{"id"}, MaxLive: 5, ShowOnce: true, RevocationBudget: 30 * time.Minute}
	if got := i.Traits(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, ok := mustLoad(t, without(src, "find"), canary).(issuer.Finder); ok {
		t.Error("without a find block it is a Finder")
	}
	if text := fmt.Sprintf("%+v %#v", i, i); strings.Contains(text, canary) {
		t.Error("printing shows the token")
	}
}

// fixed answers every request alike.
func fixed(t *testing.T, status int, body string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/elsewhere?"+canary)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestStatusClasses(t *testing.T) {
	for _, tt := range []struct {
		status         int
		create, revoke error
	}{
		{200, nil, nil},
		{201, nil, backends.ErrUnavailable},
		{202, backends.ErrUnavailable, nil},
		{204, backends.ErrUnavailable, nil},
		{301, backends.ErrUnavailable, backends.ErrInvalid},
		{302, backends.ErrUnavailable, backends.ErrInvalid}, // what frameworks answer after making something
		{307, backends.ErrUnavailable, backends.ErrInvalid},
		{308, backends.ErrUnavailable, backends.ErrInvalid},
		{303, backends.ErrUnavailable, backends.ErrUnavailable},
		{400, backends.ErrInvalid, backends.ErrInvalid},
		{401, backends.ErrDenied, backends.ErrDenied},
		{403, backends.ErrDenied, backends.ErrDenied},
		{404, backends.ErrInvalid, nil},
		{409, backends.ErrConflict, backends.ErrConflict},
		{410, backends.ErrInvalid, nil},
		{418, backends.ErrInvalid, backends.ErrInvalid},
		{422, backends.ErrInvalid, backends.ErrInvalid},
		{429, backends.ErrUnavailable, backends.ErrUnavailable},
		{500, backends.ErrUnavailable, backends.ErrUnavailable},
		{503, backends.ErrUnavailable, backends.ErrUnavailable},
	} {
		url := fixed(t, tt.status, `{"id":"k1","secret":"`+canary+`"}`)
		i := mustLoad(t, strings.ReplaceAll(mailer, "BASE", url), "admin-"+canary)
		_, err := i.Issue(t.Context(), issuer.Request{Subject: subject, Tag: "rot-1"})
		sameClass(t, "create", tt.status, err, tt.create)
		err = i.Revoke(t.Context(), subject, issuer.Handle{"id": "k1"})
		sameClass(t, "revoke", tt.status, err, tt.revoke)
	}
}

func sameClass(t *testing.T, what string, status int, err, want error) {
	t.Helper()
	if backends.Class(err) != want || (want == nil) != (err == nil) {
		t.Errorf("%s, status %d: got %v, want the class %v", what, status, err, want)
	}
	if err != nil && strings.Contains(err.Error(), canary) {
		t.Errorf("%s, status %d: the canary is in %q", what, status, err)
	}
}

// A success whose answer cannot be used is ambiguous: the credential may exist.
func TestUnusableAnswer(t *testing.T) {
	for _, body := range []string{
		"", canary, `{}`, `{"id":"k1"}`, `{"secret":"` + canary + `"}`, `{"id":{},"secret":"` + canary + `"}`, `[]`,
	} {
		i := mustLoad(t, strings.ReplaceAll(mailer, "BASE", fixed(t, 201, body)), canary)
		_, err := i.Issue(t.Context(), issuer.Request{Subject: subject, Tag: "rot-1"})
		sameClass(t, "create "+strings.ReplaceAll(body, canary, "…"), 201, err, backends.ErrUnavailable)
		if err != nil && !strings.Contains(err.Error(), "may exist") {
			t.Errorf("the text %q does not say that the credential may exist", err)
		}
	}
}

// An answer to find that is not of the shape described is never taken for "none".
func TestFindAnswers(t *testing.T) {
	for _, tt := range []struct {
		body string
		want int // -1: an error
	}{
		{`{"data":[]}`, 0},
		{`{"data":null}`, 0},
		{`{"data":[{"id":"1","name":"rot-1"}]}`, 1},
		{`{"data":[{"id":"1","name":"rot-1"},{"id":"2","name":"rot-1"},{"id":"3","name":"rot-10"}]}`, 2},
		{`{"data":[{"id":"1","name":"ROT-1"},{"id":"2"}]}`, 0},
		{`{"data":[{"id":"1"},{"id":"2"}]}`, -1},
		{`{"data":[{"id":"1","name":null},{"id":"2","name":""},{"id":"3"}]}`, 0}, // other people's, without a name
		{`{"data":[{"id":"1","name":{}}]}`, -1},
		{`{"data":[{"name":"rot-1"}]}`, -1},
		{`{"data":{"id":"1","name":"rot-1"}}`, -1},
		{`{"items":[]}`, -1},
		{`[]`, -1},
		{`{"data":[`, -1},
		{``, -1},
	} {
		i := mustLoad(t, strings.ReplaceAll(mailer, "BASE", fixed(t, 200, tt.body)), canary)
		found, err := i.(issuer.Finder).Find(t.Context(), subject, "rot-1")
		if tt.want < 0 {
			sameClass(t, "find "+tt.body, 200, err, backends.ErrUnavailable)
			continue
		}
		if err != nil || len(found) != tt.want {
			t.Errorf("%s: got %v, %v, want %d", tt.body, found, err, tt.want)
		}
	}
}

// A label that other people's credentials do not have is no other shape.
func TestFindByALabel(t *testing.T) {
	for body, want := range map[string]int{
		`{"data":[{"id":"1","labels":{}},{"id":"2","labels":null}]}`:           0,
		`{"data":[{"id":"1","labels":{}},{"id":"2","labels":{"by":"rot-1"}}]}`: 1,
		`{"data":[{"id":"1"},{"id":"2","label":{"by":"rot-1"}}]}`:              -1,
		`{"data":[{"id":"1"},{"id":"2","labels":{"by":["rot-1"]}}]}`:           -1,
	} {
		i := mustLoad(t, strings.ReplaceAll(strings.Replace(mailer, "$.name", "$.labels.by", 1), "BASE", fixed(t, 200, body)), canary)
		found, err := i.(issuer.Finder).Find(t.Context(), subject, "rot-1")
		if (err != nil) != (want < 0) || err == nil && len(found) != want {
			t.Errorf("%s: got %v, %v, want %d", body, found, err, want)
		}
		told := slices.ContainsFunc(i.(issuer.Checker).Check(t.Context(), subject), func(f issuer.Finding) bool {
			return f.Unknown && f.What == "credentials are found by their tag"
		})
		if told != (want == 0) {
			t.Errorf("%s: that no credential has the label is told: %t", body, told)
		}
	}
}

// When a credential ends by itself is told in many ways, and never taken for "never"
// where it cannot be read.
func TestEnd(t *testing.T) {
	year := time.Date(2126, 1, 2, 3, 4, 5, 0, time.UTC)
	day := time.Date(2126, 1, 2, 0, 0, 0, 0, time.UTC)
	const notAfter, expiresIn = "not_after", "expires_in"
	for _, tt := range []struct {
		attribute, said string
		want            time.Time // zero: it does not end
		bad             bool
	}{
		{notAfter, `"2126-01-02T03:04:05Z"`, year, false},
		{notAfter, `"2126-01-02T05:04:05.000+02:00"`, year, false},
		{notAfter, `"2126-01-02"`, day, false},
		{notAfter, fmt.Sprint(year.Unix()), year, false},
		{notAfter, fmt.Sprintf("%q", fmt.Sprint(year.Unix())), year, false},
		{notAfter, fmt.Sprint(year.UnixMilli()), year, false},
		{notAfter, `null`, time.Time{}, false},
		{notAfter, `""`, time.Time{}, false},
		{notAfter, `0`, time.Time{}, false},
		{notAfter, `"2026-01-02T03:04:05"`, time.Time{}, true},
		{notAfter, `"soon"`, time.Time{}, true},
		{notAfter, `"NaN"`, time.Time{}, true},
		{notAfter, `{}`, time.Time{}, true},
		{notAfter, `true`, time.Time{}, true},
		{notAfter, `-1`, time.Time{}, true},
		{notAfter, `"2001-01-01"`, time.Time{}, true},
		{notAfter, `1e300`, time.Time{}, true},
		{expiresIn, `3600`, time.Time{}.Add(time.Hour), false},
		{expiresIn, `"3600"`, time.Time{}.Add(time.Hour), false},
		{expiresIn, `null`, time.Time{}, false},
		{expiresIn, `"2126-01-02"`, time.Time{}, true},
		{expiresIn, `-5`, time.Time{}, true},
		{expiresIn, `1e10`, time.Time{}, true}, // no life, but a time
	} {
		url := fixed(t, 201, `{"id":"k1","secret":"`+canary+`","meta":{"end":`+tt.said+`}}`)
		i := mustLoad(t, strings.ReplaceAll(strings.Replace(mailer, "fields =", tt.attribute+" = \"$.meta.end\"\n  fields =", 1), "BASE", url), canary)
		began := time.Now()
		cred, err := i.Issue(t.Context(), issuer.Request{Subject: subject, Tag: "rot-1"})
		if tt.bad {
			sameClass(t, tt.attribute+" "+tt.said, 201, err, backends.ErrUnavailable)
			continue
		}
		want, off := tt.want, time.Duration(0)
		if tt.attribute == expiresIn && !want.IsZero() {
			want, off = began.Add(want.Sub(time.Time{})), time.Minute
		}
		if err != nil || cred.NotAfter.Sub(want).Abs() > off {
			t.Errorf("%s = %s: it ends %s, %v; want %s", tt.attribute, tt.said, cred.NotAfter, err, want)
		}
	}
	i := mustLoad(t, strings.ReplaceAll(strings.Replace(mailer, "fields =", "not_after = \"$.expires\"\n  fields =", 1), "BASE", fixed(t, 201, `{"id":"k1","secret":"x"}`)), canary)
	_, err := i.Issue(t.Context(), issuer.Request{Subject: subject, Tag: "rot-1"})
	sameClass(t, "not told", 201, err, backends.ErrUnavailable)
}

// Wherever an API sends us, our credentials stay.
func TestFollowsNoRedirection(t *testing.T) {
	elsewhere := keyserver.Start(t)
	redirecting := httptest.NewServer(http.RedirectHandler(elsewhere.URL+"/v1/keys?"+canary, http.StatusTemporaryRedirect))
	defer redirecting.Close()
	i := mustLoad(t, strings.ReplaceAll(mailer, "BASE", redirecting.URL), "admin-"+canary)
	_, err := i.Issue(t.Context(), issuer.Request{Subject: subject, Tag: "rot-1"})
	sameClass(t, "create", 307, err, backends.ErrUnavailable)
	_, err = i.(issuer.Finder).Find(t.Context(), subject, "rot-1")
	sameClass(t, "find", 307, err, backends.ErrInvalid)
	sameClass(t, "revoke", 307, i.Revoke(t.Context(), subject, issuer.Handle{"id": "k1"}), backends.ErrInvalid)
	if elsewhere.Connections() != 0 {
		t.Error("a redirection was followed")
	}
}

func TestRefusesPrivateNetworks(t *testing.T) {
	s := keyserver.Start(t)
	src := strings.ReplaceAll(mailer, "BASE", strings.Replace(s.URL, "http:", "https:", 1))
	i := mustLoad(t, strings.Replace(src, "allow_private_network = true", "", 1), canary)
	_, err := i.Issue(t.Context(), issuer.Request{Subject: subject, Tag: "rot-1"})
	sameClass(t, "create", 0, err, backends.ErrDenied)
	if s.Connections() != 0 {
		t.Error("a connection was made")
	}
}

func TestCheckSettings(t *testing.T) {
	checker := mustLoad(t, strings.ReplaceAll(mailer, "BASE", "https://api.example"), canary).(issuer.SettingsChecker)
	for settings, want := range map[string]string{
		`{"scopes":["send"],"more":1}`: "",
		`{"scope":["send"]}`:           "scopes is missing",
		`null`:                         "scopes is missing",
		``:                             "scopes is missing",
		`["x"]`:                        "must be an object",
	} {
		got := strings.Join(checker.CheckSettings(json.RawMessage(settings)), "; ")
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", settings, got, want)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ old, new, want string }{
		{"BASE", "api.example", `https://`},
		{"BASE", "https://u:p@api.example", `auth block`},
		{"allow_private_network = true", "", `plain http`},
		{`rotation.tag, scopes`, `rotation.tga, scopes`, `Did you mean "tag"?`},
		{`handle.id`, `handle.key`, `no handle.key`},
		{`handle.id`, `field.key`, `no variable "field"`},
		{`keys/${handle.id}`, `keys`, `does not use handle`},
		{`{ name = rotation.tag, scopes`, `{ scopes`, `does not use rotation.tag`},
		{`"$.secret"`, `"$.id"`, `stored and shown openly`},
		{`"$.secret"`, `"secret"`, `starts with "$"`},
		{`"$.data"`, `"$.data[*]"`, `without wildcards`},
		{"tag    = \"$.name\"\n  handle = { id", "tag    = \"$.name\"\n  handle = { uid", `same names`},
		{`duration("30m")`, `duration("0s")`, `0s is not above zero`},
		{`duration("30m")`, `duration("-1m")`, `-1m0s is not above zero`},
		{`max_live          = 5`, `timeout = duration("-1s")`, `-1s is not above zero`},
		{`max_live          = 5`, `max_live = -1`, `no limit`},
		{"fields =", "not_after = \"expires\"\n  fields =", `starts with "$"`},
		{"fields =", "not_after = \"$.a\"\n  expires_in = \"$.b\"\n  fields =", `leave one out`},
		{`token = secret()`, `tokn = secret()`, `Did you mean "token"?`},
		{`auth "bearer"`, `auth "beerer"`, `Did you mean "bearer"?`},
		{`method = "DELETE"`, `method = "DELET"`, `Did you mean "DELETE"?`},
		{`max_live          = 5`, `ca_file = "/nonexistent/ca.pem"`, `ca_file`},
		{`revoke {`, `revok {`, `Did you mean "revoke"?`},
		{`max_live          = 5`, "check {\n method = \"POST\"\n path = \"/x\"\n}", `GET or HEAD`},
		{`max_live          = 5`, "check { path = \"/${handle.id}\" }", `no variable "handle"`},
		{`method = "GET"`, "method = \"POST\"\n  pages \"link\" {}", `must be a GET`},
		{`items  = "$.data"`, "items  = \"$.data\"\n  pages \"link\" { path = \"$.x\" }", `takes no path`},
	} {
		src := strings.Replace(mailer, tt.old, tt.new, 1)
		src = strings.ReplaceAll(src, "BASE", "http://127.0.0.1:1")
		_, diags, text := load(t, src, canary)
		if !diags.HasErrors() || !strings.Contains(text, tt.want) {
			t.Errorf("%s → %s: got %q, want %q in it", tt.old, tt.new, text, tt.want)
		}
		if !strings.Contains(text, "config.hcl line") {
			t.Errorf("%s → %s: the place is missing: %q", tt.old, tt.new, text)
		}
		if strings.Contains(text, canary) {
			t.Errorf("%s → %s: the token is shown", tt.old, tt.new)
		}
	}
}
