package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
)

// feed is a sink and how far it has come.
type feed struct {
	log    *Log
	name   string
	cursor string // file
	sink   Sink
	logger hclog.Logger
	stop   context.CancelFunc
	last   chan struct{} // closed: it ends when there is nothing more to send, or that fails
	done   chan struct{}
	slot   chan struct{} // of the one line that is sent directly

	file  *os.File // the segment that is read
	first int64    // its first line
	at    int64    // where the next line begins in it
	tries int      // of a record that is refused alone
	most  int      // lines that are sent at once; less than sinkLines where so many were refused

	sending stopwatch
	mu      sync.Mutex
	next    int64
	tried   bool // there was an attempt
	failed  error
	since   time.Time
	doubt   string
}

func newFeed(l *Log, name, cursor string, sink Sink) *feed {
	ctx, stop := context.WithCancel(context.Background())
	f := &feed{log: l, name: name, cursor: cursor, sink: sink, logger: l.cfg.Logger.With("sink", name), stop: stop,
		last: make(chan struct{}), done: make(chan struct{}), slot: make(chan struct{}, 1), most: sinkLines}
	go f.run(ctx)
	return f
}

// close ends the feed. A sink that hangs is left to itself.
func (f *feed) close() {
	f.stop()
	if !await(f.done, min(sinkEnd, f.log.sinkTimeout())) {
		f.logger.Warn("an audit sink does not end; it is left to itself")
	}
}

func (f *feed) standing() SinkStatus {
	f.log.mu.Lock()
	end := f.log.size
	f.log.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	s := SinkStatus{Name: f.name, Next: f.next, Lag: max(0, end-f.next), Since: f.since, Doubt: f.doubt}
	if d, ok := f.sink.(Doubter); ok && s.Doubt == "" {
		s.Doubt = d.Doubt()
	}
	if _, err := os.Stat(f.asideFile()); err == nil {
		s.Doubt = "it refuses some records for good, which it lacks: they are in " + f.asideFile()
	}
	switch {
	case f.sending.longer(2 * f.log.sinkTimeout()):
		s.Error = "it does not answer"
	case f.failed != nil && time.Since(f.since) >= downAfter:
		s.Error = f.failed.Error()
	}
	return s
}

// unsure tells whether it may be down: it was not tried yet, or fails since just now.
func (f *feed) unsure() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.tried || f.failed != nil && time.Since(f.since) < downAfter
}

func (f *feed) attempted() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried = true
}

// run sends what there is, and then what comes, until ctx ends.
func (f *feed) run(ctx context.Context) {
	defer close(f.done)
	defer func() {
		if f.file != nil {
			_ = f.file.Close() // it was only read
		}
		f.slot <- struct{}{} // nothing is sent to it any more
		if err := f.sink.Close(); err != nil {
			f.logger.Warn("closing an audit sink failed", "error", err)
		}
	}()
	pause := &backoff.ExponentialBackOff{InitialInterval: firstPause, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: maxPause}
	begun := false
	for ctx.Err() == nil {
		more, ending := f.log.more(), f.ending()
		if !begun {
			next, err := f.begin()
			begun = f.settle(err, next) == nil
		}
		sent := 0
		var err error
		if begun {
			sent, err = f.step(ctx)
			f.attempted()
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
		if ending {
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-f.last: // once more
		case <-more:
		case <-t.C:
		}
		t.Stop()
	}
}

func (f *feed) ending() bool {
	select {
	case <-f.last:
		return true
	default:
		return false
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
	lines, at, err := f.read(f.most)
	if err != nil || len(lines) == 0 {
		return 0, f.settle(err, f.next)
	}
	err = f.send(ctx, lines)
	if refused(err) {
		if len(lines) == 1 {
			return f.pass(ctx, err)
		}
		f.most = len(lines) / 2
		return 1, nil // at once, with fewer
	}
	if err != nil {
		return 0, f.settle(err, f.next)
	}
	f.at, f.tries, f.most = at, 0, min(2*f.most, sinkLines)
	return len(lines), f.advance(lines[len(lines)-1])
}

func refused(err error) bool {
	_, is := errors.AsType[*RefusedError](err)
	return is
}

// send sends lines within the time that a sink has.
func (f *feed) send(ctx context.Context, lines []Line) (err error) {
	ctx, cancel := context.WithTimeout(ctx, f.log.sinkTimeout())
	defer cancel()
	f.sending.watch(func() { err = f.sink.Send(ctx, lines) })
	return err
}

// advance keeps that everything up to a line has arrived, or was put aside.
func (f *feed) advance(ln Line) error {
	next := ln.Index + 1
	return f.settle(f.save(cursor{Next: next, Origin: f.log.Origin(), Leaf: ln.Leaf()}), next)
}

const (
	refusedTries = 3  // of one record alone, before others are tried
	refusedMost  = 20 // records that are tried in its place
)

// pass passes over a record that the other side refuses for good. That it does, and not
// everything, shows when it takes a later one; until then the sink only counts as failing.
func (f *feed) pass(ctx context.Context, why error) (int, error) {
	if f.tries++; f.tries < refusedTries {
		return 0, f.settle(why, f.next)
	}
	lines, _, err := f.read(1 + refusedMost)
	if err != nil || len(lines) == 0 {
		return 0, f.settle(err, f.next)
	}
	aside := lines[:1]
	for _, ln := range lines[1:] {
		switch err := f.send(ctx, []Line{ln}); {
		case refused(err):
			aside = append(aside, ln)
		case err != nil:
			return 0, f.settle(err, f.next)
		case ln.Kind != KindCheckpoint: // of which many sinks take nothing
			if err := f.putAside(aside); err != nil {
				return 0, f.settle(err, f.next)
			}
			f.rewind()
			f.tries = 0
			return len(lines), f.advance(ln)
		}
	}
	return 0, f.settle(why, f.next)
}

// asideFile has the records that the sink was not given, until a person removes it.
func (f *feed) asideFile() string { return f.cursor + ".refused" }

func (f *feed) putAside(lines []Line) error {
	var text []byte
	for _, ln := range lines {
		f.logger.Error("an audit sink takes other records and refuses this one; it is put aside", "index", ln.Index, "file", f.asideFile())
		text = append(append(text, ln.Raw...), '\n')
	}
	file, err := os.OpenFile(f.asideFile(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err == nil {
		_, err = file.Write(text)
		err = errors.Join(err, file.Sync(), file.Close())
	}
	if err != nil {
		return fmt.Errorf("%w: putting aside what an audit sink refuses: %w", backends.ErrUnavailable, err)
	}
	return nil
}

// rewind has the segment opened again where the next line is.
func (f *feed) rewind() {
	if f.file != nil {
		_ = f.file.Close() // it was only read
		f.file = nil
	}
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
	Next   int64  `json:"next"`             // index of the line to be sent next
	Origin string `json:"origin,omitempty"` // of the log
	Leaf   string `json:"leaf,omitempty"`   // of the line before, in base64
}

func (f *feed) save(c cursor) error {
	return privatefile.Replace(f.cursor, func(w io.Writer) error { return json.NewEncoder(w).Encode(c) })
}

// begin finds out where to go on. A cursor of another log, or beyond the end of this
// one, says nothing of what the sink has: it is sent everything again.
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
	wrong, err := f.contradicted(c)
	if err != nil || wrong == "" {
		return c.Next, err
	}
	f.logger.Error("the cursor of an audit sink is not of this log; everything is sent again", "why", wrong, "next", c.Next)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doubt = "its cursor was not of this log (" + wrong + "); everything was sent again, and what it had from before is of another log"
	return 0, nil
}

// contradicted says why a cursor is not of this log; empty: it is.
func (f *feed) contradicted(c cursor) (string, error) {
	f.log.mu.Lock()
	size, special := f.log.size, f.log.at.first < 0
	f.log.mu.Unlock()
	switch {
	case c.Origin != "" && c.Origin != f.log.Origin():
		return "it is of " + c.Origin, nil
	case c.Next < 0 || c.Next > size && !special:
		return fmt.Sprintf("the log has %d lines", size), nil
	case c.Leaf == "" || c.Next == 0:
		return "", nil
	}
	all, err := segments(f.log.cfg.Path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	ln, there, err := lineAt(all, c.Next-1)
	if err != nil || !there || ln.Leaf() == c.Leaf {
		return "", err
	}
	return fmt.Sprintf("record %d is another than the one that was sent", c.Next-1), nil
}

// read reads the lines that come next, and where the ones after them begin.
func (f *feed) read(most int) ([]Line, int64, error) {
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
		lines, at, err := readLines(f.file, f.at, limit, most)
		if err != nil || len(lines) > 0 || writing {
			return lines, at, err
		}
		if ok, err := f.open(true); !ok || err != nil {
			return nil, 0, err
		}
	}
}

// readLines reads whole lines from from on, up to limit, and no more than most.
func readLines(file io.ReaderAt, from, limit int64, most int) (lines []Line, at int64, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(file, from, max(0, limit-from)), blockSize)
	for at = from; len(lines) < most && at-from < sinkBytes; {
		raw, n, err := nextLine(r)
		if errors.Is(err, io.EOF) {
			return lines, at, nil
		}
		if err != nil {
			return lines, at, fmt.Errorf("%w: reading the audit log: %w", backends.ErrUnavailable, err)
		}
		at += n
		if ln, err := ParseLine(raw); err == nil { // else somebody has damaged it: verify tells
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
