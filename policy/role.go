package policy

import (
	"net/netip"
	"time"
)

// Role is what those who are bound to it may do, and where from. A tenant or an
// environment is a wall, not a grant: whatever its policies say, a role reaches
// nothing beyond it.
type Role struct {
	Name        string
	Tenant      string // empty: bound to none, sees all
	Environment string // empty: bound to none. Else nothing without exactly this environment is there for it
	Policies    []string
	Bindings    []Binding
	CIDRs       []netip.Prefix // empty: from anywhere
	Limit       Limit          // of each identity with the role; zero: the node's default

	// Of the tokens that are made for the role; zero: the defaults.
	TokenTTL    time.Duration // how long one lives unless it is renewed; 0: until it is idle
	TokenMaxTTL time.Duration // how long at most, renewed or not; 0: without end
	TokenIdle   time.Duration // how long it lives unused; 0: DefaultTokenIdle
	TokenUses   int           // how many requests it is good for; 0: any number
}

// EnvironmentLabel is the label of a secret that says which environment it is of.
const EnvironmentLabel = "environment"

// DefaultTokenIdle is how long an unused token lives.
const DefaultTokenIdle = 24 * time.Hour

// Limit is a rate of requests.
type Limit struct {
	RequestsPerMinute int // 0: none set
	Burst             int // how many at once; 0: as many as in ten seconds, and at least one
}

// Binding says who, of those that an auth method knows, has a role. All of what is
// set must hold; a Binding that sets nothing binds nobody.
type Binding struct {
	Method     string              // name of the auth block
	SPIFFEID   string              // mtls: exact, or ending in "/*"
	DNSName    string              // mtls: one of the certificate's names, exact, or "*.example.com" for one label
	CommonName string              // mtls: of the certificate's subject
	Subject    string              // jwt, oidc: the claim sub; mtls: the whole subject in the form of RFC 2253
	Claims     map[string][]string // jwt, oidc: claim → its value, or an element of it, is one of these
}
