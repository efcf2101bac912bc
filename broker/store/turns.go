package store

import (
	"context"
	"slices"
	"sync"

	"github.com/keybroker/keybroker/rotation/engine"
)

// turns lets so many go on at once, and the others in the order in which they come;
// but what contains goes before what does not (see engine.First).
type turns struct {
	mu      sync.Mutex
	free    int
	first   []chan struct{} // wait for a turn, which comes when theirs is closed
	waiting []chan struct{}
	favours int // how many of first went before somebody who waits, in a row
}

// favoursMost is after how many of first one of the others goes, so that these never wait
// for long.
const favoursMost = 8

func newTurns(n int) *turns { return &turns{free: n} }

// take waits for a turn.
func (t *turns) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	line := &t.waiting
	if engine.IsFirst(ctx) {
		line = &t.first
	}
	mine := make(chan struct{})
	*line = append(*line, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(*line, mine)
	if i >= 0 {
		*line = slices.Delete(*line, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 { // it came at the same moment, perhaps with an open group, which only the caller can end
		return nil
	}
	return ctx.Err()
}

// pass gives the caller's turn to the next; false: nobody waits, and it is still the
// caller's.
func (t *turns) pass() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next()
}

// leave gives a turn up.
func (t *turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.next() {
		t.free++
	}
}

// next gives a turn to who goes next, if anybody waits; t.mu is held.
func (t *turns) next() bool {
	line := &t.waiting
	switch {
	case len(t.first) == 0:
		t.favours = 0
	case len(t.waiting) == 0:
		line = &t.first
	case t.favours < favoursMost:
		t.favours++
		line = &t.first
	default:
		t.favours = 0
	}
	if len(*line) == 0 {
		return false
	}
	close((*line)[0])
	*line = slices.Delete(*line, 0, 1)
	return true
}
