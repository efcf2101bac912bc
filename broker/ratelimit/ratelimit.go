// Package ratelimit holds callers to a rate of requests.
//
// Every address, identity and tenant has a token bucket of its own, in memory: each
// node counts for itself. The buckets that were used last are kept, a bounded number
// of them; one that was forgotten is full again, as an unused one is by then anyway.
package ratelimit

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/keybroker/keybroker/policy"
)

// Class is a kind of requests, which has buckets of its own.
type Class int

// The classes.
const (
	Ordinary   Class = iota
	Containing       // turns something off that may be in wrong hands: nobody else's requests may stop it
	Checking         // asks whether a key works, as gateways do for each of their own requests
	Unlimited        // of what watches the node
)

// Defaults for where the configuration says nothing. They stop floods, not work.
var (
	DefaultAddress  = policy.Limit{RequestsPerMinute: 60_000}
	DefaultIdentity = policy.Limit{RequestsPerMinute: 60_000}
	DefaultTenant   = policy.Limit{RequestsPerMinute: 600_000}
)

// Containment is not configured: a limit that was set for reads must not be what
// stops an emergency.
var (
	Containment       = policy.Limit{RequestsPerMinute: 600, Burst: 100}
	TenantContainment = policy.Limit{RequestsPerMinute: 6_000, Burst: 1_000}
)

// checksPerRequest is how many checks of keys an address has for each other request.
const checksPerRequest = 2

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
	Policy    string        // "address", "identity" or "tenant"
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
	identities *buckets
	tenants    *buckets
}

// New makes a Limiter with the default rates.
func New(now func() time.Time) *Limiter {
	l := &Limiter{now: now, addresses: newBuckets(remembered), identities: newBuckets(remembered), tenants: newBuckets(remembered)}
	l.SetRates(Rates{})
	return l
}

// SetRates replaces the rates. Whoever has another limit by that begins with a full
// bucket; all others go on with theirs.
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

// Address counts a request from an address, or its Network, whoever it is of.
func (l *Limiter) Address(c Class, from netip.Addr) Quota {
	limit := l.rates.Load().Address
	if c == Checking {
		limit.RequestsPerMinute *= checksPerRequest
		limit.Burst *= checksPerRequest
	}
	return l.addresses.take(l.now(), "address", c, Network(from).String(), limit)
}

// Network is whose address it is: of IPv6 the network of 64 bits, since whoever has
// one address of it has them all.
func Network(a netip.Addr) netip.Addr {
	if a = a.Unmap(); !a.Is6() {
		return a
	}
	network, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a // a prefix of 64 bits of an IPv6 address: cannot happen
	}
	return network.Addr()
}

// Caller counts a request of an identity, and of its tenant if it has one. Own is
// the limit that its role has; zero: none. The last of the quotas is refused if any
// is: a request that is refused by one is not counted by the next.
func (l *Limiter) Caller(c Class, identity, tenant string, own policy.Limit) []Quota {
	rates, at := l.rates.Load(), l.now()
	limit := or(own, rates.Identity)
	if c == Containing {
		limit = Containment
	}
	all := []Quota{l.identities.take(at, "identity", c, identity, limit)}
	if tenant == "" || all[0].Refused() {
		return all
	}
	limit = or(rates.Tenants[tenant], rates.Tenant)
	if c == Containing {
		limit = TenantContainment
	}
	return append(all, l.tenants.take(at, "tenant", c, tenant, limit))
}

// buckets are those of one kind.
type buckets struct {
	mu  sync.Mutex // so that two requests do not make one bucket each
	lru *lru.Cache[bucket, *rate.Limiter]
}

// bucket is whose it is, and how large: what has another limit is another bucket.
type bucket struct {
	class Class
	name  string
	limit policy.Limit
}

func newBuckets(size int) *buckets {
	kept, err := lru.New[bucket, *rate.Limiter](size)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &buckets{lru: kept}
}

func (b *buckets) of(key bucket) *rate.Limiter {
	if found, ok := b.lru.Get(key); ok {
		return found
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if found, ok := b.lru.Get(key); ok {
		return found
	}
	made := rate.NewLimiter(perSecond(key.limit), burst(key.limit))
	b.lru.Add(key, made)
	return made
}

func (b *buckets) take(at time.Time, policyName string, c Class, name string, limit policy.Limit) Quota {
	k := b.of(bucket{c, name, limit})
	allowed := k.AllowN(at, 1)
	tokens := k.TokensAt(at)
	q := Quota{Policy: policyName, PerMinute: limit.RequestsPerMinute, Left: max(0, int(tokens)),
		Full: seconds((float64(burst(limit)) - tokens) / float64(perSecond(limit)))}
	if !allowed {
		q.Retry = max(time.Millisecond, seconds((1-tokens)/float64(perSecond(limit))))
	}
	return q
}

func perSecond(l policy.Limit) rate.Limit { return rate.Limit(float64(l.RequestsPerMinute) / 60) }

// burst is how many requests may come at once; see policy.Limit.
func burst(l policy.Limit) int {
	if l.Burst > 0 {
		return l.Burst
	}
	return max(1, l.RequestsPerMinute/6)
}

func seconds(s float64) time.Duration {
	return time.Duration(math.Ceil(s * float64(time.Second)))
}
