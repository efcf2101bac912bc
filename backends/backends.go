// Package backends is the vocabulary of stored secrets: names, values that
// redact themselves, the classes of error, the contract of a vault driver and
// the Mount that callers use.
package backends

import (
	"fmt"
	"regexp"
	"strings"
)

// DefaultTenant owns what names no tenant.
const DefaultTenant = "default"

// Ref names a secret of one tenant.
type Ref struct {
	Tenant string // never empty; DefaultTenant where the operator named none
	Name   string // as ParseName accepts it, e.g. "payments/stripe"
}

// String returns the name, prefixed by its tenant unless that is the default
// one: "payments/stripe" or "acme:payments/stripe".
func (r Ref) String() string {
	if r.Tenant == "" || r.Tenant == DefaultTenant {
		return r.Name
	}
	return r.Tenant + ":" + r.Name
}

var tenant = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// ParseTenant checks a tenant's name: letters, digits and _ . -, at most 64 of
// them. ErrInvalid says so.
func ParseTenant(name string) error {
	if !tenant.MatchString(name) {
		return fmt.Errorf("%w: a tenant's name is made of letters, digits and _ . - and has at most 64 of them", ErrInvalid)
	}
	return nil
}

// VersionID is what a vault calls one stored version: a number as text in
// Vault's KV v2 and in local, a UUID in AWS Secrets Manager. Empty means "none"
// where a version is expected and "the current one" where one is read.
type VersionID string

const maxNameLength = 255

var segment = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@=-]*$`)

// ParseName checks a secret's name: segments of letters, digits and _ . @ = -
// separated by single slashes, at most 255 bytes, not below "sys/", which is
// where everything that is no secret lives.
func ParseName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: the name is empty", ErrInvalid)
	case len(name) > maxNameLength:
		return fmt.Errorf("%w: the name has %d bytes, the limit is %d", ErrInvalid, len(name), maxNameLength)
	case name == "sys" || strings.HasPrefix(name, "sys/"):
		return fmt.Errorf("%w: names below sys/ are reserved", ErrInvalid)
	}
	for _, s := range strings.Split(name, "/") {
		if !segment.MatchString(s) {
			return fmt.Errorf("%w: in the name %q the segment %q is not made of letters, digits and _ . @ = -, beginning with a letter, a digit or _", ErrInvalid, name, s)
		}
	}
	return nil
}
