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
// of commits.
func (tx *Tx) auditStatements() []statement {
	const insert = "INSERT INTO audit_outbox (seq, record) SELECT last - $1, $2 FROM audit_counter WHERE id = 1"
	n := len(tx.audit)
	if n == 0 {
		return nil
	}
	statements := []statement{{"UPDATE audit_counter SET last = last + $1 WHERE id = 1", []any{n}}}
	for i, ev := range tx.audit {
		statements = append(statements, statement{insert, []any{n - 1 - i, asJSON{ev}}})
	}
	return statements
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
	}, "SELECT seq, record FROM audit_outbox ORDER BY seq"+atMost("$1"), Page{Limit: limit}.limit())
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
