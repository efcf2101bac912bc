package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/rotation"
)

// pruneEvery is how often old segments are looked for.
const pruneEvery = time.Minute

// Retain sets how many bytes a segment has before the next is begun (0 = DefaultMaxSize)
// and how long one is kept, at least (0: for ever).
func (l *Log) Retain(maxSize int64, keep time.Duration) {
	if maxSize <= 0 {
		maxSize = DefaultMaxSize
	}
	l.maxSize.Store(maxSize)
	l.keep.Store(int64(keep))
}

// HoldWhile has no segment removed while hold says so, or cannot tell.
func (l *Log) HoldWhile(hold func(context.Context) (bool, error)) { l.holding.Store(&hold) }

// MaxSize is how many bytes a segment has before the next is begun.
func (l *Log) MaxSize() int64 { return l.maxSize.Load() }

func (l *Log) pruneLoop() {
	t := time.NewTicker(pruneEvery)
	defer t.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-t.C:
		}
		if _, err := l.Prune(context.Background()); err != nil {
			l.cfg.Logger.Warn("removing old segments of the audit log failed; it is tried again", "error", err)
		}
	}
}

// Prune removes the segments whose records are all older than they are to be kept and
// that every sink has, the oldest first, and tells how many. That they are removed is a
// record, signed before it is done: Verify takes a log that begins later by it alone.
// While evidence is held none is removed.
func (l *Log) Prune(ctx context.Context) (removed int, err error) {
	keep := time.Duration(l.keep.Load())
	if keep <= 0 {
		return 0, nil
	}
	if hold := l.holding.Load(); hold != nil {
		if held, err := (*hold)(ctx); held || err != nil {
			return 0, err
		}
	}
	all, err := segments(l.cfg.Path)
	if err != nil {
		return 0, err
	}
	for i := 0; i+1 < len(all); i++ {
		next := all[i+1]
		if next.first <= all[i].first || next.first > l.sinks.slowest() {
			return removed, nil
		}
		c, err := l.beginning(next)
		if err != nil {
			return removed, err
		}
		if c.Size != next.first || l.cfg.Now().Sub(c.At) < keep {
			return removed, nil // also where it cannot be told by our own signature
		}
		if err := l.remove(ctx, all[i], next.first); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// beginning is the checkpoint that a segment begins with; the zero one if it has none
// that this log has signed.
func (l *Log) beginning(s segment) (c Checkpoint, err error) {
	err = read(s.path, func(f *os.File, size int64) error {
		line, _, err := nextLine(bufio.NewReader(io.NewSectionReader(f, 0, size)))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if found, ok := l.signer.checkpointOf(line); ok {
			c = found
		}
		return err
	})
	return c, err
}

func (l *Log) remove(ctx context.Context, s segment, to int64) error {
	detail := span{max(s.first, 0), to}.detail()
	detail["file"] = filepath.Base(s.path)
	text, err := body{AuditEvent: rotation.AuditEvent{At: l.cfg.Now(), Kind: rotation.AuditStep, Actor: "keybroker", Action: actionRemoved, Path: "sys/audit", Outcome: "ok", Detail: detail}}.encode()
	if err != nil {
		return err
	}
	if _, err := l.submit(ctx, &batch{lines: []queued{{body: text}}, sync: true}); err != nil {
		return err
	}
	if _, err := l.Sign(ctx); err != nil {
		return err
	}
	if err := os.Remove(s.path); err != nil {
		return fmt.Errorf("%w: removing a segment of the audit log: %w", backends.ErrUnavailable, err)
	}
	l.cfg.Logger.Info("a segment of the audit log was removed: it is as old as configured, and every sink has it", "file", s.path)
	return privatefile.SyncDir(filepath.Dir(s.path))
}
