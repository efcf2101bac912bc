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

// auditStatements number the transaction's events like its changes, in the order
// of commits. They are one row, under the number of the last of them: rows cost more
// than what is in them.
func (tx *Tx) auditStatements() []statement {
	n := len(tx.audit)
	if n == 0 {
		return nil
	}
	return []statement{
		{"UPDATE audit_counter SET last = last + $1 WHERE id = 1", []any{n}},
		{"INSERT INTO audit_outbox (seq, records) SELECT last, $1 FROM audit_counter WHERE id = 1", []any{asJSON{tx.audit}}},
	}
}

// AuditEntry is an event that is not known to be in the audit log yet.
type AuditEntry struct {
	Seq   int64 // in the order of commits
	Event rotation.AuditEvent
}

// AuditOutbox returns the entries of the oldest commits, of at most limit (0 = 100).
func (tx *Tx) AuditOutbox(ctx context.Context, limit int) ([]AuditEntry, error) {
	type commit struct {
		last   int64
		events []rotation.AuditEvent
	}
	commits, err := all(ctx, tx, func(r row) (c commit, err error) {
		err = r.Scan(&c.last, fromJSON{&c.events})
		return c, err
	}, "SELECT seq, records FROM audit_outbox ORDER BY seq"+atMost("$1"), Page{Limit: limit}.limit())
	if err != nil {
		return nil, fmt.Errorf("reading the audit outbox: %w", err)
	}
	var entries []AuditEntry
	for _, c := range commits {
		for i, ev := range c.events {
			entries = append(entries, AuditEntry{Seq: c.last - int64(len(c.events)-1-i), Event: ev})
		}
	}
	return entries, nil
}

// DeleteAudit removes the commits whose entries are all up to seq: the log has them.
func (tx *Tx) DeleteAudit(ctx context.Context, seq int64) error {
	if err := tx.execOnly(ctx, "DELETE FROM audit_outbox WHERE seq <= $1", seq); err != nil {
		return fmt.Errorf("clearing the audit outbox: %w", err)
	}
	return nil
}

// AuditSeq returns the sequence number of the newest event that was ever committed.
func (tx *Tx) AuditSeq(ctx context.Context) (seq int64, err error) {
	if err := tx.q.queryRow(ctx, "SELECT last FROM audit_counter WHERE id = 1").Scan(&seq); err != nil {
		return 0, fmt.Errorf("reading the number of the newest event: %w", err)
	}
	return seq, nil
}

// SkipAudit lets the events to come be numbered beyond seq.
func (tx *Tx) SkipAudit(ctx context.Context, seq int64) error {
	if err := tx.execOnly(ctx, "UPDATE audit_counter SET last = $1 WHERE id = 1 AND last < $1", seq); err != nil {
		return fmt.Errorf("numbering events: %w", err)
	}
	return nil
}
