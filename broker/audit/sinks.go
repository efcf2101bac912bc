package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
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
}

// sinks are those that there are.
type sinks struct {
	log *Log
	mu  sync.Mutex
	all map[string]*feed

	asked sync.WaitGroup // sends that requests wait for, or no longer do
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

func (s *sinks) close() {
	s.asked.Wait()
	for _, f := range s.running() {
		f.close()
	}
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sinkDirect)
	ln.Index = -1
	all := s.running()
	maps.DeleteFunc(all, func(_ string, f *feed) bool { return !f.sink.Confirms() })
	answers := make(chan error, len(all))
	s.asked.Go(func() { // also those that are no longer waited for have their time
		defer cancel()
		var sends sync.WaitGroup
		for _, f := range all {
			sends.Go(func() { answers <- f.sink.Send(ctx, []Line{ln}) })
		}
		sends.Wait()
	})
	for range all {
		if <-answers == nil {
			return true
		}
	}
	return false
}

// feed is a sink and how far it has come.
type feed struct {
	log    *Log
	name   string
	cursor string // file
	sink   Sink
	logger hclog.Logger
	stop   context.CancelFunc
	done   chan struct{}

	file  *os.File // the segment that is read
	first int64    // its first line
	at    int64    // where the next line begins in it

	mu     sync.Mutex
	next   int64
	failed error
	since  time.Time
}

func newFeed(l *Log, name, cursor string, sink Sink) *feed {
	ctx, stop := context.WithCancel(context.Background())
	f := &feed{log: l, name: name, cursor: cursor, sink: sink, logger: l.cfg.Logger.With("sink", name), stop: stop, done: make(chan struct{})}
	go f.run(ctx)
	return f
}

func (f *feed) close() {
	f.stop()
	<-f.done
}

func (f *feed) standing() SinkStatus {
	end := f.log.Checkpoint().Size
	f.mu.Lock()
	defer f.mu.Unlock()
	s := SinkStatus{Name: f.name, Next: f.next, Lag: max(0, end-f.next), Since: f.since}
	if f.failed != nil && time.Since(f.since) >= downAfter {
		s.Error = f.failed.Error()
	}
	return s
}

// run sends what there is, and then what comes, until ctx ends.
func (f *feed) run(ctx context.Context) {
	defer close(f.done)
	defer func() {
		if f.file != nil {
			_ = f.file.Close() // it was only read
		}
		if err := f.sink.Close(); err != nil {
			f.logger.Warn("closing an audit sink failed", "error", err)
		}
	}()
	pause := &backoff.ExponentialBackOff{InitialInterval: firstPause, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: maxPause}
	begun := false
	for ctx.Err() == nil {
		more := f.log.more()
		if !begun {
			next, err := f.begin()
			begun = f.settle(err, next) == nil
		}
		sent := 0
		var err error
		if begun {
			sent, err = f.step(ctx)
		}
		wait := time.Duration(0)
		if err != nil || !begun {
			more = nil // only time helps
			wait = pause.NextBackOff()
			if after, ok := errors.AsType[*RetryError](err); ok && after.After > 0 {
				wait = min(after.After, maxPause)
			}
		} else if pause.Reset(); sent == 0 {
			wait = sinkLookout
		}
		if wait == 0 {
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-more:
		case <-t.C:
		}
		t.Stop()
	}
}

// more is closed when there are more lines than now.
func (l *Log) more() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// step sends one batch; 0: there was nothing to send.
func (f *feed) step(ctx context.Context) (int, error) {
	lines, at, err := f.read()
	if err != nil || len(lines) == 0 {
		return 0, f.settle(err, f.next)
	}
	ctx, cancel := context.WithTimeout(ctx, sinkTimeout)
	defer cancel()
	if err := f.sink.Send(ctx, lines); err != nil {
		return 0, f.settle(err, f.next)
	}
	f.at = at
	next := lines[len(lines)-1].Index + 1
	return len(lines), f.settle(f.save(next), next)
}

// settle keeps how it went.
func (f *feed) settle(err error, next int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case errors.Is(err, context.Canceled):
	case err == nil && f.failed != nil:
		f.logger.Info("an audit sink takes records again", "failing_since", f.since)
		f.failed, f.since = nil, time.Time{}
	case err != nil && f.failed == nil:
		f.logger.Warn("an audit sink does not take records; it is tried again, the journal keeps them", "error", err)
		f.failed, f.since = err, time.Now()
	case err != nil:
		f.failed = err
	}
	f.next = next
	return err
}

// cursor is what its file says.
type cursor struct {
	Next int64 `json:"next"` // index of the line to be sent next
}

func (f *feed) save(next int64) error {
	return privatefile.Replace(f.cursor, func(w io.Writer) error { return json.NewEncoder(w).Encode(cursor{next}) })
}

// begin finds out where to go on.
func (f *feed) begin() (next int64, err error) {
	text, err := os.ReadFile(f.cursor)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	var c cursor
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: reading the cursor of an audit sink: %w", backends.ErrUnavailable, err)
	}
	return c.Next, nil
}

// read reads the lines that come next, and where the ones after them begin.
func (f *feed) read() ([]Line, int64, error) {
	for {
		if f.file == nil {
			if ok, err := f.open(false); !ok || err != nil {
				return nil, 0, err
			}
		}
		f.log.mu.Lock()
		end := f.log.at
		f.log.mu.Unlock()
		writing, limit := f.first == end.first, end.offset
		if !writing {
			info, err := f.file.Stat()
			if err != nil {
				return nil, 0, fmt.Errorf("%w: reading the audit log: %w", backends.ErrUnavailable, err)
			}
			limit = info.Size()
		}
		lines, at, err := readLines(f.file, f.at, limit)
		if err != nil || len(lines) > 0 || writing {
			return lines, at, err
		}
		if ok, err := f.open(true); !ok || err != nil {
			return nil, 0, err
		}
	}
}

// readLines reads whole lines from from on, up to limit.
func readLines(file io.ReaderAt, from, limit int64) (lines []Line, at int64, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(file, from, max(0, limit-from)), blockSize)
	for at = from; len(lines) < sinkLines && at-from < sinkBytes; {
		raw, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return lines, at, nil
		}
		if err != nil {
			return lines, at, fmt.Errorf("%w: reading the audit log: %w", backends.ErrUnavailable, err)
		}
		at += int64(len(raw))
		if ln, err := ParseLine(raw[:len(raw)-1]); err == nil { // else somebody has damaged it: verify tells
			lines = append(lines, ln)
		}
	}
	return lines, at, nil
}

// open opens the segment that has the line to be sent next, or the first one that has
// later lines; beyond is true if the one that is open has no more. False: there is none.
func (f *feed) open(beyond bool) (bool, error) {
	all, err := segments(f.log.cfg.Path)
	if err != nil {
		return false, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	var found *segment
	for i, s := range all {
		switch {
		case s.first < 0 || beyond && s.first <= f.first:
		case found == nil || !beyond && s.first <= f.next:
			found = &all[i]
		}
	}
	if found == nil {
		return false, nil
	}
	file, err := os.Open(found.path)
	if err != nil {
		return false, fmt.Errorf("%w: reading the audit log: %w", backends.ErrUnavailable, err)
	}
	info, err := file.Stat()
	var at int64
	if err == nil {
		at, err = seek(file, info.Size(), f.next)
	}
	if err != nil {
		return false, errors.Join(fmt.Errorf("%w: reading the audit log: %w", backends.ErrUnavailable, err), file.Close())
	}
	if f.file != nil {
		_ = f.file.Close() // it was only read
	}
	f.file, f.first, f.at = file, found.first, at
	return true, nil
}
