// Package vaultconn logs in to Vault and keeps that login alive, for
// everything that talks to one.
package vaultconn

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
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
	Address       string `hcl:"address"`                  // "https://vault.example.com:8200"
	Namespace     string `hcl:"namespace,optional"`       // Vault Enterprise; "" is the root one
	CACertFile    string `hcl:"ca_cert_file,optional"`    // PEM; default: the system's roots
	TLSServerName string `hcl:"tls_server_name,optional"` // default: the address's host
	Auth          []Auth `hcl:"auth,block"`               // exactly one
}

// Auth is one way to log in.
type Auth struct {
	Method string `hcl:"method,label"` // "token" or "approle"

	Token backends.SecretString `hcl:"token,optional"` // token

	RoleID       backends.SecretString `hcl:"role_id,optional"`        // approle
	SecretID     backends.SecretString `hcl:"secret_id,optional"`      // approle, or:
	SecretIDFile string                `hcl:"secret_id_file,optional"` // approle; read anew at each login
	Mount        string                `hcl:"mount,optional"`          // approle; default "approle"
}

const (
	methodToken   = "token"
	methodAppRole = "approle"
)

// Validate reports every mistake in c, joined, each an ErrInvalid. It reads no
// file and asks no server.
func (c Config) Validate() error {
	var mistakes []error
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
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
	if len(c.Auth) != 1 {
		wrong(`there must be exactly one auth block ("token" or "approle"), not %d`, len(c.Auth))
	}
	for _, a := range c.Auth {
		a.validate(wrong)
	}
	return errors.Join(mistakes...)
}

func (a Auth) validate(wrong func(format string, args ...any)) {
	switch a.Method {
	case methodToken:
		if !printable(a.Token) {
			wrong("auth %q needs token = env(...) or file(...), in one printable line", a.Method)
		}
		if a.RoleID != "" || a.SecretID != "" || a.SecretIDFile != "" || a.Mount != "" {
			wrong("auth %q takes nothing but token", a.Method)
		}
	case methodAppRole:
		if !printable(a.RoleID) {
			wrong("auth %q needs role_id, in one printable line", a.Method)
		}
		if (a.SecretID == "") == (a.SecretIDFile == "") {
			wrong("auth %q needs either secret_id or secret_id_file", a.Method)
		}
		if a.Token != "" {
			wrong("auth %q takes no token", a.Method)
		}
	default:
		wrong("there is no auth method %q: use token or approle", a.Method)
	}
}

// loopback tells whether only this machine is reached by host.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// printable tells whether s can stand in a header; a file that ends in a line
// break cannot.
func printable(s backends.SecretString) bool {
	text := s.Reveal()
	return text != "" && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
