package httpcall_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/issuer"
)

const canary = "canary-0b81fe"

type block struct {
	Method  string         `hcl:"method,optional"`
	Path    *hcl.Attribute `hcl:"path,optional"`
	URL     *hcl.Attribute `hcl:"url,optional"`
	Headers *hcl.Attribute `hcl:"headers,optional"`
	Body    *hcl.Attribute `hcl:"body,optional"`
}

var scope = httpcall.Scope{
	"field":    httpcall.FieldType,
	"handle":   httpcall.HandleType([]string{"id"}),
	"secret":   httpcall.SecretVersionType,
	"rotation": httpcall.RotationType,
}

func compile(t testing.TB, src string) (*httpcall.Request, hcl.Diagnostics, map[string]*hcl.File) {
	t.Helper()
	parser := hclparse.NewParser()
	file, diags := parser.ParseHCL([]byte(src), "config.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var b block
	if diags := gohcl.DecodeBody(file.Body, nil, &b); diags.HasErrors() {
		t.Fatal(diags)
	}
	spec := httpcall.Spec{Method: b.Method, Default: "GET", URL: b.URL, Headers: b.Headers, Body: b.Body}
	if b.URL == nil {
		spec.URL = b.Path
		if spec.URL == nil {
			spec.URL = &hcl.Attribute{Expr: hcl.StaticExpr(emptyPath, hcl.Range{})}
		}
		base, diags := httpcall.ParseBase("https://api.example/v9", hcl.Range{}, false)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		spec.Base = base
	}
	r, diags := httpcall.Compile(spec, scope)
	return r, diags, parser.Files()
}

func mustCompile(t testing.TB, src string) *httpcall.Request {
	t.Helper()
	r, diags, _ := compile(t, src)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return r
}

func values() httpcall.Values {
	return httpcall.Values{
		Field:    backends.NewValue(map[string]string{"key": canary}),
		Handle:   issuer.Handle{"id": "a/b c?d"},
		Ref:      backends.Ref{Tenant: "acme", Name: "mail/sender"},
		Labels:   map[string]string{"team": "growth"},
		Settings: json.RawMessage(`{"scopes":["send","read"],"plan":{"size":3}}`),
		Version:  7, Tag: "rot-1", Attempt: 2,
	}
}

func TestBuild(t *testing.T) {
	r := mustCompile(t, `
method  = "POST"
path    = "/keys/${handle.id}/x-${secret.version}?name=${secret.name}&tag=${rotation.tag}&raw=a%20b"
headers = { Authorization = "Bearer ${field.key}", X-Team = secret.labels.team }
body    = jsonencode({ name = rotation.tag, scopes = secret.issuer.scopes, note = "q\"${handle.id}\"", n = secret.issuer.plan.size })
`)
	req, err := r.Build(t.Context(), values())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := req.URL.String(), "https://api.example/v9/keys/a%2Fb%20c%3Fd/x-7?name=mail%2Fsender&tag=rot-1&raw=a%20b"; got != want {
		t.Errorf("URL: got %s, want %s", got, want)
	}
	if req.Method != "POST" || req.Host != "api.example" {
		t.Errorf("got %s to %s", req.Method, req.Host)
	}
	if req.Header.Get("Authorization") != "Bearer "+canary || req.Header.Get("X-Team") != "growth" || req.Header.Get("Content-Type") != "application/json" {
		t.Error("a header is wrong")
	}
	body, _ := io.ReadAll(req.Body)
	if got, want := string(body), `{"n":3,"name":"rot-1","note":"q\"a/b c?d\"","scopes":["send","read"]}`; got != want {
		t.Errorf("body: got %s, want %s", got, want)
	}
	if got, want := r.String(), "POST https://api.example/v9/keys/${handle.id}/x-${secret.version}?name=${secret.name}&tag=${rotation.tag}&raw=a%20b"; got != want {
		t.Errorf("String: got %s, want %s", got, want)
	}
	if !r.Uses("rotation", "tag") || !r.Uses("handle") || r.Uses("rotation", "attempt") {
		t.Error("Uses is wrong")
	}
}

func TestAttributes(t *testing.T) {
	for src, want := range map[string]string{
		`path = "/x?a=${field.b}&b=${field["a"]}&c=${field.b}"`:                        "[a b] false",
		`path = "/x?a=${handle.id}"`:                                                   "[] false",
		`path = "/x?a=${field[handle.id]}"`:                                            "[] true",
		"path = \"/\"\nheaders = { A = field.h }\nbody = jsonencode([field, field.b])": "[b h] true",
	} {
		names, whole := mustCompile(t, src).Attributes("field")
		if got := fmt.Sprint(names, whole); got != want {
			t.Errorf("%s: got %s, want %s", src, got, want)
		}
	}
}

func TestFormBodyAndFunctions(t *testing.T) {
	r := mustCompile(t, `
path    = "/x?h=${base64encode(rotation.tag)}"
headers = { X-Enc = urlencode(secret.name) }
body    = formencode({ token = field.key, scope = secret.issuer.scopes, n = 1, gone = null })
`)
	req, err := r.Build(t.Context(), values())
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(req.Body)
	if got, want := string(body), "n=1&scope=send&scope=read&token="+canary; got != want {
		t.Errorf("body: got %s, want %s", got, want)
	}
	if req.URL.RawQuery != "h=cm90LTE%3D" || req.Header.Get("X-Enc") != "mail%2Fsender" || req.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		t.Errorf("got %s, %v", req.URL, req.Header.Get("X-Enc"))
	}
}

func TestURLTemplates(t *testing.T) {
	r := mustCompile(t, `url = "https://api.example:8443?k=${field.key}"`)
	host, port := r.Endpoint()
	if host != "api.example" || port != "8443" {
		t.Errorf("endpoint %s %s", host, port)
	}
	req, err := r.Build(t.Context(), values())
	if err != nil || req.URL.String() != "https://api.example:8443?k="+canary {
		t.Errorf("got %v, %v", req.URL, err)
	}
	if strings.Contains(r.String(), canary) {
		t.Error("String shows a value")
	}
}

// Each of these is refused when the configuration is loaded, with its place and
// what to do.
func TestMistakes(t *testing.T) {
	for src, want := range map[string]string{
		`path = "/x/${handel.id}"`:                                    `Did you mean "handle"?`,
		`path = "/x/${handle.idd}"`:                                   `Did you mean "id"?`,
		`path = "/x/${secret["nam"]}"`:                                `Did you mean "name"?`,
		`path = "/x/${nothing}"`:                                      `There is field, handle, rotation, secret.`,
		`path = "/x/${rotation.tagg}${handle.i}"`:                     `Did you mean "tag"?`,
		`path = "x/${handle.id}"`:                                     `starts with "/"`,
		`path = "${handle.id}/x"`:                                     `start with literal text`,
		`path = handle.id`:                                            `quoted text`,
		`path = "/x/../y"`:                                            `".."`,
		`path = "/x/%2e%2e/${handle.id}"`:                             `".."`,
		`path = "/x/%zz"`:                                             `%XX`,
		`path = "/x/%2${handle.id}"`:                                  `%XX`,
		`path = "/x#${handle.id}"`:                                    `fragments`,
		`path = "/x y"`:                                               `%XX`,
		`path = "/x?a;b"`:                                             `semicolon`,
		`url = "https://${secret.name}/x"`:                            `literal`,
		`url = "https://api.example${secret.name}/x"`:                 `literal`,
		`url = "https://api.example:${secret.version}/x"`:             `literal`,
		`url = "${secret.name}://api.example/x"`:                      `literal`,
		`url = "ftp://api.example/x"`:                                 `https://`,
		`url = "http://api.example/x"`:                                `allow_private_network`,
		`url = "https://u:p@api.example/x"`:                           `auth block`,
		`url = "https:///x"`:                                          `no host`,
		`url = "https://api.example/x#y"`:                             `fragments`,
		`path = "/x/${jsonencod(handle.id)}"`:                         `Did you mean "jsonencode"?`,
		`path = "/x/${env("X")}"`:                                     `auth block`,
		`path = "/x/${base64encode()}"`:                               `argument`,
		`path = "/x/${secret.version.major}"`:                         `attribute`,
		"path = \"/x\"\nmethod = \"FETCH\"":                           `no method`,
		"path = \"/x\"\nmethod = \"get\"":                             `Did you mean "GET"?`,
		"path = \"/x\"\nbody = \"{\\\"k\\\":\\\"${field.key}\\\"}\"":  `jsonencode({ … })`,
		"path = \"/x\"\nbody = \"x${jsonencode({})}\"":                `jsonencode({ … })`,
		"path = \"/x\"\nbody = base64encode(field.key)":               `jsonencode({ … })`,
		"path = \"/x\"\nbody = jsonencode({ a = feild.k })":           `Did you mean "field"?`,
		"path = \"/x\"\nheaders = field":                              `Headers are written`,
		"path = \"/x\"\nheaders = { \"a b\" = \"x\" }":                `name of a header`,
		"path = \"/x\"\nheaders = { a = field.x, A = field.y }":       `set twice`,
		"path = \"/x\"\nheaders = { Host = \"other\" }":               `broker itself`,
		"path = \"/x\"\nheaders = { User-Agent = \"x\" }":             `broker itself`,
		"path = \"/x\"\nheaders = { Authorization = \"Bearer abc\" }": `auth block`,
		"path = \"/x\"\nheaders = { x-api-key = \"abc\" }":            `The header X-Api-Key holds a credential`,
		"path = \"/x\"\nheaders = { PRIVATE-TOKEN = \"abc\" }":        `The header Private-Token holds a credential`,
		"path = \"/x\"\nheaders = { A = rotation.tags }":              `Did you mean "tag"?`,
	} {
		_, diags, files := compile(t, src)
		if !diags.HasErrors() {
			t.Errorf("%s: no mistake is found", src)
			continue
		}
		var out bytes.Buffer
		_ = hcl.NewDiagnosticTextWriter(&out, files, 0, false).WriteDiagnostics(diags)
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: got\n%s\nwant %q in it", src, out.String(), want)
		}
		if !strings.Contains(src, "method") && !strings.Contains(out.String(), "config.hcl line") {
			t.Errorf("%s: the place is missing:\n%s", src, out.String())
		}
	}
}

func TestReportsAllMistakes(t *testing.T) {
	_, diags, _ := compile(t, `
path    = "/x/${handle.idd}/${rotation.tagg}"
headers = { A = feild.key }
body    = jsonencode({ a = secret.nam })
`)
	if len(diags) != 4 {
		t.Errorf("got %d mistakes, want 4: %v", len(diags), diags)
	}
}

// What cannot be sent as it is must be refused, naming position and reason but
// no value.
func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		src    string
		change func(*httpcall.Values)
		want   string
	}{
		"line break in a header":  {`headers = { Authorization = "Bearer ${field.key}" }`, field("x\r\nX-Evil: " + canary), "line breaks"},
		"outer space in a header": {`headers = { X-Key = field.key }`, field(canary + " "), "outer spaces"},
		"missing field":           {`headers = { X-Key = field.other }`, field(canary), "needs field.other, which is not set"},
		"missing label":           {`headers = { X-Key = "${field.key}${secret.labels.risk}" }`, field(canary), "needs secret.labels.risk"},
		"missing setting":         {`body = jsonencode({ k = field.key, s = secret.issuer.nothing })`, field(canary), "needs secret.issuer.nothing"},
		"no text":                 {`headers = { X = secret.issuer.scopes, Y = field.key }`, field(canary), "gives no text"},
		"bad index":               {`headers = { Y = field.key, X = field[field.key] }`, field(canary), "cannot be evaluated"},
		"bad operand":             {`headers = { X = field.key + 1 }`, field(canary), "cannot be evaluated"},
		"bad form":                {`body = formencode({ k = field.key, o = { a = 1 } })`, field(canary), "cannot be evaluated"},
		"not NFC":                 {`headers = { X = field.key }`, field(canary + "e\u0301"), "normal form C"},
		"joins what is before":    {`headers = { X = "e${field.key}" }`, field("\u0301" + canary), "normal form C"},
		"not UTF-8":               {`body = jsonencode({ k = field.key })`, field(canary + "\xff"), "normal form C"},
		"empty segment":           {`path = "/x/${handle.id}"`, handle(""), "empty"},
		"dot segment":             {`path = "/x/${handle.id}"`, handle(".."), `".."`},
		"hidden dot segment":      {`path = "/x/${handle.id}"`, handle("../../" + canary), `".."`},
		"dots put together":       {`path = "/x/.${field.key}"`, field("."), `"."`},
		"NUL":                     {`path = "/x/${handle.id}"`, handle(canary + "\x00"), "control characters"},
		"settings no object":      {`path = "/x"`, func(v *httpcall.Values) { v.Settings = json.RawMessage(`"` + canary + `"`) }, "no JSON object"},
		"settings no JSON":        {`path = "/x"`, func(v *httpcall.Values) { v.Settings = json.RawMessage(canary) }, "no JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.HasPrefix(tt.src, "path") {
				tt.src = "path = \"/x\"\n" + tt.src
			}
			r := mustCompile(t, tt.src)
			v := values()
			tt.change(&v)
			_, err := r.Build(t.Context(), v)
			if !errors.Is(err, backends.ErrInvalid) {
				t.Fatalf("got %v, want invalid", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want %q in it", err, tt.want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the canary is in %q", err)
			}
		})
	}
}

func field(text string) func(*httpcall.Values) {
	return func(v *httpcall.Values) { v.Field = backends.NewValue(map[string]string{"key": text}) }
}

func handle(id string) func(*httpcall.Values) {
	return func(v *httpcall.Values) { v.Handle = issuer.Handle{"id": id} }
}

func TestMissingSettings(t *testing.T) {
	r := mustCompile(t, `
path = "/x/${secret.issuer.plan.size}"
body = jsonencode({ scopes = secret.issuer.scopes, again = secret.issuer["scopes"] })
`)
	for settings, want := range map[string]string{
		``:                                      "plan.size scopes",
		`null`:                                  "plan.size scopes",
		`{"scopes":[]}`:                         "plan.size",
		`{"scopes":null,"plan":{"size":1}}`:     "scopes",
		`{"scopes":[],"plan":{"size":1},"z":1}`: "",
	} {
		got, err := r.MissingSettings([]byte(settings))
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, %v, want %q", settings, got, err, want)
		}
	}
}

// FuzzBuild: whatever a value is, the request either is refused or carries it
// exactly where the template put it, and nothing else changes.
func FuzzBuild(f *testing.F) {
	r := mustCompile(f, `
method  = "POST"
path    = "/keys/${field.key}/end?a=${field.key}&b=fixed"
headers = { X-Key = "k ${field.key}" }
body    = jsonencode({ k = field.key, fixed = "f" })
`)
	form := mustCompile(f, "method = \"POST\"\npath = \"/x\"\nbody = formencode({ k = field.key, fixed = \"f\" })")
	for _, seed := range []string{"plain", "a/b", "..", "../x", "a?b=c&d", "a#b", "\r\nX: y", `"},"x":{"`, "%2e%2e", "ä\u0301", "\x00", " ", "a;b", "\\..\\", "e\u0301", "\xff", "<&>", "+", ">\u0301Gl", "\U0001f511"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v := httpcall.Values{Field: backends.NewValue(map[string]string{"key": text})}
		if req, err := form.Build(t.Context(), v); err == nil {
			body, _ := io.ReadAll(req.Body)
			if got, err := url.ParseQuery(string(body)); err != nil || len(got) != 2 || got.Get("k") != text || got.Get("fixed") != "f" {
				t.Errorf("%q: the form is %v, %v", text, got, err)
			}
		}
		req, err := r.Build(t.Context(), v)
		if err != nil {
			if !errors.Is(err, backends.ErrInvalid) {
				t.Errorf("%q: %v is not invalid", text, err)
			}
			if strings.TrimLeft(text, "abcdefghijklmnopqrstuvwxyz0123456789") == "" && text != "" {
				t.Errorf("%q is refused: %v", text, err)
			}
			return
		}
		if !utf8.ValidString(text) {
			t.Errorf("%q is no UTF-8 and was taken", text)
		}
		var wire bytes.Buffer
		if err := req.Write(&wire); err != nil {
			t.Fatalf("%q: writing: %v", text, err)
		}
		got, err := http.ReadRequest(bufio.NewReader(&wire))
		if err != nil {
			t.Fatalf("%q: reading: %v", text, err)
		}
		check(t, text, req, got)
	})
}

// check compares what arrived with what was meant.
func check(t *testing.T, text string, sent, got *http.Request) {
	t.Helper()
	if sent.URL.Scheme != "https" || got.Host != "api.example" || got.Method != "POST" {
		t.Errorf("%q: it goes to %s://%s", text, sent.URL.Scheme, got.Host)
	}
	segments := strings.Split(got.URL.EscapedPath(), "/")
	if len(segments) != 5 || segments[1] != "v9" || segments[2] != "keys" || segments[4] != "end" {
		t.Fatalf("%q: the path is %q", text, segments)
	}
	if plain, err := url.PathUnescape(segments[3]); err != nil || plain != text || plain == ".." {
		t.Errorf("%q: its segment is %q", text, segments[3])
	}
	if q, err := url.ParseQuery(got.URL.RawQuery); err != nil || len(q) != 2 || q.Get("a") != text || q.Get("b") != "fixed" {
		t.Errorf("%q: the query is %q", text, got.URL.RawQuery)
	}
	if h := got.Header["X-Key"]; len(h) != 1 || h[0] != "k "+text {
		t.Errorf("%q: the header is %q", text, h)
	}
	for name := range got.Header {
		if name != "X-Key" && name != "Accept" && name != "Content-Type" && name != "User-Agent" && name != "Content-Length" {
			t.Errorf("%q: there is a header %q", text, name)
		}
	}
	var body map[string]string
	if err := json.NewDecoder(got.Body).Decode(&body); err != nil || len(body) != 2 || body["k"] != text || body["fixed"] != "f" {
		t.Errorf("%q: the body is %v, %v", text, body, err)
	}
}
