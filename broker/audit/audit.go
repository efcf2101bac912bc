// Package audit writes the audit log: one JSON line for each access and step.
//
// Requests are written before they are answered: what cannot be written is
// refused. What the engine does is committed with the change itself to an outbox
// in the store, and Pump moves it here; a crash in between repeats lines, never
// loses one, and a repeated line has the same "seq".
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Log is the audit log of one node: a file of JSON lines, 0600, only appended to.
// It is safe for concurrent use.
type Log struct {
	mu     sync.Mutex
	file   *os.File
	failed bool // the last write, which may have left a part of a line
	newest int64
}

// Open opens or creates the log at path.
func Open(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	whole, err := endsWhole(path)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	newest, err := Newest(path)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Log{file: f, failed: !whole, newest: newest}, nil
}

// Newest returns the highest sequence number of the outbox that the log has, 0 if none.
func (l *Log) Newest() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// endsWhole tells whether the file's last line is whole: a process that was
// killed while writing may have left a part of one.
func endsWhole(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return true, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("opening the audit log: %w", err)
	}
	defer f.Close()
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, info.Size()-1); err != nil {
		return false, fmt.Errorf("reading the end of the audit log: %w", err)
	}
	return last[0] == '\n', nil
}

type line struct {
	rotation.AuditEvent
	Seq int64 `json:"seq,omitempty"` // of the outbox; requests have none
}

// Record appends one event. An error (ErrUnavailable) means that it may not be
// in the log: what it tells of must not happen.
func (l *Log) Record(ev rotation.AuditEvent) error { return l.append([]line{{AuditEvent: ev}}) }

func (l *Log) append(lines []line) error {
	var buf []byte
	for _, ln := range lines {
		ln.At = ln.At.UTC()
		b, err := json.Marshal(ln)
		if err != nil {
			return fmt.Errorf("encoding an audit event: %w", err)
		}
		buf = append(append(buf, b...), '\n')
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return fmt.Errorf("%w: the audit log is closed", backends.ErrUnavailable)
	}
	if l.failed {
		buf = append([]byte{'\n'}, buf...) // nothing is joined to what the failure left
	}
	_, err := l.file.Write(buf)
	for _, ln := range lines {
		l.newest = max(l.newest, ln.Seq)
	}
	if l.failed = err != nil; l.failed {
		return fmt.Errorf("%w: writing the audit log: %w", backends.ErrUnavailable, err)
	}
	return nil
}

// Check tells whether the log can be written. It costs nothing while writing
// works; after a failure it tries again, by a line of its own.
func (l *Log) Check(now time.Time) error {
	l.mu.Lock()
	failed := l.failed
	l.mu.Unlock()
	if !failed {
		return nil
	}
	return l.Record(rotation.AuditEvent{At: now, Actor: "keybroker", Action: "audit.resume", Path: "sys/audit", Outcome: "ok"})
}

// Close syncs and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return errors.Join(f.Sync(), f.Close())
}

func (l *Log) sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	return l.file.Sync()
}

// Entry is one committed event of the outbox.
type Entry struct {
	Seq   int64
	Event rotation.AuditEvent
}

// Outbox is where the engine's events wait for the log.
type Outbox interface {
	// Pending returns the oldest entries, at most limit.
	Pending(ctx context.Context, limit int) ([]Entry, error)
	// Written forgets the entries up to seq.
	Written(ctx context.Context, seq int64) error
}

const (
	pumpBatch = 500
	pumpEvery = time.Second
)

// Pump moves entries from the outbox to the log, once a second, until ctx ends;
// then once more.
func (l *Log) Pump(ctx context.Context, box Outbox, logger hclog.Logger) {
	t := time.NewTicker(pumpEvery)
	defer t.Stop()
	for last := false; ; {
		if err := l.Drain(context.WithoutCancel(ctx), box); err != nil {
			logger.Error("moving events to the audit log failed", "error", err)
		}
		if last {
			return
		}
		select {
		case <-ctx.Done():
			last = true
		case <-t.C:
		}
	}
}

// Drain moves all entries that the outbox has now.
func (l *Log) Drain(ctx context.Context, box Outbox) error {
	for {
		entries, err := box.Pending(ctx, pumpBatch)
		if err != nil || len(entries) == 0 {
			return err
		}
		lines := make([]line, len(entries))
		for i, e := range entries {
			lines[i] = line{AuditEvent: e.Event, Seq: e.Seq}
		}
		if err := l.append(lines); err != nil {
			return err
		}
		if err := l.sync(); err != nil {
			return fmt.Errorf("syncing the audit log: %w", err)
		}
		if err := box.Written(ctx, entries[len(entries)-1].Seq); err != nil {
			return err
		}
	}
}
