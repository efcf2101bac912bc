package engine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/keybroker/keybroker/rotation/engine"
)

// counting is a store that holds its first transaction until go is closed, and counts
// those that were committed.
type counting struct {
	engine.Store
	mu        sync.Mutex
	began     int
	committed int
	release   chan struct{}
}

func (c *counting) Update(_ context.Context, fn func(engine.Tx) error) error {
	c.mu.Lock()
	c.began++
	first := c.began == 1
	c.mu.Unlock()
	if first {
		<-c.release
	}
	err := fn(nil)
	if err == nil {
		c.mu.Lock()
		c.committed++
		c.mu.Unlock()
	}
	return err
}

// wanted asks for n transactions while the first one is under way, of which those in
// wrong fail, and returns what came of each.
func wantedTogether(t *testing.T, n int, wrong map[int]error) (*counting, []error, []int) {
	t.Helper()
	c := &counting{release: make(chan struct{})}
	update := engine.Together(c)
	errs, done := make([]error, n), make([]int, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			errs[i] = update(t.Context(), func(context.Context, engine.Tx) error {
				done[i]++
				return wrong[i]
			})
		})
		synctest.Wait()
	}
	close(c.release)
	all.Wait()
	return c, errs, done
}

func TestTransactionsThatAreWantedAtTheSameTimeAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10
		c, errs, done := wantedTogether(t, n, nil)
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if c.committed != 2 { // the one under way, and one for all who came meanwhile
			t.Errorf("%d transactions for %d", c.committed, n)
		}
		for i, times := range done {
			if times != 1 {
				t.Errorf("what %d wanted was done %d times", i, times)
			}
		}
	})
}

func TestNobodyFailsForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		c, errs, done := wantedTogether(t, 6, map[int]error{3: broken})
		for i, err := range errs {
			if want := map[int]error{3: broken}[i]; !errors.Is(err, want) {
				t.Errorf("%d: %v", i, err)
			}
			if done[i] == 0 {
				t.Errorf("what %d wanted was not done", i)
			}
		}
		if c.committed != 5 { // each of those that are in order its own
			t.Errorf("%d transactions were committed", c.committed)
		}
	})
}
