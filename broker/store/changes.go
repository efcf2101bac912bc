package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// The kinds of change.
const (
	ChangeSecret     = "secret"
	ChangeRotation   = "rotation"
	ChangeRetirement = "retirement"
	ChangeDelivery   = "delivery"
	ChangePlacement  = "placement"
)

// changePoll is how often a watcher looks for commits of other nodes.
const changePoll = time.Second

// changeStatements write the transaction's changes. Their numbers are taken from
// one row, which stays locked until the commit: whoever takes a later number
// commits later, so a reader that has seen number n has seen all before it.
func (tx *Tx) changeStatements() []statement {
	n, at := len(tx.changes), micros(tx.now())
	if n == 0 {
		return nil
	}
	statements := []statement{{"UPDATE change_counter SET last = last + $1 WHERE id = 1", []any{n}}}
	for some := range slices.Chunk(tx.changes, insertBy) {
		n -= len(some)
		args, rows := []any{at}, make([]string, len(some))
		for i, c := range some {
			k := len(args)
			rows[i] = fmt.Sprintf("(CAST($%d AS BIGINT), $%d, $%d, $%d)", k+1, k+2, k+3, k+4)
			args = append(args, n+len(some)-1-i, c.kind, c.id, c.secretID)
		}
		statements = append(statements, statement{`INSERT INTO changes (seq, tenant, secret, generation, kind, object_id, at)
			WITH x (back, kind, id, secret_id) AS (VALUES ` + strings.Join(rows, ", ") + `)
			SELECT c.last - x.back, COALESCE(s.tenant, ''), COALESCE(s.name, ''), COALESCE(s.generation, 0), x.kind, x.id, CAST($1 AS BIGINT)
			FROM x CROSS JOIN change_counter c LEFT JOIN secrets s ON s.id = x.secret_id WHERE c.id = 1`, args})
	}
	return statements
}

// Changes returns the changes after number after, in the order of their
// commits, at most limit (0 = 100). Numbers have no gaps: if the first one
// returned is not after + 1, those between were pruned.
func (tx *Tx) Changes(ctx context.Context, after int64, limit int) ([]rotation.Change, error) {
	changes, err := all(ctx, tx, func(r row) (c rotation.Change, err error) {
		err = r.Scan(&c.Seq, &c.Tenant, &c.Secret, &c.Kind, &c.ID, &c.Generation, instant{&c.At})
		return c, err
	}, `SELECT seq, tenant, secret, kind, object_id, generation, at FROM changes
		WHERE seq > $1 ORDER BY seq`+atMost("$2"), after, Page{Limit: limit}.limit())
	if err != nil {
		return nil, fmt.Errorf("reading changes: %w", err)
	}
	return changes, nil
}

// LastChange returns the number of the newest change, 0 if there never was one.
func (tx *Tx) LastChange(ctx context.Context) (last int64, err error) {
	if err := tx.q.queryRow(ctx, "SELECT last FROM change_counter WHERE id = 1").Scan(&last); err != nil {
		return 0, fmt.Errorf("reading the number of the last change: %w", err)
	}
	return last, nil
}

// PruneChanges removes the changes made before a time.
func (tx *Tx) PruneChanges(ctx context.Context, before time.Time) error {
	if err := tx.execOnly(ctx, "DELETE FROM changes WHERE at < $1", micros(before)); err != nil {
		return fmt.Errorf("pruning changes: %w", err)
	}
	return nil
}

// Changed returns a channel that is closed at the next commit of this process
// which published a change or an audit event. Take it before reading.
func (db *DB) Changed() <-chan struct{} { return db.commits.next() }

// WatchChanges calls fn with the changes after number after as they are
// committed, none left out and none twice, until ctx ends or fn or the database
// fails; that is the error. Commits of other nodes are seen within a second.
func (db *DB) WatchChanges(ctx context.Context, after int64, fn func([]rotation.Change) error) error {
	var poll <-chan time.Time
	if !db.driver.exclusive() {
		ticker := time.NewTicker(changePoll)
		defer ticker.Stop()
		poll = ticker.C
	}
	for {
		changed := db.Changed()
		var changes []rotation.Change
		err := db.View(ctx, func(tx *Tx) (err error) {
			changes, err = tx.Changes(ctx, after, maxLimit)
			return err
		})
		if err != nil {
			return fmt.Errorf("watching changes: %w", err)
		}
		if len(changes) > 0 {
			if err := fn(changes); err != nil {
				return err
			}
			after = changes[len(changes)-1].Seq
			continue
		}
		select {
		case <-changed:
		case <-poll:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
