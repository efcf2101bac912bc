package authn

import (
	"context"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// How failed authentication is slowed down, for each address: the first failures
// are answered at once, each further one later, and from a number on it is not
// waited any more but refused with how long to stay away. One failure is forgiven
// at a time. Whoever has the right credentials is not slowed down by others behind
// the same address, as it is not known before whose they are.
const (
	freeFailures     = 5
	waitedFailures   = 15 // from there on they are refused
	mostFailures     = 30 // that are counted
	forgiveEvery     = 10 * time.Second
	firstWait        = 100 * time.Millisecond // doubled with each failure
	longestWait      = 5 * time.Second
	waitingAtOnce    = 4 // of one address
	allWaitingAtOnce = 1000
	knownAddresses   = 10_000
	networksPerSite  = 4 // that may fail as often as each may, of those that somebody has with IPv6
)

// throttle counts failures in memory. It is safe for concurrent use.
type throttle struct {
	now func() time.Time

	mu        sync.Mutex
	addresses *simplelru.LRU[netip.Prefix, *failures]
	sites     *simplelru.LRU[netip.Prefix, *failures] // so that going through all addresses has none forgotten
	waiting   int
}

// failures are those of one address, or of one site.
type failures struct {
	level   float64 // falls by one each forgiveEvery
	at      time.Time
	waiting int
}

func newThrottle(now func() time.Time) *throttle {
	addresses, _ := simplelru.NewLRU[netip.Prefix, *failures](knownAddresses, nil) // fails for sizes below one
	sites, _ := simplelru.NewLRU[netip.Prefix, *failures](knownAddresses, nil)
	return &throttle{now: now, addresses: addresses, sites: sites}
}

// site is whose an IPv6 network is, who may have 65,536 of them.
func site(a netip.Addr) (p netip.Prefix, ok bool) {
	a = a.Unmap().WithZone("")
	p, _ = a.Prefix(48)
	return p, a.Is6()
}

// network is what counts as one address: an IPv6 host has a network of its own.
func network(a netip.Addr) netip.Prefix {
	bits := 64
	if a = a.Unmap().WithZone(""); a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // the zero address has the zero prefix
	return p
}

// failed is called for each failure, and returns when it may be answered: with how
// long the address is to stay away, or 0.
func (t *throttle) failed(ctx context.Context, from netip.Addr) (stayAway time.Duration) {
	f, wait, stayAway := t.count(from)
	if wait == 0 {
		return stayAway
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting--
	f.waiting--
	return 0
}

// count counts one failure; whoever has to wait is counted as waiting.
func (t *throttle) count(from netip.Addr) (f *failures, wait, stayAway time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	f = raise(t.addresses, network(from), 1, now)
	level := f.level
	if s, ok := site(from); ok {
		level = max(level, raise(t.sites, s, 1./networksPerSite, now).level)
	}
	switch over := math.Ceil(level) - freeFailures; {
	case over <= 0:
		return f, 0, 0
	case level <= waitedFailures && f.waiting < waitingAtOnce && t.waiting < allWaitingAtOnce:
		f.waiting++
		t.waiting++
		return f, min(time.Duration(float64(firstWait)*math.Exp2(over-1)), longestWait), 0
	}
	left := math.Max(1, level+1-waitedFailures) // so that the next one is not refused
	return f, 0, time.Duration(math.Ceil(left*forgiveEvery.Seconds())) * time.Second
}

// raise raises a level, which has fallen since it was raised last.
func raise(of *simplelru.LRU[netip.Prefix, *failures], from netip.Prefix, by float64, now time.Time) *failures {
	f, ok := of.Get(from)
	if !ok {
		f = &failures{at: now}
		of.Add(from, f)
	}
	f.level = math.Max(0, f.level-float64(now.Sub(f.at))/float64(forgiveEvery))
	f.level, f.at = math.Min(f.level+by, mostFailures), now
	return f
}
