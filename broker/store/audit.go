package store

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/rotation"
)

// AddAudit commits ev with the transaction; it reaches the audit log after.
func (tx *Tx) AddAudit(_ context.Context, ev rotation.AuditEvent) error {
	tx.audit = append(tx.audit, ev)
	return nil
}

// flushAudit numbers the transaction's events like its changes, in the order of commits.
func (tx *Tx) flushAudit(ctx context.Context) error {
	if len(tx.audit) == 0 {
		return nil
	}
	last, err := tx.count(ctx, "audit_counter", len(tx.audit))
	if err != nil {
		return err
	}
	first := last - int64(len(tx.audit)) + 1
	for i, ev := range tx.audit {
		err := tx.execOnly(ctx, "INSERT INTO audit_outbox (seq, record) VALUES ($1, $2)", first+int64(i), asJSON{ev})
		if err != nil {
			return err
		}
	}
	return nil
}

// AuditEntry is an event that is not known to be in the audit log yet.
type AuditEntry struct {
	Seq   int64 // in the order of commits
	Event rotation.AuditEvent
}

// AuditOutbox returns the oldest entries, at most limit (0 = 100).
func (tx *Tx) AuditOutbox(ctx context.Context, limit int) ([]AuditEntry, error) {
	entries, err := all(ctx, tx, func(r row) (e AuditEntry, err error) {
		err = r.Scan(&e.Seq, fromJSON{&e.Event})
		return e, err
	}, "SELECT seq, record FROM audit_outbox ORDER BY seq LIMIT $1", Page{Limit: limit}.limit())
	if err != nil {
		return nil, fmt.Errorf("reading the audit outbox: %w", err)
	}
	return entries, nil
}

// DeleteAudit removes the entries up to seq: the log has them.
func (tx *Tx) DeleteAudit(ctx context.Context, seq int64) error {
	if err := tx.execOnly(ctx, "DELETE FROM audit_outbox WHERE seq <= $1", seq); err != nil {
		return fmt.Errorf("clearing the audit outbox: %w", err)
	}
	return nil
}
