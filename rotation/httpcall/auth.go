package httpcall

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Auth is a block that says how the broker proves to an API who it is:
//
//	auth "bearer" { token = file("…") }
//	auth "basic"  { username = "…", password = file("…") }
//	auth "header" { name = "X-Api-Key", value = file("…") }
//	auth "oauth2" { token_url = "https://…", client_id = "…", client_secret = file("…") }
//	auth "hmac"   { key = file("…"), sign = "${request.timestamp}…", header = "X-Signature" }
//
// Several blocks, for APIs that want several headers, add up.
type Auth struct {
	Kind     string                `hcl:"kind,label"`
	Token    backends.SecretString `hcl:"token,optional"`
	Username string                `hcl:"username,optional" from:"secret"`
	Password backends.SecretString `hcl:"password,optional"`
	Name     string                `hcl:"name,optional"`
	Value    backends.SecretString `hcl:"value,optional"`

	// oauth2: client credentials, RFC 6749, 4.4.
	TokenURL     string                `hcl:"token_url,optional"`
	ClientID     string                `hcl:"client_id,optional" from:"secret"`
	ClientSecret backends.SecretString `hcl:"client_secret,optional"`
	ClientAuth   string                `hcl:"client_auth,optional"` // where the client's secret goes: "basic", the default, or "body"
	Scopes       []string              `hcl:"scopes,optional"`
	Audience     string                `hcl:"audience,optional"`

	// hmac: each request is signed.
	Key             backends.SecretString `hcl:"key,optional"`
	KeyEncoding     string                `hcl:"key_encoding,optional"`     // "text", the default, "base64" or "hex"
	Algorithm       string                `hcl:"algorithm,optional"`        // "sha256", the default, or "sha512"
	Sign            *hcl.Attribute        `hcl:"sign,optional"`             // template of what is signed
	Encoding        string                `hcl:"encoding,optional"`         // of signature and digest: "hex", the default, or "base64"
	Header          string                `hcl:"header,optional"`           // that the signature goes in
	Format          *hcl.Attribute        `hcl:"format,optional"`           // template of that header; default: the signature
	TimestampHeader string                `hcl:"timestamp_header,optional"` // default: none
	TimestampFormat string                `hcl:"timestamp_format,optional"` // "unix", the default, "unix_ms", "rfc3339" or "http"

	DefRange hcl.Range `hcl:",def_range"`
}

// authKinds says which attributes each kind must have, and may.
var authKinds = map[string]struct{ needs, takes []string }{
	"bearer": {needs: []string{"token"}},
	"basic":  {needs: []string{"username", "password"}},
	"header": {needs: []string{"name", "value"}},
	"oauth2": {
		needs: []string{"token_url", "client_id", "client_secret"},
		takes: []string{"client_auth", "scopes", "audience"},
	},
	"hmac": {
		needs: []string{"key", "sign", "header"},
		takes: []string{"key_encoding", "algorithm", "encoding", "format", "timestamp_header", "timestamp_format"},
	},
}

// Authenticator sends requests as auth blocks say. The zero value adds nothing to
// them. It holds the credentials in closures: package fmt prints unexported fields past
// the methods by which a SecretString redacts itself.
type Authenticator struct {
	set    []func(http.Header)
	tokens *tokens // of oauth2; nil: none
	sign   func(*http.Request, time.Time) error
	now    func() time.Time
}

// AuthOptions is what auth blocks need beside themselves.
type AuthOptions struct {
	Client     *outbound.Client // that tokens are asked for with
	AllowPlain bool             // token_url may be http://
	Now        func() time.Time // nil: time.Now
}

// CompileAuth checks auth blocks.
func CompileAuth(blocks []Auth, opts AuthOptions) (Authenticator, hcl.Diagnostics) {
	a := Authenticator{now: opts.Now}
	if a.now == nil {
		a.now = time.Now
	}
	var diags hcl.Diagnostics
	seen := map[string]bool{}
	for _, b := range blocks {
		more := b.check()
		if !more.HasErrors() {
			more = append(a.add(b, opts), b.checkHeaders(seen)...)
		}
		diags = append(diags, more...)
	}
	return a, diags
}

// add compiles one block.
func (a *Authenticator) add(b Auth, opts AuthOptions) hcl.Diagnostics {
	var diags hcl.Diagnostics
	switch b.Kind {
	case "oauth2":
		a.tokens, diags = newTokens(b, opts.Client, opts.AllowPlain, a.now)
	case "hmac":
		a.sign, diags = compileSignature(b)
	default:
		name, value := b.header()
		if !usable(value) {
			return mistake(b.DefRange, "Invalid credential", "The credential has a line break, a control character or outer spaces, so it cannot stand in a header. Does its file end in an empty line?")
		}
		a.set = append(a.set, func(h http.Header) { h.Set(name, value.Reveal()) })
	}
	return diags
}

// usable tells whether a credential can stand in a header.
func usable(value backends.SecretString) bool {
	return httpguts.ValidHeaderFieldValue(value.Reveal()) && strings.TrimSpace(value.Reveal()) == value.Reveal()
}

// headers names the headers that the block writes.
func (b Auth) headers() []string {
	switch b.Kind {
	case "header":
		return []string{b.Name}
	case "hmac":
		if b.TimestampHeader != "" {
			return []string{b.Header, b.TimestampHeader}
		}
		return []string{b.Header}
	}
	return []string{"Authorization"}
}

func (b Auth) checkHeaders(seen map[string]bool) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, name := range b.headers() {
		name = http.CanonicalHeaderKey(name)
		switch {
		case seen[name]:
			diags = append(diags, mistake(b.DefRange, "Duplicate authentication", fmt.Sprintf("Another auth block sets the header %s already.", name))...)
		case !httpguts.ValidHeaderFieldName(name) || ownHeaders[name]:
			diags = append(diags, mistake(b.DefRange, "Invalid header", fmt.Sprintf("%q cannot be the header of a credential.", name))...)
		}
		seen[name] = true
	}
	return diags
}

// check tells which attributes the kind lacks and which it does not know.
func (b Auth) check() hcl.Diagnostics {
	kind, ok := authKinds[b.Kind]
	if !ok {
		kinds := slices.Sorted(maps.Keys(authKinds))
		return mistake(b.DefRange, "Unknown authentication", fmt.Sprintf("There is no auth %q.%s", b.Kind, suggest(b.Kind, kinds)))
	}
	given := b.given()
	var diags hcl.Diagnostics
	for _, name := range kind.needs {
		if !given[name] {
			diags = append(diags, mistake(b.DefRange, "Missing attribute", fmt.Sprintf("auth %q needs %s, not empty.", b.Kind, name))...)
		}
	}
	known := slices.Concat(kind.needs, kind.takes)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if given[name] && !slices.Contains(known, name) {
			diags = append(diags, mistake(b.DefRange, "Unsupported attribute", fmt.Sprintf("auth %q takes no %s, only %s.", b.Kind, name, strings.Join(known, ", ")))...)
		}
	}
	return diags
}

// given tells which attributes are set.
func (b Auth) given() map[string]bool {
	return map[string]bool{
		"token": b.Token != "", "username": b.Username != "", "password": b.Password != "",
		"name": b.Name != "", "value": b.Value != "",
		"token_url": b.TokenURL != "", "client_id": b.ClientID != "", "client_secret": b.ClientSecret != "",
		"client_auth": b.ClientAuth != "", "scopes": len(b.Scopes) > 0, "audience": b.Audience != "",
		"key": b.Key != "", "key_encoding": b.KeyEncoding != "", "algorithm": b.Algorithm != "",
		"sign": b.Sign != nil, "encoding": b.Encoding != "", "header": b.Header != "", "format": b.Format != nil,
		"timestamp_header": b.TimestampHeader != "", "timestamp_format": b.TimestampFormat != "",
	}
}

// header is of the kinds that write one fixed header.
func (b Auth) header() (string, backends.SecretString) {
	switch b.Kind {
	case "bearer":
		return "Authorization", "Bearer " + b.Token
	case "basic":
		pair := b.Username + ":" + b.Password.Reveal()
		return "Authorization", backends.SecretString("Basic " + base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	return http.CanonicalHeaderKey(b.Name), b.Value
}

// oneOf returns the choice of an attribute, the first where none is written.
func oneOf(b Auth, name, given string, choices ...string) (string, hcl.Diagnostics) {
	if given == "" {
		return choices[0], nil
	}
	if !slices.Contains(choices, given) {
		return choices[0], mistake(b.DefRange, "Invalid "+name, fmt.Sprintf("%s cannot be %q.%s", name, given, suggest(given, choices)))
	}
	return given, nil
}

// Send sends req with what proves who we are; errors and what the response tells then
// are as of outbound.Client.Do, and Sent is false if only a token was asked for in vain.
//
// A token that was used before may have ended since. Where req may be repeated, an
// answer of 401 to such a one has it sent once more with a fresh one; any other request
// takes a fresh one from the beginning, so that its 401 is meant.
func (a Authenticator) Send(client *outbound.Client, req *http.Request, repeatable bool) (outbound.Response, error) {
	resp, again, err := a.send(client, req, repeatable)
	if again && err == nil && resp.Status == http.StatusUnauthorized {
		resp, _, err = a.send(client, req, false)
	}
	return resp, err
}

// send tells besides whether the request went with a token that was used before.
func (a Authenticator) send(client *outbound.Client, template *http.Request, usedToo bool) (outbound.Response, bool, error) {
	req := template.Clone(template.Context())
	if template.GetBody != nil {
		req.Body, _ = template.GetBody()
	}
	for _, set := range a.set {
		set(req.Header)
	}
	used := false
	if a.tokens != nil {
		token, before, err := a.tokens.get(req.Context(), usedToo)
		if err != nil {
			return outbound.Response{}, false, err
		}
		used = before
		req.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	if a.sign != nil {
		if err := a.sign(req, a.now()); err != nil {
			return outbound.Response{}, false, err
		}
	}
	resp, err := client.Do(req)
	return resp, used, err
}

// LogIn asks for a token anew, where one is needed: for a check.
func (a Authenticator) LogIn(ctx context.Context) error {
	if a.tokens == nil {
		return nil
	}
	_, _, err := a.tokens.get(ctx, false)
	return err
}
