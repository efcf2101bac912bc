package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"strings"
	"time"
)

// Exec runs any statement.
func (tx *Tx) Exec(ctx context.Context, query string) error { return tx.execOnly(ctx, query) }

// Explain makes the database explain each query of tx to to before it runs, one
// part of the plan a line.
func (tx *Tx) Explain(to func(query, plan string)) {
	tx.t = explaining{tx.t, to}
	tx.q = tx.t
}

type explaining struct {
	transaction
	to func(query, plan string)
}

func (e explaining) explain(ctx context.Context, query string, args []any) error {
	var lines []string
	var line string
	var skip any
	prefix, columns := "EXPLAIN QUERY PLAN ", []any{&skip, &skip, &skip, &line}
	if e.byteOrder() != "" { // PostgreSQL
		prefix, columns = "EXPLAIN (COSTS OFF) ", []any{&line}
	}
	err := e.transaction.query(ctx, func(r row) error {
		err := r.Scan(columns...)
		lines = append(lines, line)
		return err
	}, prefix+query, args...)
	e.to(query, strings.Join(lines, "\n"))
	return err
}

func (e explaining) query(ctx context.Context, each func(row) error, query string, args ...any) error {
	if err := e.explain(ctx, query, args); err != nil {
		return err
	}
	return e.transaction.query(ctx, each, query, args...)
}

func (e explaining) exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := e.explain(ctx, query, args); err != nil {
		return 0, err
	}
	return e.transaction.exec(ctx, query, args...)
}

func (e explaining) queryRow(ctx context.Context, query string, args ...any) row {
	if err := e.explain(ctx, query, args); err != nil {
		return failedRow{err}
	}
	return e.transaction.queryRow(ctx, query, args...)
}

type failedRow struct{ err error }

func (f failedRow) Scan(...any) error { return f.err }

// WaitForGroups lets the members of a group wait for others however slow these are.
func (db *DB) WaitForGroups() { db.driver.(*sqliteDriver).writer.groupAge = time.Hour }

// Waiting returns how many wait for the writer of SQLite.
func (db *DB) Waiting() int {
	return Turns{db.driver.(*sqliteDriver).writer.turn}.Waiting()
}

// Turns let so many go on at once.
type Turns struct{ t *turns }

// NewTurns returns so many.
func NewTurns(n int) Turns { return Turns{newTurns(n)} }

// Take waits for one.
func (t Turns) Take(ctx context.Context) error { return t.t.take(ctx) }

// Leave gives one up.
func (t Turns) Leave() { t.t.leave() }

// Waiting returns how many wait for one.
func (t Turns) Waiting() int {
	t.t.mu.Lock()
	defer t.t.mu.Unlock()
	return len(t.t.waiting) + len(t.t.first)
}

// Strings runs fn with each row of a query of one text column.
func (tx *Tx) Strings(ctx context.Context, query string, fn func(string) error) error {
	return tx.t.query(ctx, func(r row) error {
		s, err := scanString(r)
		if err != nil {
			return err
		}
		return fn(s)
	}, query)
}

// MaxStatements is how many statements a connection keeps compiled.
const MaxStatements = maxStatements

// Resigned replaces a text in the header of a snapshot, and makes its digest fit.
func Resigned(file []byte, old, new string) []byte {
	body := bytes.Replace(file[:len(file)-sha256.Size], []byte(old), []byte(new), 1)
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}
