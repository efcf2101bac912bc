// Package authn finds out who is calling.
package authn

import "net/netip"

// Principal is who calls.
type Principal struct {
	ID       string // of the token or binding, public
	Name     string
	Tenant   string
	Policies []string
	Address  netip.Addr // where the call comes from
}
