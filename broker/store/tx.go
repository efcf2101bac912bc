package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

var _ engine.Tx = (*Tx)(nil)

// Tx is one transaction; it is valid until the function that got it returns and
// must not be used by several goroutines at once. Its methods return errors of
// the classes ErrNotFound, ErrConflict, ErrInvalid and ErrUnavailable; after one
// that came from the database the transaction can only be given up.
type Tx struct {
	q   querier
	t   transaction // nil in ViewOne
	now func() time.Time

	// Written with the commit (see last), so that the locks on the counters are held
	// briefly and always in the same order.
	steps   []statement
	noted   []rotation.Step
	tried   []triedOf
	changes []change
	audit   []rotation.AuditEvent
	auditor string // the node whose log gets them; empty: any

	hands  *hands                   // nil: there are none
	handed []river.InsertManyParams // to them, once it is committed

	swapped []*int64 // revisions increased in records, taken back by undo

	writing bool // the transaction may write
	locking bool // records are locked as they are read: see UpdateLatest
}

// ErrStale: a record to be saved is not at its revision any more, since somebody
// else has changed its row. It is a backends.ErrConflict.
var ErrStale = fmt.Errorf("%w: it was changed meanwhile", backends.ErrConflict)

// errTaken: an insert met a row with the same key.
var errTaken = fmt.Errorf("%w: there is one already", backends.ErrConflict)

// lock is put after a query for records of a table that may be saved.
func (tx *Tx) lock(table string) string {
	if !tx.locking {
		return ""
	}
	return tx.t.rowLock(table)
}

type change struct{ kind, id, secretID string }

// publish puts an object into the feed of changes, once per transaction.
func (tx *Tx) publish(kind, id, secretID string) {
	c := change{kind, id, secretID}
	for _, have := range tx.changes {
		if have == c {
			return
		}
	}
	tx.changes = append(tx.changes, c)
}

// last are the statements to run right before the commit.
func (tx *Tx) last() []statement {
	return slices.Concat(tx.steps, tx.noteStatements(), tx.tryStatements(), tx.auditStatements(), tx.changeStatements())
}

// undo takes back what a transaction that was not committed did to records.
func (tx *Tx) undo() {
	for _, revision := range tx.swapped {
		*revision--
	}
}

// swap runs the UPDATE of a compare-and-swap on *revision.
func (tx *Tx) swap(ctx context.Context, revision *int64, query string, args ...any) error {
	n, err := tx.t.exec(ctx, query, args...)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w, after revision %d", ErrStale, *revision)
	}
	*revision++
	tx.swapped = append(tx.swapped, revision)
	return nil
}

// insert runs an INSERT … ON CONFLICT DO NOTHING: a refused row is ErrConflict
// and, unlike a violated constraint, leaves a PostgreSQL transaction usable.
func (tx *Tx) insert(ctx context.Context, query string, args ...any) error {
	n, err := tx.t.exec(ctx, query, args...)
	if err == nil && n == 0 {
		err = errTaken
	}
	return err
}

func (tx *Tx) execOnly(ctx context.Context, query string, args ...any) error {
	_, err := tx.t.exec(ctx, query, args...)
	return err
}

// tenantOf returns the tenant of a secret, or ErrNotFound.
func (tx *Tx) tenantOf(ctx context.Context, secretID string) (tenant string, err error) {
	err = tx.q.queryRow(ctx, "SELECT tenant FROM secrets WHERE id = $1", secretID).Scan(&tenant)
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", secretID, err)
	}
	return tenant, nil
}

// all collects the rows of a query.
func all[T any](ctx context.Context, tx *Tx, scan func(row) (T, error), query string, args ...any) ([]T, error) {
	var items []T
	err := tx.q.query(ctx, func(r row) error {
		item, err := scan(r)
		items = append(items, item)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return items, nil
}

func scanString(r row) (s string, err error) {
	err = r.Scan(&s)
	return s, err
}
