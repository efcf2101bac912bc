package httpcall

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/keybroker/keybroker/backends"
)

// ParseBase checks the address that the paths of an API are appended to: scheme,
// host, perhaps a port and a path. Plain http is for loopback and private
// networks: anywhere else it would show credentials to everybody on the way.
func ParseBase(raw string, at hcl.Range, allowPlain bool) (*url.URL, hcl.Diagnostics) {
	u, err := url.Parse(raw)
	problem := ""
	switch {
	case err != nil:
		problem = "it cannot be parsed"
	case u.Scheme != "https" && u.Scheme != "http":
		problem = "it starts with neither https:// nor http://"
	case u.Hostname() == "":
		problem = "it names no host"
	case u.User != nil:
		problem = "it holds credentials; they belong in an auth block"
	case strings.ContainsAny(raw, "?#"):
		problem = "it has a query or fragment"
	case strings.Contains(u.Host, ":") && u.Port() == "" && !isIPv6(u.Hostname()):
		problem = "its port is empty"
	case hasDotSegment(u.EscapedPath()):
		problem = `its path has "." or ".." segments`
	case u.Scheme == "http" && !allowPlain:
		problem = "plain http would show the credentials on the way; use https, or say allow_private_network = true if the server is on loopback or a private network"
	}
	if problem != "" {
		return nil, mistake(at, "Invalid URL", "The URL cannot be used: "+problem+".")
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(u.RawPath, "/")
	return u, nil
}

func isIPv6(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Is6()
}

// target is the template of a URL. Its literal parts are sent as they stand,
// what is interpolated is escaped for the path or the query.
type target struct {
	base  *url.URL // scheme, host, path prefix
	parts []part
	at    hcl.Range
}

type part struct {
	literal string
	expr    *expression // instead of literal
	query   bool        // stands after the "?"
}

// compilePath compiles a template that is appended to base.
func compilePath(e hcl.Expression, base *url.URL, scope Scope) (target, hcl.Diagnostics) {
	parts, diags := templateParts(e, scope)
	if diags.HasErrors() {
		return target{}, diags
	}
	if !strings.HasPrefix(parts[0].literal, "/") {
		return target{}, mistake(e.Range(), "Invalid path", `A path starts with "/"; the host is said by base_url alone.`)
	}
	return checkTarget(target{base: base, parts: parts, at: e.Range()})
}

// compileURL compiles a template of a whole URL, whose scheme, host and port are
// literal: nothing a credential holds can send it elsewhere.
func compileURL(e hcl.Expression, allowPlain bool, scope Scope) (target, hcl.Diagnostics) {
	parts, diags := templateParts(e, scope)
	if diags.HasErrors() {
		return target{}, diags
	}
	first := parts[0].literal
	host := strings.Index(first, "://")
	if host < 0 {
		return target{}, mistake(e.Range(), "Invalid URL", "A URL starts with a literal https:// or http://.")
	}
	host += len("://")
	end := strings.IndexAny(first[host:], "/?#")
	switch {
	case end < 0 && len(parts) > 1:
		return target{}, mistake(e.Range(), "Invalid URL", `Scheme, host and port are literal: interpolation may only follow the "/" after them.`)
	case end < 0:
		end = len(first) - host
	}
	base, diags := ParseBase(first[:host+end], e.Range(), allowPlain)
	if diags.HasErrors() {
		return target{}, diags
	}
	if parts[0].literal = first[host+end:]; parts[0].literal == "" {
		parts[0].literal = "/"
	}
	return checkTarget(target{base: base, parts: parts, at: e.Range()})
}

// templateParts takes a quoted template apart; the first part is literal.
func templateParts(e hcl.Expression, scope Scope) ([]part, hcl.Diagnostics) {
	tmpl, ok := e.(*hclsyntax.TemplateExpr)
	if !ok || len(tmpl.Parts) == 0 {
		return nil, mistake(e.Range(), "Invalid template", `This must be a quoted text that starts literally, such as "/v1/keys/${handle.id}".`)
	}
	var parts []part
	var diags hcl.Diagnostics
	for _, p := range tmpl.Parts {
		if lit, ok := p.(*hclsyntax.LiteralValueExpr); ok && lit.Val.Type() == cty.String {
			parts = append(parts, part{literal: lit.Val.AsString()})
			continue
		}
		x, more := compile(p, scope)
		diags = append(diags, more...)
		parts = append(parts, part{expr: &x})
	}
	if parts[0].expr != nil {
		diags = append(diags, mistake(e.Range(), "Invalid template", "This must start with literal text, not with an interpolation.")...)
	}
	return parts, diags
}

// checkTarget finds where the query begins and whether the literal parts make a
// URL, with a letter in place of each interpolation.
func checkTarget(t target) (target, hcl.Diagnostics) {
	query := false
	var whole strings.Builder
	for i := range t.parts {
		p := &t.parts[i]
		p.query = query
		if p.expr != nil {
			whole.WriteByte('x')
			continue
		}
		if strings.ContainsFunc(p.literal, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"<>\^{|}#`, r) }) {
			return t, mistake(t.at, "Invalid URL", "Spaces, fragments, line breaks and characters outside of ASCII must be written as %XX.")
		}
		whole.WriteString(p.literal)
		query = query || strings.Contains(p.literal, "?")
	}
	u, err := t.parse(whole.String())
	if err == nil {
		_, err = url.ParseQuery(u.RawQuery)
	}
	if err != nil {
		return t, mistake(t.at, "Invalid URL", "It has a wrong %XX escape, a semicolon in the query, or \".\" or \"..\" as a segment of the path.")
	}
	return t, nil
}

// build makes the URL. An interpolation in the path may not be empty (it would
// name the collection instead of its item) nor lead out of its segment.
func (t target) build(ctx *hcl.EvalContext) (*url.URL, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.expr == nil {
			b.WriteString(p.literal)
			continue
		}
		text, err := p.expr.text(ctx)
		if err != nil {
			return nil, err
		}
		if p.query {
			b.WriteString(url.QueryEscape(text))
			continue
		}
		if !pathSafe(text) {
			return nil, fmt.Errorf(`%w: the value at %s is empty, ".", ".." or has control characters, so it cannot stand in a path`, backends.ErrInvalid, p.expr.expr.Range())
		}
		b.WriteString(url.PathEscape(text))
	}
	return t.parse(b.String())
}

// pathSafe refuses dot segments also behind slashes: these are escaped, but not
// every server tells an escaped slash from a plain one.
func pathSafe(text string) bool {
	if text == "" || strings.ContainsFunc(text, unicode.IsControl) {
		return false
	}
	for s := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '/' || r == '\\' }) {
		if s == "." || s == ".." {
			return false
		}
	}
	return true
}

// parse appends an escaped path with query to the base.
func (t target) parse(ref string) (*url.URL, error) {
	path, query, _ := strings.Cut(ref, "?")
	path = t.base.EscapedPath() + path
	plain, err := url.PathUnescape(path)
	if err != nil || hasDotSegment(path) {
		return nil, fmt.Errorf(`%w: the URL built at %s has a wrong escape or "." or ".." as a segment`, backends.ErrInvalid, t.at)
	}
	return &url.URL{Scheme: t.base.Scheme, Host: t.base.Host, Path: plain, RawPath: path, RawQuery: query}, nil
}

func hasDotSegment(path string) bool {
	for s := range strings.SplitSeq(path, "/") {
		if plain, err := url.PathUnescape(s); err == nil && (plain == "." || plain == "..") {
			return true
		}
	}
	return false
}

// String shows the template without any value: "https://api.example/v1/keys/${handle.id}".
func (t target) String() string {
	var b strings.Builder
	b.WriteString(t.base.Scheme + "://" + t.base.Host + t.base.EscapedPath())
	for _, p := range t.parts {
		switch {
		case p.expr == nil:
			b.WriteString(p.literal)
		case len(p.expr.refs) == 1:
			b.WriteString("${" + refText(p.expr.refs[0]) + "}")
		default:
			b.WriteString("${…}")
		}
	}
	return b.String()
}
