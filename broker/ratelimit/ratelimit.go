// Package ratelimit holds callers to a rate of requests.
//
// Every address, identity and tenant has a token bucket of its own, in memory: each
// node counts for itself. The buckets that were used last are kept, a bounded number
// of them; one that was forgotten is full again. So that nobody empties bucket after
// bucket until the first is forgotten, whoever has many addresses of IPv6 shares one
// bucket among all of them, too.
package ratelimit

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/policy"
)

// Class is a kind of requests, which has buckets of its own.
type Class int

// The classes.
const (
	Ordinary    Class = iota
	Containing        // turns something off that may be in wrong hands: nobody else's requests may stop it
	Checking          // asks whether a key works, as gateways do for each of their own requests
	Reporting         // carries events, from whoever says so: they prove it later
	Identifying       // asks what a text is: who guesses is to have few guesses
	Unlimited         // of what watches the node
)

// Defaults for where the configuration says nothing. They stop floods, not work.
var (
	DefaultAddress  = policy.Limit{RequestsPerMinute: 60_000}
	DefaultIdentity = policy.Limit{RequestsPerMinute: 60_000}
	DefaultTenant   = policy.Limit{RequestsPerMinute: 600_000}
)

// Containment is not configured, and neither are reports of leaks: a limit that was set
// for reads must not be what stops an emergency.
var (
	Containment       = policy.Limit{RequestsPerMinute: 600, Burst: 100}
	Reports           = policy.Limit{RequestsPerMinute: 600, Burst: 300} // of events, from one address
	TenantContainment = policy.Limit{RequestsPerMinute: 6_000, Burst: 1_000}
)

// Identification is not configured either: it is what a person asks, or a scanner that has
// found something.
var (
	Identification       = policy.Limit{RequestsPerMinute: 60, Burst: 20}
	TenantIdentification = policy.Limit{RequestsPerMinute: 600, Burst: 100}
)

// checksPerRequest is how many checks of keys an address has for each other request.
const checksPerRequest = 2

// NetworksPerSite is how many networks of IPv6 may send as much at a time as each may,
// of those that one site has.
const NetworksPerSite = 4

// remembered is how many buckets of a kind are kept, of some 200 bytes each.
const remembered = 1 << 16

// Rates are how much is allowed. Zero limits are the defaults. They are never changed
// once a Limiter has them.
type Rates struct {
	Address  policy.Limit
	Identity policy.Limit            // of those whose role has none
	Tenant   policy.Limit            // of those that are not in Tenants
	Tenants  map[string]policy.Limit // by name
}

// Quota is what is left of one bucket after a request was counted, or refused.
type Quota struct {
	Policy    string        // "address", "site", "identity" or "tenant"
	PerMinute int           // requests allowed in the long run
	Left      int           // requests that may come at once now
	Full      time.Duration // until the bucket is full, if nothing is taken from it
	Retry     time.Duration // until it may be tried again; 0: the request was not refused
}

// Refused tells whether the request goes beyond the quota.
func (q Quota) Refused() bool { return q.Retry > 0 }

// Limiter counts requests. It is safe for concurrent use.
type Limiter struct {
	now        func() time.Time
	rates      atomic.Pointer[Rates]
	addresses  *buckets
	sites      *buckets
	identities *buckets
	tenants    *buckets
}

// New makes a Limiter with the default rates.
func New(now func() time.Time) *Limiter {
	l := &Limiter{now: now, addresses: newBuckets(remembered), sites: newBuckets(remembered), identities: newBuckets(remembered), tenants: newBuckets(remembered)}
	l.SetRates(Rates{})
	return l
}

// SetRates replaces the rates. Whoever has another limit by that has as large a part of
// it left as of the one before.
func (l *Limiter) SetRates(r Rates) {
	r.Address = or(r.Address, DefaultAddress)
	r.Identity = or(r.Identity, DefaultIdentity)
	r.Tenant = or(r.Tenant, DefaultTenant)
	l.rates.Store(&r)
}

// or is limit, or where it sets no rate instead.
func or(limit, instead policy.Limit) policy.Limit {
	if limit.RequestsPerMinute <= 0 {
		return instead
	}
	return limit
}

// Address counts a request from an address, whoever it is of: of its Network and, for
// IPv6, of its Site. The last of the quotas is refused if any is: a request that is
// refused by one is not counted by the next.
func (l *Limiter) Address(c Class, from netip.Addr) []Quota {
	at, limit := l.now(), l.rates.Load().Address
	switch c {
	case Checking:
		limit = times(limit, checksPerRequest)
	case Containing:
		limit = Containment
	case Reporting:
		limit = Reports
	}
	all := []Quota{l.addresses.take(at, "address", c, Network(from).String(), limit)}
	if !from.Unmap().Is6() || all[0].Refused() {
		return all
	}
	return append(all, l.sites.take(at, "site", c, Site(from).String(), times(limit, NetworksPerSite)))
}

func times(l policy.Limit, n int) policy.Limit {
	return policy.Limit{RequestsPerMinute: l.RequestsPerMinute * n, Burst: l.Burst * n}
}

// Network is whose address it is: of IPv6 the network of 64 bits, since whoever has
// one address of it has them all.
func Network(a netip.Addr) netip.Addr { return network(a, 64) }

// Site is who may have many networks: of IPv6 48 bits, which is what one is given that
// asks for more than one (RFC 6177); of IPv4 the address itself.
func Site(a netip.Addr) netip.Addr { return network(a, 48) }

func network(a netip.Addr, bits int) netip.Addr {
	if a = a.Unmap(); !a.Is6() {
		return a
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return a // so few bits of an IPv6 address: cannot happen
	}
	return p.Addr()
}

// Caller counts a request of an identity, and of its tenant if it has one. Own is
// the limit that its role has; zero: none. The last of the quotas is refused if any
// is: a request that is refused by one is not counted by the next.
func (l *Limiter) Caller(c Class, identity, tenant string, own policy.Limit) []Quota {
	rates, at := l.rates.Load(), l.now()
	limit := or(own, rates.Identity)
	switch c {
	case Containing:
		limit = Containment
	case Identifying:
		limit = Identification
	}
	all := []Quota{l.identities.take(at, "identity", c, identity, limit)}
	if tenant == "" || all[0].Refused() {
		return all
	}
	limit = or(rates.Tenants[tenant], rates.Tenant)
	switch c {
	case Containing:
		limit = TenantContainment
	case Identifying:
		limit = TenantIdentification
	}
	return append(all, l.tenants.take(at, "tenant", c, tenant, limit))
}
