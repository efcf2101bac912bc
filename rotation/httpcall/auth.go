package httpcall

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/keybroker/keybroker/backends"
)

// Auth is a block that says how the broker proves to an API who it is:
//
//	auth "bearer" { token = file("…") }
//	auth "basic"  { username = "…", password = file("…") }
//	auth "header" { name = "X-Api-Key", value = file("…") }
//
// Several blocks, for APIs that want several headers, add up.
type Auth struct {
	Kind     string                `hcl:"kind,label"`
	Token    backends.SecretString `hcl:"token,optional"`
	Username string                `hcl:"username,optional"`
	Password backends.SecretString `hcl:"password,optional"`
	Name     string                `hcl:"name,optional"`
	Value    backends.SecretString `hcl:"value,optional"`
	DefRange hcl.Range             `hcl:",def_range"`
}

var authAttrs = map[string][]string{
	"bearer": {"token"},
	"basic":  {"username", "password"},
	"header": {"name", "value"},
}

// Authenticator sets the headers of auth blocks. The zero value sets none. It
// holds the credentials in closures: package fmt prints unexported fields past
// the methods by which a SecretString redacts itself.
type Authenticator struct {
	set []func(http.Header)
}

// CompileAuth checks auth blocks.
func CompileAuth(blocks []Auth) (Authenticator, hcl.Diagnostics) {
	var a Authenticator
	var diags hcl.Diagnostics
	seen := map[string]bool{}
	for _, b := range blocks {
		if more := b.check(); more.HasErrors() {
			diags = append(diags, more...)
			continue
		}
		name, value := b.header()
		switch {
		case seen[name]:
			diags = append(diags, mistake(b.DefRange, "Duplicate authentication", fmt.Sprintf("Another auth block sets the header %s already.", name))...)
		case !httpguts.ValidHeaderFieldName(name) || ownHeaders[name]:
			diags = append(diags, mistake(b.DefRange, "Invalid header", fmt.Sprintf("%q cannot be the header of a credential.", name))...)
		case !httpguts.ValidHeaderFieldValue(value.Reveal()) || strings.TrimSpace(value.Reveal()) != value.Reveal():
			diags = append(diags, mistake(b.DefRange, "Invalid credential", "The credential has a line break, a control character or outer spaces, so it cannot stand in a header. Does its file end in an empty line?")...)
		}
		seen[name] = true
		a.set = append(a.set, func(h http.Header) { h.Set(name, value.Reveal()) })
	}
	return a, diags
}

// check tells which attributes the kind lacks and which it does not know.
func (b Auth) check() hcl.Diagnostics {
	wanted, ok := authAttrs[b.Kind]
	if !ok {
		kinds := []string{"basic", "bearer", "header"}
		return mistake(b.DefRange, "Unknown authentication", fmt.Sprintf("There is no auth %q.%s", b.Kind, suggest(b.Kind, kinds)))
	}
	given := map[string]bool{
		"token": b.Token != "", "username": b.Username != "", "password": b.Password != "",
		"name": b.Name != "", "value": b.Value != "",
	}
	var diags hcl.Diagnostics
	for _, name := range wanted {
		if !given[name] {
			diags = append(diags, mistake(b.DefRange, "Missing attribute", fmt.Sprintf("auth %q needs %s, not empty.", b.Kind, name))...)
		}
		delete(given, name)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if given[name] {
			diags = append(diags, mistake(b.DefRange, "Unsupported attribute", fmt.Sprintf("auth %q takes no %s, only %s.", b.Kind, name, strings.Join(wanted, " and ")))...)
		}
	}
	return diags
}

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

// Apply sets the headers.
func (a Authenticator) Apply(req *http.Request) {
	for _, set := range a.set {
		set(req.Header)
	}
}
