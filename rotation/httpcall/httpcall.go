// Package httpcall builds HTTP requests from templates in the configuration and
// takes their answers apart, so that a third-party API is described, not coded.
package httpcall

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Spec is one request as the configuration describes it.
type Spec struct {
	Method  string
	Default string         // the method where none is said
	URL     *hcl.Attribute // a whole URL, or, with Base, a path
	Headers *hcl.Attribute // an object of texts; may be nil
	Body    *hcl.Attribute // a call of jsonencode or formencode; may be nil
	Base    *url.URL       // from ParseBase; nil where URL is a whole one
	At      hcl.Range      // of the block, for mistakes of the method
	// AllowPlain permits http:// where URL is a whole one.
	AllowPlain bool
}

// Request is a compiled template. Safe for concurrent use.
type Request struct {
	method      string
	target      target
	headers     []header
	body        *expression
	contentType string
}

var methods = []string{"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"}

// Compile checks a request against the variables it may use and reports every
// mistake it finds.
func Compile(spec Spec, scope Scope) (*Request, hcl.Diagnostics) {
	r := &Request{method: spec.Method}
	var diags, more hcl.Diagnostics
	if r.method == "" {
		r.method = spec.Default
	}
	if !slices.Contains(methods, r.method) {
		diags = mistake(spec.At, "Unknown method", fmt.Sprintf("%q is no method for a request.%s", r.method, suggest(strings.ToUpper(r.method), methods)))
	}
	switch {
	case spec.URL == nil:
		more = mistake(hcl.Range{}, "Missing address", "A request needs to know where it goes.")
	case spec.Base != nil:
		r.target, more = compilePath(spec.URL.Expr, spec.Base, scope)
	default:
		r.target, more = compileURL(spec.URL.Expr, spec.AllowPlain, scope)
	}
	diags = append(diags, more...)
	if spec.Headers != nil {
		r.headers, more = compileHeaders(spec.Headers.Expr, scope)
		diags = append(diags, more...)
	}
	if spec.Body != nil {
		more = r.compileBody(spec.Body.Expr, scope)
		diags = append(diags, more...)
	}
	return r, diags
}

var bodyTypes = map[string]string{
	"jsonencode": "application/json",
	"formencode": "application/x-www-form-urlencoded",
}

// compileBody accepts a body that is encoded as a whole: text with interpolation
// would let a value write its own JSON.
func (r *Request) compileBody(e hcl.Expression, scope Scope) hcl.Diagnostics {
	call, ok := e.(*hclsyntax.FunctionCallExpr)
	if !ok || bodyTypes[call.Name] == "" {
		return mistake(e.Range(), "Body is not encoded",
			"A body is written as jsonencode({ … }) or formencode({ … }), which escape what is put into it. A text with interpolation would not.")
	}
	x, diags := compile(e, scope)
	r.body, r.contentType = &x, bodyTypes[call.Name]
	return diags
}

// Build makes the request. The error is ErrInvalid and holds no value: a
// position in the configuration and what is wrong there.
func (r *Request) Build(ctx context.Context, v Values) (*http.Request, error) {
	vars, err := v.context()
	if err != nil {
		return nil, err
	}
	u, err := r.target.build(vars)
	if err != nil {
		return nil, err
	}
	req := (&http.Request{Method: r.method, URL: u, Host: u.Host, Header: http.Header{}}).WithContext(ctx)
	req.Header.Set("Accept", "application/json")
	if r.body != nil {
		text, err := r.body.text(vars)
		if err != nil {
			return nil, err
		}
		setBody(req, text)
		req.Header.Set("Content-Type", r.contentType)
	}
	for _, h := range r.headers {
		text, err := h.value(vars)
		if err != nil {
			return nil, err
		}
		req.Header.Set(h.name, text)
	}
	return req, nil
}

func setBody(req *http.Request, text string) {
	body := []byte(text)
	req.ContentLength = int64(len(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, _ = req.GetBody()
}

// String shows method and URL without any value.
func (r *Request) String() string { return r.method + " " + r.target.String() }

// Endpoint returns the literal host and port, the scheme's own where none is said.
func (r *Request) Endpoint() (host, port string) {
	return r.target.base.Hostname(), portOf(r.target.base)
}

func (r *Request) expressions() []*expression {
	var all []*expression
	for _, p := range r.target.parts {
		if p.expr != nil {
			all = append(all, p.expr)
		}
	}
	for i := range r.headers {
		all = append(all, &r.headers[i].expr)
	}
	if r.body != nil {
		all = append(all, r.body)
	}
	return all
}

// Uses tells whether the request refers to a variable: a root ("field"), or a
// root and attributes ("rotation", "tag").
func (r *Request) Uses(path ...string) bool {
	for _, x := range r.expressions() {
		if x.refers(path...) {
			return true
		}
	}
	return false
}

func refersTo(ref hcl.Traversal, path []string) bool {
	if ref.RootName() != path[0] {
		return false
	}
	for i, want := range path[1:] {
		if i+1 >= len(ref) {
			return true // the whole of which path is a part
		}
		if name, ok := stepName(ref[i+1]); !ok || name != want {
			return false
		}
	}
	return true
}

// Attributes returns what the request refers to below a root, sorted: of
// ${field.key} "key". whole tells that it refers to the root as a whole as well,
// or to an attribute that only its values name.
func (r *Request) Attributes(root string) (names []string, whole bool) {
	for _, x := range r.expressions() {
		for _, ref := range x.refs {
			if ref.RootName() != root {
				continue
			}
			if len(ref) > 1 {
				if name, ok := stepName(ref[1]); ok {
					names = append(names, name)
					continue
				}
			}
			whole = true
		}
	}
	slices.Sort(names)
	return slices.Compact(names), whole
}

// MissingSettings names what the request needs of a secret's issuer block and
// settings does not give: "scopes". The error is ErrInvalid if settings is
// neither a JSON object nor null.
func (r *Request) MissingSettings(settings []byte) ([]string, error) {
	vars, err := Values{Settings: settings}.context()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, x := range r.expressions() {
		for _, ref := range x.refs {
			if len(ref) < 3 || !refersTo(ref, []string{"secret", "issuer"}) {
				continue
			}
			if v, diags := ref.TraverseAbs(vars); diags.HasErrors() || v.IsNull() {
				names = append(names, strings.TrimPrefix(refText(ref), "secret.issuer."))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// PositiveOr returns the duration of an attribute, or the default where it was
// not written.
func PositiveOr(byDefault time.Duration, written *time.Duration, at hcl.Range) (time.Duration, hcl.Diagnostics) {
	if written == nil {
		return byDefault, nil
	}
	if *written <= 0 {
		return byDefault, mistake(at, "Invalid duration", fmt.Sprintf(`%s is not above zero; write "30m" or "10s".`, *written))
	}
	return *written, nil
}
