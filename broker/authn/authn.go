// Package authn finds out who is calling: by a token, or by the certificate of the
// connection. What an identity provider says of somebody is exchanged for a token.
package authn

import (
	"context"
	"crypto/x509"
	"net/netip"
	"time"

	"github.com/keybroker/keybroker/policy"
)

// Principal is who calls.
type Principal struct {
	ID          string // public, and shown in logs: of the token, or what a certificate says, such as "mesh/spiffe://example.com/app"
	Name        string // for people
	Identity    string // who logged in, METHOD/SUBJECT, also where a token of theirs was made since; empty: nobody did
	Method      string // MethodToken, or the name of the auth block that the identity is of
	Role        string // empty: none, the policies are the token's own
	Tenant      string // empty: bound to none, sees all
	Environment string // empty: bound to none
	Policies    []string
	// Lineage tells whose hand it is, for what takes two: ids joined by "/". What a
	// token makes is of the token's own lineage, but what one of the root policy makes,
	// for others, begins a branch of it. Whoever an identity provider or a CA knows has
	// one lineage, whatever token they hold.
	Lineage   string
	ExpiresAt time.Time    // zero: never
	Address   netip.Addr   // where the call comes from
	Request   string       // id of the call, which the answer and the audit log have
	Limit     policy.Limit // of the role; zero: the node's default
	// Within are those whose tokens the caller's descends from, its maker first: nothing
	// is allowed that is not allowed to each of them, too.
	Within []Principal

	networks [][]netip.Prefix    // in one of each of which the address has to be
	held     *held               // nil: no token
	chain    []*x509.Certificate // that proved it; nil: a token did
	rules    *Rules              // by which it was found out; nil: by none
}

// HasToken tells whether a token proves who calls, whose id the Principal's is, and
// not a certificate.
func (p Principal) HasToken() bool { return p.chain == nil }

// The methods of who shows a token that was made by hand.
const (
	MethodToken      = "token"
	MethodBreakGlass = "break_glass"
)

// Identity is who or what calls, before it has a role.
type Identity struct {
	Method     string // name of the auth block
	Authority  string // whose word it is, whichever block it is taken by: the issuer of a JWT, or AuthorityX509
	Subject    string // never changes and is nobody else's of the authority; shown in logs
	Name       string // for people
	SPIFFEID   string
	DNSNames   []string
	CommonName string
	// DistinguishedName is the whole subject of a certificate in the form of RFC 2253;
	// Subject is that only where the certificate has no SPIFFE id. Empty for a JWT.
	DistinguishedName string
	Claims            map[string]any // of a JWT
	ExpiresAt         time.Time      // of a certificate. A JWT lives for minutes, which says nothing of a login by it
	RecheckAt         time.Time      // of a certificate: when it has to be looked at again; zero: at no certain time
}

// AuthorityX509 is the Authority of whoever shows a certificate: those of one subject
// count as one hand, whichever CA or intermediate has signed it.
const AuthorityX509 = "x509"

// Known is the identity as the bindings of roles see it: the subject of a certificate is
// its distinguished name, and nothing else that it is called by.
func (id Identity) Known() policy.Known {
	k := policy.Known{Method: id.Method, Subject: id.Subject, SPIFFEID: id.SPIFFEID, DNSNames: id.DNSNames, CommonName: id.CommonName, Claims: id.Claims}
	if id.Authority == AuthorityX509 {
		k.Subject = id.DistinguishedName
	}
	return k
}

// Credentials are what a request shows of its caller.
type Credentials struct {
	Token        string              // empty: none
	Certificates []*x509.Certificate // of the connection, the caller's first, as they were sent: nobody has verified them
	Role         string              // which role is meant, where several are bound to the identity; empty: the only one
	Address      netip.Addr          // where the call comes from
	Request      string              // id of the call
}

// Rules are what one configuration says of callers. They are never changed once
// Callers has them.
type Rules struct {
	Roles        map[string]*policy.Role
	Certificates map[string]CertificateMethod // by the name of the auth block
	Logins       map[string]LoginMethod       // by the name of the auth block
	Readers      map[string]string            // by the name of a consumer: the role that it reads as
	// Access is what the same configuration says of what callers may do, for whoever
	// decides that. It goes with a Principal: see Callers.RulesOf.
	Access any
}

// CertificateMethod tells who shows a certificate. It is safe for concurrent use.
type CertificateMethod interface {
	// Identify verifies a chain as it was sent, the caller's certificate first.
	// ErrDenied if it is none of this method's; ErrUnavailable if that cannot be told.
	Identify(chain []*x509.Certificate, at time.Time) (Identity, error)
}

// Revised is a CertificateMethod that may come to another answer about the same
// certificate, as when it has read another CRL: its revision is another then.
type Revised interface {
	Revision() uint64
}

// LoginMethod tells whom a token of an identity provider is about. It is safe for
// concurrent use.
type LoginMethod interface {
	// Verify checks a JWT. ErrDenied, which says why, if it is not accepted;
	// ErrUnavailable if that cannot be told, as while the provider is down.
	Verify(ctx context.Context, jwt string) (Identity, error)
	// Describe tells what a client needs to let a person log in.
	Describe() LoginDescription
}

// Issued is a LoginMethod that takes the word of one issuer: see Identity.Authority.
type Issued interface {
	Issuer() string
}

// LoginDescription is public: it is told to who is nobody yet.
type LoginDescription struct {
	Issuer   string // discovery URL; empty: people cannot log in by it
	ClientID string
	Scopes   []string
}
