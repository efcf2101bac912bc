package engine

import (
	"context"
	"sync"
	"time"
)

// runs keeps two workers of this process from driving one record at once.
type runs struct {
	mu sync.Mutex
	m  map[string]chan struct{}
	// planned is for when a wake-up of a record is in the queue already, as far as
	// this process knows: without it every early look would leave another job behind.
	planned map[string]time.Time
}

func newRuns() runs {
	return runs{m: map[string]chan struct{}{}, planned: map[string]time.Time{}}
}

// plan tells whether a wake-up of the record is needed for at: none is under way
// for then. It is taken for made.
func (r *runs) plan(key string, at time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.planned[key].Equal(at) {
		return false
	}
	r.planned[key] = at
	return true
}

// sweepPatience is how long a wake-up that was made for a due record is waited for.
const sweepPatience = time.Minute

// sweep tells whether a due record needs a wake-up: no worker is at it, and none
// was made for it in the last minute, which a worker may just not have come to.
func (r *runs) sweep(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, busy := r.m[key]; busy || now.Sub(r.planned[key]).Abs() < sweepPatience && !r.planned[key].After(now) {
		return false
	}
	r.planned[key] = now
	return true
}

// came tells that a worker has come for the wake-ups that were due by now.
func (r *runs) came(key string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.planned[key]; ok && !at.After(now) {
		delete(r.planned, key)
	}
}

// putOff lets the sweep take a record up again whose step has failed, but not at once.
func (r *runs) putOff(key string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.planned[key] = now.Add(sweepEvery - sweepPatience)
}

// unplan takes back that a wake-up was made.
func (r *runs) unplan(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.planned, key)
}

// forget drops what is planned for long ago.
func (r *runs) forget(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, at := range r.planned {
		if at.Before(before) {
			delete(r.planned, key)
		}
	}
}

func (r *runs) enter(key string) (wake chan struct{}, mine bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ch, ok := r.m[key]; ok {
		select {
		case ch <- struct{}{}:
		default:
		}
		return nil, false
	}
	ch := make(chan struct{}, 1)
	r.m[key] = ch
	return ch, true
}

// leave gives a record up; false: somebody has asked meanwhile to look again,
// whose own wake-up is spent.
func (r *runs) leave(ctx context.Context, key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.m[key]:
		if ctx.Err() == nil {
			return false
		}
	default:
	}
	delete(r.m, key)
	return true
}

func (r *runs) drop(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, key)
}
