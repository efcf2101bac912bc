// Package authn finds out who is calling.
package authn

import (
	"net/netip"
	"time"
)

// Principal is who calls.
type Principal struct {
	ID       string // of the token or binding, public
	Name     string
	Tenant   string // empty: bound to none, sees all
	Policies []string
	// Lineage tells whose token it is: ids of tokens, joined by "/". What a token
	// makes is of the token's own lineage, but what one of the root policy makes, for
	// others, begins a branch of it.
	Lineage   string
	ExpiresAt time.Time  // zero: never
	Address   netip.Addr // where the call comes from
}
