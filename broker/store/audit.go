package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
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
		{"INSERT INTO audit_outbox (seq, node, since, records) SELECT last, $1, $2, $3 FROM audit_counter WHERE id = 1", []any{tx.auditor, micros(tx.now()), asJSON{tx.audit}}},
	}
}

// AuditEntry is an event that is not known to be in the audit log yet.
type AuditEntry struct {
	Seq   int64 // in the order of commits
	Event rotation.AuditEvent
}

// AuditInto names the node whose log gets what is committed from now on.
func (db *DB) AuditInto(node string) { db.auditor.Store(&node) }

// ClaimAudit gives a node what nobody has taken into a log since a time, such as that of
// a node that died, and what is anybody's. Of nodes that claim at once one gets it: each
// changes rows that it finds unchanged. A node that is only slow may still write what
// another has claimed: entries are repeated under their number, never lost.
func (tx *Tx) ClaimAudit(ctx context.Context, node string, since time.Time) error {
	err := tx.execOnly(ctx, "UPDATE audit_outbox SET node = $1, since = $2 WHERE node <> $1 AND (node = '' OR since < $3)", node, micros(tx.now()), micros(since))
	if err != nil {
		return fmt.Errorf("claiming entries of the audit outbox: %w", err)
	}
	return nil
}

// AuditLeft tells whether there is anything to claim.
func (tx *Tx) AuditLeft(ctx context.Context, node string, since time.Time) (left bool, err error) {
	err = tx.q.queryRow(ctx, "SELECT EXISTS (SELECT 1 FROM audit_outbox WHERE node <> $1 AND (node = '' OR since < $2))", node, micros(since)).Scan(&left)
	if err != nil {
		return false, fmt.Errorf("looking for what is left in the audit outbox: %w", err)
	}
	return left, nil
}

// AuditOutbox returns the entries of the oldest commits that are a node's, of at most
// limit (0 = 100).
func (tx *Tx) AuditOutbox(ctx context.Context, node string, limit int) ([]AuditEntry, error) {
	type commit struct {
		last   int64
		events []rotation.AuditEvent
	}
	commits, err := all(ctx, tx, func(r row) (c commit, err error) {
		err = r.Scan(&c.last, fromJSON{&c.events})
		return c, err
	}, "SELECT seq, records FROM audit_outbox WHERE node = $1 ORDER BY seq"+atMost("$2"), node, Page{Limit: limit}.limit())
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

// DeleteAudit removes the commits of a node whose entries are all up to seq: its log has
// them. What another has claimed meanwhile is the other's.
func (tx *Tx) DeleteAudit(ctx context.Context, node string, seq int64) error {
	if err := tx.execOnly(ctx, "DELETE FROM audit_outbox WHERE node = $1 AND seq <= $2", node, seq); err != nil {
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

// Loss says that events were lost by the store: those after one number and up to another
// that logs tell of were given to what was never committed, or was rolled back. Every
// node has some of them in its log, if any, and deals with its own.
type Loss struct {
	After int64     `json:"after"`
	UpTo  int64     `json:"up_to"`
	At    time.Time `json:"at"`
	Told  []string  `json:"told"` // nodes that have dealt with what their logs tell
}

const (
	auditLosses = "audit/losses"
	maxLosses   = 32 // that are kept
)

// AuditLosses returns what is known to be lost, the oldest first.
func (tx *Tx) AuditLosses(ctx context.Context) (all []Loss, err error) {
	text, err := tx.Setting(ctx, auditLosses)
	if errors.Is(err, backends.ErrNotFound) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("reading which events were lost: %w", err)
	}
	return all, nil
}

// AddAuditLoss keeps that events were lost, which a node has dealt with for its own log.
func (tx *Tx) AddAuditLoss(ctx context.Context, l Loss) error {
	all, err := tx.AuditLosses(ctx)
	if err != nil {
		return err
	}
	all = append(all, l)
	return tx.putSetting(ctx, auditLosses, all[max(0, len(all)-maxLosses):])
}

// ToldAuditLosses keeps that a node has dealt with all that are known.
func (tx *Tx) ToldAuditLosses(ctx context.Context, node string) error {
	all, err := tx.AuditLosses(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		if !slices.Contains(all[i].Told, node) {
			all[i].Told = append(all[i].Told, node)
		}
	}
	return tx.putSetting(ctx, auditLosses, all)
}
