package ratelimit

import (
	"math"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/keybroker/keybroker/policy"
)

// buckets are those of one kind.
type buckets struct {
	mu  sync.Mutex // so that two requests do not make one bucket each
	lru *lru.Cache[owner, *bucket]
}

// owner is whose a bucket is.
type owner struct {
	class Class
	name  string
}

func newBuckets(size int) *buckets {
	kept, err := lru.New[owner, *bucket](size)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &buckets{lru: kept}
}

func (b *buckets) of(whose owner) *bucket {
	if found, ok := b.lru.Get(whose); ok {
		return found
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if found, ok := b.lru.Get(whose); ok {
		return found
	}
	made := &bucket{}
	b.lru.Add(whose, made)
	return made
}

func (b *buckets) take(at time.Time, policyName string, c Class, name string, limit policy.Limit) Quota {
	left, allowed := b.of(owner{c, name}).take(at, limit)
	q := Quota{Policy: policyName, PerMinute: limit.RequestsPerMinute, Left: int(left + rounding), Full: seconds((burst(limit) - left) / perSecond(limit))}
	if !allowed {
		q.Retry = max(time.Millisecond, seconds((1-left)/perSecond(limit)))
	}
	return q
}

// rounding is more than what calculations with parts of requests are wrong by.
const rounding = 1e-6

// bucket is what is left to somebody. One bucket does for all limits that its owner
// has in turn, by several roles or a reload: what is left of one is left of the other
// in the same proportion, so that nobody gains by changing between them. (golang.org/x/time/rate
// has no way to carry that over.)
type bucket struct {
	mu     sync.Mutex
	at     time.Time // of the last request
	left   float64   // requests
	size   float64   // all that may come at once; 0: nothing was taken yet
	filled float64   // parts of the size in a second
}

// take takes a request out, if there is one left.
func (b *bucket) take(at time.Time, limit policy.Limit) (left float64, ok bool) {
	size := burst(limit)
	filled := perSecond(limit) / size
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size == 0 {
		b.at, b.left, b.size, b.filled = at, size, size, filled
	}
	if since := at.Sub(b.at); since > 0 { // requests at the same time may be told of in another order
		b.left = min(b.size, b.left+since.Seconds()*min(filled, b.filled)*b.size) // the slower one: else a small limit that fills fast would fill a large one
		b.at = at
	}
	if size != b.size {
		b.left *= size / b.size
	}
	b.size, b.filled = size, filled
	if b.left < 1-rounding {
		return b.left, false
	}
	b.left = max(0, b.left-1)
	return b.left, true
}

func perSecond(l policy.Limit) float64 { return float64(l.RequestsPerMinute) / 60 }

// burst is how many requests may come at once; see policy.Limit.
func burst(l policy.Limit) float64 {
	if l.Burst > 0 {
		return float64(l.Burst)
	}
	return float64(max(1, l.RequestsPerMinute/6))
}

func seconds(s float64) time.Duration {
	return time.Duration(math.Ceil(s * float64(time.Second)))
}
