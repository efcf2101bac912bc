package engine

import (
	"slices"
	"sync"
	"time"
)

// Each consumer has a lane of its own: so many attempts at once, one of each secret at
// most, and none for a while when its endpoint keeps failing. The rest waits here for the
// next that is free, which costs no worker. All of it is in memory: a process that starts
// anew finds what is due in the rows, and tries the endpoint once more, that is all.

const (
	laneWidth = 4 // attempts at once, where a consumer says nothing
	// An endpoint that failed so often in a row is left alone: first for laneShut, then
	// for twice as long after each failure, up to laneShutMost.
	laneBreak    = 5
	laneShut     = 30 * time.Second
	laneShutMost = 5 * time.Minute
	laneQueue    = 1000 // that wait in memory; the others wait in their rows
	// urgeEvery is how often an endpoint that is left alone is tried all the same, since an
	// emergency has something for it.
	urgeEvery = 30 * time.Second
)

// ConsumerDown says that a consumer's endpoint keeps failing, as this process sees it.
type ConsumerDown struct {
	Since time.Time // its first failure in a row
	Until time.Time // until then it is left alone; zero: it is not
	Error string    // of the last failure
}

// lanes are safe for concurrent use.
type lanes struct {
	mu sync.Mutex
	m  map[string]*lane
}

type lane struct {
	busy    map[string]string // id under way → its secret
	waiting []DueDelivery
	queued  map[string]bool // ids of waiting
	more    bool            // there may be more in the store that is due

	failures int // of the endpoint, in a row
	down     ConsumerDown
	urged    time.Time // when it was last tried before its time
}

func (l *lanes) of(consumer string) *lane {
	if l.m[consumer] == nil {
		l.m[consumer] = &lane{busy: map[string]string{}, queued: map[string]bool{}}
	}
	return l.m[consumer]
}

// width is how many attempts are made at once: one that fails is tried alone.
func (n *lane) width(most int) int {
	if n.failures > 0 {
		return 1
	}
	return most
}

// free tells whether an attempt at d may begin beside those that are under way.
func (n *lane) free(d DueDelivery) bool {
	for _, secret := range n.busy {
		if secret == d.SecretID && secret != "" {
			return false
		}
	}
	return true
}

// enter tells whether an attempt at d may begin now; whoever it begins for calls next
// when it is over. Otherwise d waits in the lane, or, where the endpoint is left alone, in
// its row.
func (l *lanes) enter(d DueDelivery, most int, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(d.Consumer)
	switch {
	case n.has(d.ID) || now.Before(n.down.Until):
		return false
	case len(n.waiting) >= laneQueue:
		n.more = true
		return false
	case len(n.busy) < n.width(most) && n.free(d):
		n.busy[d.ID] = d.SecretID
		return true
	}
	n.waiting, n.queued[d.ID] = append(n.waiting, d), true
	return false
}

// has tells whether a delivery is under way or waits.
func (n *lane) has(id string) bool {
	_, begun := n.busy[id]
	return begun || n.queued[id]
}

// next ends the attempt at done and begins those that there is room for now.
func (l *lanes) next(done DueDelivery, most int, now time.Time) []DueDelivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(done.Consumer)
	delete(n.busy, done.ID)
	if now.Before(n.down.Until) {
		n.waiting = nil // their rows are due: they are found when the time is over
		clear(n.queued)
	}
	var begun []DueDelivery
	for i := 0; i < len(n.waiting) && len(n.busy) < n.width(most); {
		d := n.waiting[i]
		if !n.free(d) {
			i++
			continue
		}
		n.waiting = slices.Delete(n.waiting, i, i+1)
		delete(n.queued, d.ID)
		n.busy[d.ID] = d.SecretID
		begun = append(begun, d)
	}
	if len(n.waiting) == 0 && len(n.busy) == 0 && n.failures == 0 && !n.more {
		delete(l.m, done.Consumer)
	}
	return begun
}

// dry tells, once, that the lane has nothing left to do while more may be due.
func (l *lanes) dry(consumer string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.m[consumer]
	if n == nil || !n.more || len(n.waiting) > 0 {
		return false
	}
	n.more = false
	return true
}

// expectMore notes that more may be due than the lane has been told of.
func (l *lanes) expectMore(consumer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(consumer).more = true
}

// answered notes what an attempt says of the endpoint: why it is down, or nothing.
// It tells whether it answers again after it was left alone.
func (l *lanes) answered(consumer, why string, now time.Time) (again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(consumer)
	if why == "" {
		again = n.failures >= laneBreak
		n.failures, n.down = 0, ConsumerDown{}
		return again
	}
	if n.failures++; n.failures == 1 {
		n.down.Since = now
	}
	n.down.Error = why
	if over := n.failures - laneBreak; over >= 0 {
		shut := laneShutMost
		if over < 4 {
			shut = min(laneShut<<over, laneShutMost)
		}
		n.down.Until = now.Add(shut)
	}
	return false
}

// shut tells whether a consumer's endpoint is left alone for now.
func (l *lanes) shut(consumer string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.m[consumer]
	return n != nil && now.Before(n.down.Until)
}

// holds tells whether a delivery is under way or waits in its lane.
func (l *lanes) holds(d DueDelivery) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.m[d.Consumer]
	return n != nil && n.has(d.ID)
}

// urge lets an endpoint that is left alone be tried once more, now.
func (l *lanes) urge(consumer string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.m[consumer]; n != nil && now.Before(n.down.Until) && now.Sub(n.urged).Abs() >= urgeEvery {
		n.urged, n.down.Until = now, now
	}
}

// forget drops what is known of a consumer's endpoint.
func (l *lanes) forget(consumer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.m[consumer]; n != nil {
		n.failures, n.down = 0, ConsumerDown{}
	}
}

// ConsumersDown returns the consumers whose endpoints fail, by name.
func (e *Engine) ConsumersDown() map[string]ConsumerDown {
	e.lanes.mu.Lock()
	defer e.lanes.mu.Unlock()
	out := map[string]ConsumerDown{}
	for name, n := range e.lanes.m {
		if n.failures > 0 {
			out[name] = n.down
		}
	}
	return out
}
