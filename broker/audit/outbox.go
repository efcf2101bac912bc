package audit

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/rotation"
)

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

// Drain moves all entries that the outbox has now. They wait there where the journal
// cannot be written: they are safe, and no sink is tried directly.
func (l *Log) Drain(ctx context.Context, box Outbox) error {
	for {
		entries, err := box.Pending(ctx, pumpBatch)
		if err != nil || len(entries) == 0 {
			return err
		}
		lines := make([]queued, len(entries))
		for i, e := range entries {
			if e.Event.Kind == "" {
				e.Event.Kind = rotation.AuditStep
			}
			text, err := body{AuditEvent: e.Event, Seq: e.Seq}.encode()
			if err != nil {
				return err
			}
			lines[i] = queued{text, e.Seq}
		}
		b, err := l.submit(ctx, &batch{lines: lines, sync: true})
		if err != nil {
			b.take() // they are still in the outbox: else they would be written later as well
			return err
		}
		if err := box.Written(ctx, entries[len(entries)-1].Seq); err != nil {
			return err
		}
	}
}
