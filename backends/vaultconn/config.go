// Package vaultconn logs in to Vault and keeps that login alive, for
// everything that talks to one.
package vaultconn

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/keybroker/keybroker/backends"
)

// Config says which Vault and as whom. It is decoded from the attributes of a
// block that needs a Vault; such a block's own Config takes it in by a field
//
//	Conn vaultconn.Config `hcl:",remain"`
//
// Nothing is ever taken from the VAULT_* variables of the environment, so that
// two Vaults in one process never mix.
type Config struct {
	Address        string `hcl:"address"`                                 // "https://vault.example.com:8200"
	Namespace      string `hcl:"namespace,optional"`                      // Vault Enterprise; "" is the root one
	CACertFile     string `hcl:"ca_cert_file,optional"`                   // PEM; default: the system's roots
	TLSServerName  string `hcl:"tls_server_name,optional"`                // default: the address's host
	ClientCertFile string `hcl:"client_cert_file,optional" file:"reread"` // PEM, read anew at each handshake
	ClientKeyFile  string `hcl:"client_key_file,optional" file:"reread"`  // likewise
	Auth           []Auth `hcl:"auth,block"`                              // exactly one
}

// Auth is one way to log in. What it takes out of a file is taken anew when the
// file changes.
type Auth struct {
	Method string `hcl:"method,label"`   // "token", "approle", "kubernetes" or "jwt"
	Mount  string `hcl:"mount,optional"` // all but token; default: the method's name

	Token     backends.SecretString `hcl:"token,optional"`                    // token, or:
	TokenFile string                `hcl:"token_file,optional" file:"reread"` // such as the sink of a Vault Agent

	RoleID       backends.SecretString `hcl:"role_id,optional"`                      // approle
	SecretID     backends.SecretString `hcl:"secret_id,optional"`                    // approle, or:
	SecretIDFile string                `hcl:"secret_id_file,optional" file:"reread"` //
	// The file holds a response-wrapping token with the secret id in it, which is
	// then held in memory: a restart needs a new file.
	SecretIDWrapped bool `hcl:"secret_id_wrapped,optional"`

	Role    string                `hcl:"role,optional"`                   // kubernetes, jwt
	JWT     backends.SecretString `hcl:"jwt,optional"`                    // jwt, or:
	JWTFile string                `hcl:"jwt_file,optional" file:"reread"` // kubernetes (default: the pod's own), jwt
}

const (
	methodToken      = "token"
	methodAppRole    = "approle"
	methodKubernetes = "kubernetes"
	methodJWT        = "jwt"
)

// podTokenFile is where Kubernetes puts a pod's service account token.
const podTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// takes names the attributes of each method.
var takes = map[string][]string{
	methodToken:      {"token", "token_file"},
	methodAppRole:    {"role_id", "secret_id", "secret_id_file", "secret_id_wrapped", "mount"},
	methodKubernetes: {"role", "jwt_file", "mount"},
	methodJWT:        {"role", "jwt", "jwt_file", "mount"},
}

// Validate reports every mistake in c, joined, each an ErrInvalid. It reads no
// file and asks no server.
func (c Config) Validate() error {
	var mistakes []error
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	c.validateAddress(wrong)
	if c.Namespace != "" && (!printable(c.Namespace) || strings.Contains(c.Namespace, " ")) {
		wrong("namespace %q is no path like team/subteam", c.Namespace)
	}
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		wrong("client_cert_file and client_key_file need each other")
	}
	if len(c.Auth) != 1 {
		wrong(`there must be exactly one auth block (%s), not %d`, methods(), len(c.Auth))
	}
	for _, a := range c.Auth {
		a.validate(wrong)
	}
	return errors.Join(mistakes...)
}

func (c Config) validateAddress(wrong func(format string, args ...any)) {
	u, err := url.Parse(c.Address)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		wrong("address must be a URL like https://vault.example.com:8200")
	case u.User != nil:
		wrong("address must not hold credentials: use an auth block")
	case u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		wrong("address must end after the host and port")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		wrong("address must begin with https:// off loopback: over plain HTTP the token and every secret would be seen on the way. Write https://%s", u.Host)
	}
}

func (a Auth) validate(wrong func(format string, args ...any)) {
	known, ok := takes[a.Method]
	if !ok {
		wrong("auth %q is no method: use one of %s", a.Method, methods())
		return
	}
	for _, name := range a.given() {
		if !slices.Contains(known, name) {
			wrong("auth %q takes no %s but only %s", a.Method, name, strings.Join(known, ", "))
		}
	}
	if a.Mount != "" && backends.ParseName(strings.TrimSuffix(a.Mount, "/")) != nil {
		wrong("auth %q: mount %q is no path like %s", a.Method, a.Mount, a.Method)
	}
	needs := func(missing bool, what string) {
		if missing {
			wrong("auth %q needs %s", a.Method, what)
		}
	}
	switch a.Method {
	case methodToken:
		needs((a.Token == "") == (a.TokenFile == ""), "either token = env(...) or token_file")
		needs(a.Token != "" && !printable(a.Token.Reveal()), "its token in one printable line")
	case methodAppRole:
		needs(!printable(a.RoleID.Reveal()), "role_id, in one printable line")
		needs((a.SecretID == "") == (a.SecretIDFile == ""), "either secret_id or secret_id_file")
		needs(a.SecretIDWrapped && a.SecretIDFile == "", "secret_id_file, since a wrapped secret id is good once")
	case methodKubernetes:
		needs(a.Role == "", "role")
	case methodJWT:
		needs(a.Role == "", "role")
		needs((a.JWT == "") == (a.JWTFile == ""), "either jwt = env(...) or jwt_file")
	}
}

// given names the attributes that are set.
func (a Auth) given() []string {
	var names []string
	for _, attribute := range []struct {
		name string
		set  bool
	}{
		{"mount", a.Mount != ""},
		{"token", a.Token != ""},
		{"token_file", a.TokenFile != ""},
		{"role_id", a.RoleID != ""},
		{"secret_id", a.SecretID != ""},
		{"secret_id_file", a.SecretIDFile != ""},
		{"secret_id_wrapped", a.SecretIDWrapped},
		{"role", a.Role != ""},
		{"jwt", a.JWT != ""},
		{"jwt_file", a.JWTFile != ""},
	} {
		if attribute.set {
			names = append(names, attribute.name)
		}
	}
	return names
}

func methods() string { return strings.Join(slices.Sorted(maps.Keys(takes)), ", ") }

// loopback tells whether only this machine is reached by host.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// printable tells whether text can stand in a header; a file that ends in a line
// break cannot.
func printable(text string) bool {
	return text != "" && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
