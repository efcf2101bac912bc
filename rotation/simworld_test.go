package rotation_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// Public measurements of revocations: from seconds to 23 minutes, during which
// some servers reject while others accept, and the same one now this, now that.
const slowestRevocation = 23 * time.Minute

// span is a stretch of virtual time, [from, to), since the run began.
type span struct{ from, to time.Duration }

func (s span) has(at time.Duration) bool { return s.from <= at && at < s.to }

// server is one of those that a load balancer chooses from.
type server struct {
	// turns are the times at which it changes its mind, ascending: at the first it
	// learns of the revocation, at the second a cache comes back, … With an odd
	// number it rejects in the end, with none it has never heard of any revocation.
	turns   [7]time.Duration
	n       int
	refuses span // every credential, whichever it is
}

func (s *server) accepts(at time.Duration) bool {
	accepts := true
	for _, turn := range s.turns[:s.n] {
		if at < turn {
			break
		}
		accepts = !accepts
	}
	return accepts
}

// acceptsLater tells whether it accepts at some time from at on.
func (s *server) acceptsLater(at time.Duration) bool {
	return s.n%2 == 0 || at < s.turns[s.n-1]
}

// address is one address of the endpoint: a load balancer before some servers.
type address struct {
	servers [5]server
	n       int
	outage  span // no connection can be made
}

// world is an issuer and the endpoint at which its credentials are tried.
type world struct {
	source    *rand.PCG
	rnd       *rand.Rand // by source
	addresses [4]address
	n         int
	noise     uint64 // of 4096 tries end in a timeout, a 429 or a 503

	lost     bool          // the issuer acknowledges the first revocation and forgets it
	takes    time.Duration // from a revocation until the last server has learnt it for good
	revoked  bool          // a revocation is on its way or has arrived
	restored time.Duration // when the issuer brings a dead credential back from a backup, once
	revived  bool
}

// between returns a time in [from, to], by its logarithm, so that seconds are as
// frequent as minutes.
func between(rnd *rand.Rand, from, to time.Duration) time.Duration {
	return time.Duration(float64(from) * math.Pow(float64(to)/float64(from), rnd.Float64()))
}

// uniform returns a time in [0, limit).
func uniform(rnd *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(rnd.Float64() * float64(limit))
}

// build fills w with addresses, servers, and what is broken there and when; busy
// is how long the interesting part of the run lasts.
func (w *world) build(p population, busy time.Duration) {
	trouble := func() span {
		from := uniform(w.rnd, busy)
		return span{from, from + between(w.rnd, time.Second, 2*busy)}
	}
	w.n = 1 + w.rnd.IntN(3)
	for i := range w.addresses[:w.n] {
		a := &w.addresses[i]
		*a = address{n: 1 + w.rnd.IntN(len(a.servers))}
		if w.rnd.IntN(8) == 0 {
			a.outage = trouble()
		}
		broken := w.rnd.IntN(8) == 0
		refuses := trouble()
		for k := range a.servers[:a.n] {
			switch {
			case p.partly && w.rnd.IntN(8) == 0:
				a.servers[k].refuses = trouble()
			case broken:
				a.servers[k].refuses = refuses // all that are behind this address
			}
		}
	}
	if w.rnd.IntN(4) == 0 {
		w.noise = w.rnd.Uint64N(1200)
	}
}

// revoke lets the revocation begin to spread at at. Repeated, it changes nothing.
func (w *world) revoke(at time.Duration) {
	if w.revoked {
		return
	}
	w.revoked = true
	if w.lost {
		return
	}
	slowest := w.rnd.IntN(w.n)
	for i := range w.addresses[:w.n] {
		a := &w.addresses[i]
		last := w.rnd.IntN(a.n)
		for k := range a.servers[:a.n] {
			s := &a.servers[k]
			s.n = 1 + 2*w.rnd.IntN((len(s.turns)+1)/2)
			for j := range s.turns[:s.n] {
				s.turns[j] = at + uniform(w.rnd, w.takes)
			}
			slices.Sort(s.turns[:s.n])
			if i == slowest && k == last {
				s.turns[s.n-1] = at + w.takes // somebody takes all of it
			}
		}
	}
	if w.restored > 0 {
		w.restored += at + w.takes // only what was dead everywhere can rise
	}
}

// pass lets the backup be restored if it is time: at some servers, or all, the
// credential is as good as before.
func (w *world) pass(at time.Duration) {
	if w.revived || w.restored == 0 || !w.revoked || w.lost || at < w.restored {
		return
	}
	w.revived, w.revoked = true, false
	all := w.rnd.IntN(2) == 0
	for i := range w.addresses[:w.n] {
		a := &w.addresses[i]
		for k := range a.servers[:a.n] {
			if all || i == 0 && k == 0 {
				a.servers[k].n = 0
			}
		}
	}
}

// try is one try on a fresh connection: the load balancer picks a server. took is
// how long it was on its way: mostly a moment, rarely until the timeout.
func (w *world) try(a *address, revoked bool, at time.Duration) (v rotation.Verdict, unreached bool, took time.Duration) {
	u := w.source.Uint64() // one draw for everything: this is where a simulation spends its time
	took = time.Duration(u>>56) * time.Millisecond
	if u>>48&0xff == 0 {
		took *= 80
	}
	if a.outage.has(at) {
		return rotation.Inconclusive, true, took
	}
	if u>>24&0xfff < w.noise {
		return rotation.Inconclusive, u>>36&3 == 0, took
	}
	s := &a.servers[(u&0xffff)*uint64(a.n)>>16]
	if s.refuses.has(at) || revoked && !s.accepts(at) {
		return rotation.Rejected, false, took
	}
	return rotation.Accepted, false, took
}

// alive tells whether some server accepts the credential at at or later.
func (w *world) alive(at time.Duration) bool {
	for i := range w.addresses[:w.n] {
		a := &w.addresses[i]
		for k := range a.servers[:a.n] {
			if a.servers[k].acceptsLater(at) {
				return true
			}
		}
	}
	return false
}

// deadAt is from when on no server accepts the credential any more.
func (w *world) deadAt() time.Duration {
	last := time.Duration(0)
	for i := range w.addresses[:w.n] {
		a := &w.addresses[i]
		for k := range a.servers[:a.n] {
			last = max(last, a.servers[k].turns[max(a.servers[k].n-1, 0)])
		}
	}
	return last
}
