package policy

import (
	"net/netip"
	"time"
)

// Identity is what templates in paths, such as "teams/{{identity.tenant}}/*", are
// filled in with. A path whose template has no value, or one with "/", "+", "*" or
// a brace in it, matches nothing; nor does one that is only so filled in below
// "sys/".
type Identity struct {
	Tenant      string // {{identity.tenant}}
	Role        string // {{identity.role}}
	Name        string // {{identity.name}}: of the token, or of who logged in
	Environment string // {{identity.environment}}: of the role
}

// Facts are what a rule's conditions are about. What is missing in them meets no
// condition.
type Facts struct {
	Environment string     // of the secret: its label "environment"
	Address     netip.Addr // of the caller
	At          time.Time
}

// Conditions say when a rule holds; all of what is set must. A list is set if it is
// not nil. They do not change
// which path decides: where the most specific path has only rules whose conditions
// are not met, nothing is granted, rather than what a wider path grants.
type Conditions struct {
	Environments []string
	CIDRs        []netip.Prefix
	// Time is when, by the clock on the wall in TimeZone: "Mon-Fri 08:00-18:00", several
	// joined by ","; without days, on every day; to the next day where it ends before it
	// begins; empty: always.
	Time     string
	TimeZone string // IANA name; empty: UTC
}
