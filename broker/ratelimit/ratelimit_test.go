package ratelimit_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/ratelimit"
	"github.com/keybroker/keybroker/policy"
)

// clock is a time that stands still unless it is moved.
type clock struct{ at time.Time }

func newClock() *clock                    { return &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }
func (c *clock) now() time.Time           { return c.at }
func (c *clock) advance(by time.Duration) { c.at = c.at.Add(by) }

var here, there = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")

// allowed counts how many of n requests go through.
func allowed(n int, take func() ratelimit.Quota) int {
	count := 0
	for range n {
		if !take().Refused() {
			count++
		}
	}
	return count
}

func TestAddressesAreCountedOneByOne(t *testing.T) {
	c := newClock()
	l := ratelimit.New(c.now)
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 60, Burst: 5}})
	from := func(a netip.Addr) func() ratelimit.Quota {
		return func() ratelimit.Quota { return last(l.Address(ratelimit.Ordinary, a)) }
	}
	if got := allowed(9, from(here)); got != 5 {
		t.Errorf("%d at once, want 5", got)
	}
	if q := from(here)(); q.Retry != time.Second || q.Left != 0 || q.Full != 5*time.Second || q.PerMinute != 60 || q.Policy != "address" {
		t.Errorf("%+v", q)
	}
	if got := allowed(9, from(there)); got != 5 {
		t.Errorf("%d from another address, want 5", got)
	}
	c.advance(3 * time.Second)
	if got := allowed(9, from(here)); got != 3 {
		t.Errorf("%d after 3 s, want 3", got)
	}
	c.advance(time.Hour)
	if got := allowed(9, from(here)); got != 5 {
		t.Errorf("%d after an hour, want 5", got)
	}
}

func TestOneNetworkOfIPv6IsOne(t *testing.T) {
	l := ratelimit.New(newClock().now)
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 60, Burst: 3}})
	n := 0
	got := allowed(9, func() ratelimit.Quota {
		n++
		return last(l.Address(ratelimit.Ordinary, netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n))))
	})
	if got != 3 {
		t.Errorf("%d from one /64, want 3", got)
	}
	if last(l.Address(ratelimit.Ordinary, netip.MustParseAddr("2001:db8:0:1::1"))).Refused() {
		t.Error("another /64 pays for the first")
	}
	if last(l.Address(ratelimit.Ordinary, here)).Left != last(l.Address(ratelimit.Ordinary, netip.MustParseAddr("::ffff:192.0.2.1"))).Left+1 {
		t.Error("an IPv4 address in IPv6 form is another one")
	}
}

func TestContainmentHasBucketsOfItsOwn(t *testing.T) {
	l := ratelimit.New(newClock().now)
	one := policy.Limit{RequestsPerMinute: 1, Burst: 1}
	l.SetRates(ratelimit.Rates{Address: one, Identity: one, Tenant: one})
	allowed(5, func() ratelimit.Quota { return last(l.Address(ratelimit.Ordinary, here)) })
	allowed(5, func() ratelimit.Quota { return last(l.Caller(ratelimit.Ordinary, "alice", "acme", one)) })
	if got := allowed(500, func() ratelimit.Quota { return last(l.Caller(ratelimit.Containing, "alice", "acme", one)) }); got != ratelimit.Containment.Burst {
		t.Errorf("%d containments of the identity, want %d", got, ratelimit.Containment.Burst)
	}
	for _, of := range []struct {
		who, tenant string
		want        int
	}{{"bob", "", ratelimit.Identification.Burst}, {"alice", "acme", ratelimit.Identification.Burst}} {
		if got := allowed(500, func() ratelimit.Quota {
			return last(l.Caller(ratelimit.Identifying, of.who, of.tenant, policy.Limit{RequestsPerMinute: 1e6}))
		}); got != of.want {
			t.Errorf("%d questions of %s what a text is, want %d", got, of.who, of.want)
		}
	}
	if last(l.Address(ratelimit.Checking, here)).Refused() {
		t.Error("checks of keys share the bucket of other requests")
	}
}

// Who has many networks of IPv6 has one bucket for all of them, too, and emptying one
// after the other does not have the first forgotten.
func TestOneSiteOfIPv6IsOne(t *testing.T) {
	l := ratelimit.New(newClock().now)
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 60, Burst: 3}})
	n := 0
	got := allowed(100_000, func() ratelimit.Quota {
		n++
		return last(l.Address(ratelimit.Ordinary, netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::1", n%(1<<16)))))
	})
	if want := 3 * ratelimit.NetworksPerSite; got != want {
		t.Errorf("%d from one /48, want %d", got, want)
	}
	q := last(l.Address(ratelimit.Ordinary, netip.MustParseAddr("2001:db8:0:ffff::1")))
	if q.Policy != "site" || !q.Refused() || q.PerMinute != 60*ratelimit.NetworksPerSite {
		t.Errorf("refused by %+v", q)
	}
	if last(l.Address(ratelimit.Ordinary, netip.MustParseAddr("2001:db8:1::1"))).Refused() {
		t.Error("another /48 pays for the first")
	}
}

// What one network sends beyond its own limit is not taken from its neighbours.
func TestOneNetworkDoesNotUseUpItsSite(t *testing.T) {
	l := ratelimit.New(newClock().now)
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 60, Burst: 3}})
	from := func(a string) func() ratelimit.Quota {
		return func() ratelimit.Quota { return last(l.Address(ratelimit.Ordinary, netip.MustParseAddr(a))) }
	}
	allowed(100, from("2001:db8:0:1::1"))
	if got := allowed(9, from("2001:db8:0:2::1")); got != 3 {
		t.Errorf("%d of the neighbour, want 3", got)
	}
}

// TestTwoLimitsDoNotAddUp: who has two roles has one allowance, whichever they use.
func TestTwoLimitsDoNotAddUp(t *testing.T) {
	c := newClock()
	l := ratelimit.New(c.now)
	large, small := policy.Limit{RequestsPerMinute: 600, Burst: 100}, policy.Limit{RequestsPerMinute: 600, Burst: 10}
	as := func(limit policy.Limit) func() ratelimit.Quota {
		return func() ratelimit.Quota { return last(l.Caller(ratelimit.Ordinary, "alice", "", limit)) }
	}
	if got := allowed(50, as(large)); got != 50 {
		t.Errorf("%d in the large role, want 50", got)
	}
	if got := allowed(50, as(small)); got != 5 {
		t.Errorf("%d in the small one after half of the large, want half of it", got)
	}
	if got := allowed(500, as(large)); got != 0 {
		t.Errorf("%d more in the large one", got)
	}
	c.advance(500 * time.Millisecond) // half of what the small one has at once, a twentieth of the large one
	as(small)()
	if got := allowed(500, as(large)); got > 5 {
		t.Errorf("%d in the large role: the small one has filled it", got)
	}
	c.advance(10 * time.Second)
	if got := allowed(500, as(large)); got != 100 {
		t.Errorf("%d after ten seconds, want all 100", got)
	}
}

func last(all []ratelimit.Quota) ratelimit.Quota { return all[len(all)-1] }

func TestCallers(t *testing.T) {
	c := newClock()
	l := ratelimit.New(c.now)
	l.SetRates(ratelimit.Rates{
		Identity: policy.Limit{RequestsPerMinute: 60, Burst: 4},
		Tenant:   policy.Limit{RequestsPerMinute: 60, Burst: 6},
		Tenants:  map[string]policy.Limit{"large": {RequestsPerMinute: 600, Burst: 100}},
	})
	call := func(identity, tenant string, own policy.Limit) func() ratelimit.Quota {
		return func() ratelimit.Quota { return last(l.Caller(ratelimit.Ordinary, identity, tenant, own)) }
	}
	if got := allowed(9, call("alice", "small", policy.Limit{})); got != 4 {
		t.Errorf("%d of alice, want 4", got)
	}
	if got := allowed(9, call("bob", "small", policy.Limit{})); got != 2 {
		t.Errorf("%d of bob after alice's, want the tenant's last 2", got)
	}
	if q := call("dave", "small", policy.Limit{})(); q.Policy != "tenant" || !q.Refused() {
		t.Errorf("refused by %+v", q)
	}
	if got := allowed(30, call("carol", "large", policy.Limit{RequestsPerMinute: 600, Burst: 20})); got != 20 {
		t.Errorf("%d of carol, whose role has 20", got)
	}
	if got := allowed(9, call("operator", "", policy.Limit{})); got != 4 {
		t.Errorf("%d of who has no tenant, want 4", got)
	}
}

func TestBurstOfTenSeconds(t *testing.T) {
	l := ratelimit.New(newClock().now)
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 60}})
	if got := allowed(99, func() ratelimit.Quota { return last(l.Address(ratelimit.Ordinary, here)) }); got != 10 {
		t.Errorf("%d at once of 60 a minute, want those of ten seconds", got)
	}
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 1}})
	if got := allowed(99, func() ratelimit.Quota { return last(l.Address(ratelimit.Ordinary, there)) }); got != 1 {
		t.Errorf("%d at once of 1 a minute, want 1", got)
	}
}

// A reload gives nobody more than the new limit, and nothing to whom it does not change.
func TestNewRates(t *testing.T) {
	l := ratelimit.New(newClock().now)
	take := func() ratelimit.Quota { return last(l.Address(ratelimit.Ordinary, here)) }
	own := policy.Limit{RequestsPerMinute: 60, Burst: 2}
	call := func() ratelimit.Quota { return last(l.Caller(ratelimit.Ordinary, "alice", "", own)) }
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 60, Burst: 100}})
	allowed(10, take)
	allowed(2, call)
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 60, Burst: 3}})
	if got := allowed(10, take); got != 2 {
		t.Errorf("%d of 3 after 10 of 100 were used", got)
	}
	if !call().Refused() {
		t.Error("a reload has filled a bucket that it does not change")
	}
}

// However many addresses there are, memory stays bounded, and whoever is at work
// is not forgotten.
func TestManyAddresses(t *testing.T) {
	l := ratelimit.New(newClock().now)
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 1, Burst: 2}})
	take := func() ratelimit.Quota { return last(l.Address(ratelimit.Ordinary, here)) }
	allowed(2, take)
	a := netip.MustParseAddr("10.0.0.0")
	for i := range 200_000 {
		a = a.Next()
		l.Address(ratelimit.Ordinary, a)
		if i%10_000 == 0 && !take().Refused() {
			t.Fatal("an address that kept calling got a new bucket")
		}
	}
}

func TestConcurrentRequestsShareOneBucket(t *testing.T) {
	l := ratelimit.New(newClock().now)
	l.SetRates(ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 60, Burst: 50}})
	var through atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			through.Add(int64(allowed(100, func() ratelimit.Quota { return last(l.Address(ratelimit.Ordinary, here)) })))
		})
	}
	all.Wait()
	if through.Load() != 50 {
		t.Errorf("%d of 50 went through", through.Load())
	}
}

func TestHeaders(t *testing.T) {
	h := http.Header{}
	ratelimit.Headers(h,
		ratelimit.Quota{Policy: "address", PerMinute: 100, Left: 50, Full: 30 * time.Second},
		ratelimit.Quota{Policy: "tenant", PerMinute: 60, Left: 0, Full: 1500 * time.Millisecond})
	if got, want := h.Get("RateLimit-Policy"), `"address";q=100;w=60, "tenant";q=60;w=60`; got != want {
		t.Errorf("RateLimit-Policy: %s, want %s", got, want)
	}
	if got, want := h.Get("RateLimit"), `"address";r=50;t=30, "tenant";r=0;t=2`; got != want {
		t.Errorf("RateLimit: %s, want %s", got, want)
	}
	if ratelimit.Headers(h); h.Get("RateLimit") == "" {
		t.Error("no quotas took away what was told before")
	}
}
