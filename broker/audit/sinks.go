package audit

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Sink is a place that the journal's lines are sent to. It is used by one goroutine,
// but for Send, which others call as well while the journal cannot be written.
type Sink interface {
	// Send delivers lines in their order. An error means that any of them may not have
	// arrived: all are sent again. It is of a class of package backends, or a
	// *RetryError. Lines that were sent before the journal had them have no index, and
	// are sent again with one.
	Send(ctx context.Context, lines []Line) error
	// Confirms tells whether a Send without an error means that the other side has
	// the lines for good, so that a request may rely on it alone.
	Confirms() bool
	Close() error
}

// Doubter is a Sink that may find that something is wrong although it works.
type Doubter interface {
	// Doubt says what; empty: nothing.
	Doubt() string
}

// RefusedError is an error of a Sink whose other side works and does not take these
// lines, as they are or so many at once.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// RetryError is an error of a Sink that says when to try again.
type RetryError struct {
	Err   error
	After time.Duration
}

func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *RetryError) Unwrap() error { return e.Err }

const (
	sinkLines   = 500              // that are sent at once
	sinkBytes   = 1 << 20          // of these, roughly
	sinkTimeout = 30 * time.Second // of one Send
	sinkDirect  = 5 * time.Second  // of one that a request waits for
	sinkLookout = 5 * time.Second  // when nobody says that there are more lines
	lastMoment  = 2 * time.Second  // for the last lines when the log is closed
	sinkEnd     = 5 * time.Second  // for a sink to end; longer than that nobody waits
	firstPause  = 500 * time.Millisecond
	maxPause    = time.Minute
	// downAfter is how long a sink may fail before it counts as down.
	downAfter = 10 * time.Second
)

// SinkStatus is how a sink is.
type SinkStatus struct {
	Name  string
	Next  int64     // index of the line that it is sent next
	Lag   int64     // lines that it lacks
	Since time.Time // when it began to fail; zero: it works
	Error string    // why it is down; empty: it is not
	Doubt string    // what is wrong although it works; empty: nothing
}

// sinks are those that there are.
type sinks struct {
	log *Log
	mu  sync.Mutex
	all map[string]*feed
}

// SetSinks sends the journal to these sinks from now on, each from where the one of
// that name has come to, and closes those that are no longer among them. dir has their
// cursors. A sink that is new begins with the oldest line that there is.
func (l *Log) SetSinks(dir string, given map[string]Sink) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of the audit cursors: %w", err)
	}
	next := map[string]*feed{}
	l.sinks.mu.Lock()
	before := l.sinks.all
	l.sinks.mu.Unlock()
	for name, sink := range given {
		if f := before[name]; f != nil && f.sink == sink {
			next[name] = f
		}
	}
	for name, f := range before {
		if next[name] == nil {
			f.close()
		}
	}
	for name, sink := range given {
		if next[name] == nil {
			next[name] = newFeed(l, name, filepath.Join(dir, name), sink)
		}
	}
	l.sinks.mu.Lock()
	defer l.sinks.mu.Unlock()
	l.sinks.all = next
	return nil
}

func (s *sinks) running() map[string]*feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.all)
}

// close ends them all at once; for so long they may still send what there is.
func (s *sinks) close(moment time.Duration) {
	var ends sync.WaitGroup
	for _, f := range s.running() {
		ends.Go(func() {
			close(f.last)
			await(f.done, moment)
			f.close()
		})
	}
	ends.Wait()
}

// await waits for done, no longer than given.
func await(done <-chan struct{}, most time.Duration) bool {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// slowest is the index up to which every sink has all lines for good.
func (s *sinks) slowest() int64 {
	least := int64(math.MaxInt64)
	for _, f := range s.running() {
		f.mu.Lock()
		least = min(least, f.next)
		f.mu.Unlock()
	}
	return least
}

func (s *sinks) status() []SinkStatus {
	all := s.running()
	out := make([]SinkStatus, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name].standing())
	}
	return out
}

// direct gives a record that the journal did not take to every sink that confirms, and
// tells whether one of them has it.
func (s *sinks) direct(ctx context.Context, body []byte) bool {
	ln, err := ParseLine(body)
	if err != nil {
		return false
	}
	ln.Index = -1
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(sinkDirect, s.log.sinkTimeout()))
	all := s.running()
	maps.DeleteFunc(all, func(_ string, f *feed) bool { return !f.sink.Confirms() })
	answers := make(chan error, len(all))
	var asked sync.WaitGroup
	for _, f := range all {
		asked.Go(func() { answers <- f.direct(ctx, ln) })
	}
	go func() { // also those that are no longer waited for have their time, which ends
		asked.Wait()
		cancel()
	}()
	for range all {
		if <-answers == nil {
			return true
		}
	}
	return false
}

// direct sends a line beside the others. It returns when ctx ends: a Send that does not
// end then keeps the slot, so that no other is begun.
func (f *feed) direct(ctx context.Context, ln Line) error {
	select {
	case f.slot <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	sent := make(chan error, 1)
	go func() { // the end of the feed waits for it
		sent <- f.sink.Send(ctx, []Line{ln})
		<-f.slot
	}()
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Log) sinkTimeout() time.Duration {
	if l.cfg.SinkTimeout > 0 {
		return l.cfg.SinkTimeout
	}
	return sinkTimeout
}
