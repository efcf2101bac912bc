package httpcall_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/outbound"
)

var emptyPath = cty.StringVal("")

func body(t *testing.T, src string) hcl.Body {
	t.Helper()
	file, diags := hclsyntax.ParseConfig([]byte(src), "config.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return file.Body
}

func TestPaths(t *testing.T) {
	doc, err := httpcall.Decode([]byte(`{"id": 12345678901234567890, "data": [{"secret": "s"}, {"secret": "t"}], "empty": "", "no": null, "ok": true}`))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"$.id":              "12345678901234567890",
		"$.data[0].secret":  "s",
		"$.data[-1].secret": "t",
		"$['ok']":           "true",
		"$.data":            "",
		"$.data[*].secret":  "",
		"$.empty":           "",
		"$.no":              "",
		"$.none":            "",
	} {
		p, diags := httpcall.CompilePath(path, hcl.Range{})
		if diags.HasErrors() {
			t.Errorf("%s: %v", path, diags)
			continue
		}
		if got, ok := p.Text(doc); got != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", path, got, ok, want)
		}
	}
	for _, bad := range []string{"", "id", "$.a[", "$[?(", "$.a[x]"} {
		if _, diags := httpcall.CompilePath(bad, hcl.Range{}); !diags.HasErrors() {
			t.Errorf("%q is taken for a path", bad)
		}
	}
}

func TestCompilePaths(t *testing.T) {
	attrs, _ := body(t, `
good = { id = "$.id", key = "$.a.b" }
none = {}
list = ["$.id"]
calc = { id = "$.${x}" }
twice = { id = "$.id", id = "$.di" }
bad  = { id = "id", key = "$.a[" }
`).JustAttributes()
	for name, mistakes := range map[string]int{"good": 0, "none": 1, "list": 1, "calc": 1, "twice": 1, "bad": 2} {
		if _, diags := httpcall.CompilePaths(attrs[name]); len(diags) != mistakes {
			t.Errorf("%s: got %d mistakes, want %d: %v", name, len(diags), mistakes, diags)
		}
	}
	paths, _ := httpcall.CompilePaths(attrs["good"])
	doc, _ := httpcall.Decode([]byte(`{"id":"` + canary + `"}`))
	_, err := httpcall.Texts(paths, doc)
	if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "$.a.b") || strings.Contains(err.Error(), canary) {
		t.Errorf("got %v", err)
	}
}

func TestDecodeQuotesNothing(t *testing.T) {
	for _, text := range []string{"", canary, `{"a":"` + canary + `"`, `{} {"a":"` + canary + `"}`} {
		if _, err := httpcall.Decode([]byte(text)); !errors.Is(err, backends.ErrUnavailable) || strings.Contains(err.Error(), canary) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

type authBlocks struct {
	Auth []httpcall.Auth `hcl:"auth,block"`
}

// decodeAuth reads auth blocks with a function for secrets, as the loader of the
// configuration does.
func decodeAuth(t *testing.T, src string) (httpcall.Authenticator, hcl.Diagnostics, []httpcall.Auth) {
	t.Helper()
	secret := function.New(&function.Spec{
		Type: function.StaticReturnType(cty.String),
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) { return cty.StringVal(canary), nil },
	})
	var b authBlocks
	diags := gohcl.DecodeBody(body(t, src), &hcl.EvalContext{Functions: map[string]function.Function{"file": secret}}, &b)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	client, err := outbound.New(outbound.Options{AllowPrivate: true, FreshConnections: true})
	if err != nil {
		t.Fatal(err)
	}
	a, diags := httpcall.CompileAuth(b.Auth, httpcall.AuthOptions{Client: client, AllowPlain: true, Now: func() time.Time { return signedAt }})
	return a, diags, b.Auth
}

func TestAuth(t *testing.T) {
	for src, want := range map[string]map[string]string{
		"auth \"bearer\" {\n token = file()\n}":                                                    {"Authorization": "Bearer " + canary},
		"auth \"basic\" {\n username = \"u\"\n password = file()\n}":                               {"Authorization": "Basic dTpjYW5hcnktMGI4MWZl"},
		"auth \"header\" {\n name = \"x-key\"\n value = file()\n}":                                 {"X-Key": canary},
		"auth \"header\" {\n name = \"A\"\n value = file()\n}\nauth \"bearer\" { token = file() }": {"A": canary, "Authorization": "Bearer " + canary},
	} {
		a, diags, blocks := decodeAuth(t, src)
		if diags.HasErrors() {
			t.Errorf("%s: %v", src, diags)
			continue
		}
		got := sent(t, a, "GET", "/", "")
		for name, value := range want {
			if got.Header.Get(name) != value {
				t.Errorf("%s: the header %s is wrong", src, name)
			}
		}
		if text := fmt.Sprintf("%+v %#v %v", a, a, blocks); strings.Contains(text, canary) {
			t.Errorf("%s: printing shows the credential: %s", src, text)
		}
	}
}

func TestAuthMistakes(t *testing.T) {
	for src, want := range map[string]string{
		`auth "baerer" { token = file() }`:                                       `Did you mean "bearer"?`,
		`auth "bearer" {}`:                                                       "needs token",
		`auth "basic" { username = "u" }`:                                        "needs password",
		"auth \"bearer\" {\n token = file()\n value = file()\n}":                 "takes no value",
		"auth \"header\" {\n name = \"Host\"\n value = file()\n}":                "cannot be the header",
		"auth \"header\" {\n name = \"X\"\n value = \"${file()}\\n\"\n}":         "line break",
		"auth \"bearer\" { token = file() }\nauth \"bearer\" { token = file() }": "already",
		oauth + "auth \"bearer\" { token = file() }":                             "already",
		strings.Replace(oauth, "https://", "https://u:p@", 1):                    "auth block",
		strings.Replace(oauth, "client_id ", "username", 1):                      "needs client_id",
		strings.Replace(oauth, "}", "client_auth = \"header\"\n}", 1):            `client_auth cannot be "header"`,
		strings.Replace(signed, "request.path", "request.pth", 1):                `Did you mean "path"?`,
		strings.Replace(signed, "timestamp_header", "# timestamp_header", 1):     "timestamp_header",
		strings.Replace(signed, "}\n", "algorithm = \"sha1\"\n}\n", 1):           `algorithm cannot be "sha1"`,
		strings.Replace(signed, "}\n", "format = \"v1\"\n}\n", 1):                "does not use ${signature}",
		strings.Replace(signed, "X-Signature", "Host", 1):                        "cannot be the header",
		"auth \"hmac\" {\n key = file()\n header = \"X\"\n sign = \"fixed\"\n}":  "good for any request",
		"auth \"hmac\" {\n key = file()\n header = \"X\"\n}":                     "needs sign",
	} {
		_, diags, _ := decodeAuth(t, src)
		var out bytes.Buffer
		_ = hcl.NewDiagnosticTextWriter(&out, nil, 0, false).WriteDiagnostics(diags)
		if !diags.HasErrors() || !strings.Contains(out.String(), want) || strings.Contains(out.String(), canary) {
			t.Errorf("%s: got %q, want %q in it and no credential", src, out.String(), want)
		}
	}
}

func TestParseBase(t *testing.T) {
	for raw, ok := range map[string]bool{
		"https://api.example":          true,
		"https://api.example:8443/v1/": true,
		"https://[2001:db8::1]/":       true,
		"http://127.0.0.1:80":          true, // plain is allowed here
		"api.example":                  false,
		"https://":                     false,
		"https://a b/":                 false,
		"https://api.example:/":        false,
		"https://api.example?x":        false,
		"https://api.example/#x":       false,
		"https://api.example/../x":     false,
		"https://u@api.example/":       false,
		"file:///etc/passwd":           false,
	} {
		if _, diags := httpcall.ParseBase(raw, hcl.Range{}, true); diags.HasErrors() == ok {
			t.Errorf("%s: got %v", raw, diags)
		}
	}
}

func TestPositiveOr(t *testing.T) {
	written := 30 * time.Minute
	for want, given := range map[time.Duration]*time.Duration{time.Hour: nil, written: &written} {
		if d, diags := httpcall.PositiveOr(time.Hour, given, hcl.Range{}); d != want || diags.HasErrors() {
			t.Errorf("got %s, %v, want %s", d, diags, want)
		}
	}
	for _, wrong := range []time.Duration{0, -time.Second} {
		if _, diags := httpcall.PositiveOr(time.Hour, &wrong, hcl.Range{}); !diags.HasErrors() {
			t.Errorf("%s is taken", wrong)
		}
	}
}
