// Package store is the durable state: one set of queries for SQLite and
// PostgreSQL, with River's jobs committed beside them.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/engine"
)

// Config says where the state is: exactly one of SQLitePath and PostgresURL.
type Config struct {
	SQLitePath  string                // created if missing, with mode 0600; its directory with 0700
	PostgresURL backends.SecretString // postgres://user:password@host/database
	Logger      hclog.Logger          // nil: none
	Now         func() time.Time      // nil: time.Now
}

// DB is the open state. It is safe for concurrent use.
type DB struct {
	driver driver
	now    func() time.Time
	log    *slog.Logger

	mu     sync.Mutex // guards runner and closed
	runner runner     // nil: no jobs are worked
	closed bool
	hands  atomic.Pointer[hands] // nil: every job goes through the database

	commits broadcast
	auditor atomic.Pointer[string] // the node whose log gets what is committed here
}

// driver is what truly differs between the two databases.
type driver interface {
	// migrate brings our schema and River's up to date; when they are, it does nothing.
	migrate(ctx context.Context, log *slog.Logger) error
	begin(ctx context.Context, readOnly bool) (transaction, error)
	// single reads outside of a transaction.
	single() querier
	// newRunner makes a River client that works jobs; cfg lacks only what depends on the database.
	newRunner(cfg *river.Config) (runner, error)
	// exclusive tells whether no other process can have the data open.
	exclusive() bool
	stats() Stats
	// checkpoint has what was deleted leave the database's files.
	checkpoint(ctx context.Context) error
	close() error
}

// transaction is one transaction of a driver. Its errors carry a class of
// package backends; errCollision marks those after which the whole transaction
// may be run again.
type transaction interface {
	querier
	exec(ctx context.Context, query string, args ...any) (affected int64, err error)
	enqueue(ctx context.Context, jobs []river.InsertManyParams) ([]*rivertype.JobInsertResult, error)
	// commit runs the last statements and commits, in one round trip if it can. After
	// an error it takes rollback to end the transaction.
	commit(ctx context.Context, last []statement) error
	rollback()
	// rowLock is put after a query to keep others from changing the rows that it reads of a table.
	rowLock(table string) string
	// serialize keeps out other transactions that ask for the same key, until this one ends.
	serialize(ctx context.Context, key string) error
}

// querier reads.
type querier interface {
	query(ctx context.Context, each func(row) error, query string, args ...any) error
	queryRow(ctx context.Context, query string, args ...any) row
	// byteOrder is put after a text column to compare it byte by byte.
	byteOrder() string
}

// statement is one that has no result.
type statement struct {
	query string
	args  []any
}

type row interface{ Scan(dest ...any) error }

// runner works jobs: a *river.Client of either database.
type runner interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	StopAndCancel(ctx context.Context) error
}

// errCollision: the transaction met another one and left no trace.
var errCollision = fmt.Errorf("%w: the transaction collided with others", backends.ErrUnavailable)

// maxRuns is how often a transaction is run that keeps meeting others.
const maxRuns = 10

// Open opens the state and brings its schema up to date. Opening SQLite data
// that another process has open is ErrConflict; a database that does not answer
// is ErrUnavailable.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	db := &DB{now: cfg.Now, log: slog.New(slogHandler{logger: cfg.Logger})}

	var err error
	switch {
	case (cfg.SQLitePath == "") == (cfg.PostgresURL == ""):
		err = fmt.Errorf("%w: it takes either a SQLite path or a PostgreSQL url", backends.ErrInvalid)
	case cfg.SQLitePath != "":
		db.driver, err = openSQLite(ctx, cfg.SQLitePath, db.log)
	default:
		db.driver, err = openPostgres(ctx, cfg.PostgresURL, db.log)
	}
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	if err := db.driver.migrate(ctx, db.log); err != nil {
		return nil, errors.Join(fmt.Errorf("migrating store: %w", err), db.driver.close())
	}
	return db, nil
}

// Close stops working jobs and closes the database. It is idempotent. If jobs
// are still running when ctx ends, nothing is closed and ctx's error returned.
func (db *DB) Close(ctx context.Context) error {
	if err := db.Stop(ctx); err != nil {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	if err := db.driver.close(); err != nil {
		return fmt.Errorf("closing store: %w", err)
	}
	return nil
}

// Check tells whether the database answers now.
func (db *DB) Check(ctx context.Context) error {
	return db.ViewOne(ctx, func(tx *Tx) error {
		var one int
		return tx.q.queryRow(ctx, "SELECT 1").Scan(&one)
	})
}

// Update runs fn in one read-write transaction, committed if fn returns nil and
// rolled back otherwise. It runs fn again, a bounded number of times, after a
// collision with other transactions; fn therefore has no effect outside of tx.
// A transaction that failed leaves no Revision increased.
//
// On SQLite there is one writer at a time: fn must not call Update itself. Those
// that come at the same time are committed together, so fn must not wait either
// for what somebody does after an Update.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	return again(ctx, func(int) error { return db.update(ctx, false, fn) }, errCollision)
}

// UpdateLatest is Update for an fn that reads all that it decides by: fn runs
// again also after somebody else changed what it had read, so that a save was
// ErrStale or an insert met a row that was not there before. From its second run
// on the records that fn reads are locked: it wins, however busy they are.
func (db *DB) UpdateLatest(ctx context.Context, fn func(*Tx) error) error {
	return again(ctx, func(run int) error { return db.update(ctx, run > 1, fn) }, errCollision, ErrStale, errTaken)
}

// again runs fn until it fails with none of the errors, but not for ever.
func again(ctx context.Context, fn func(run int) error, after ...error) error {
	for run := 1; ; run++ {
		err := fn(run)
		if run == maxRuns || !slices.ContainsFunc(after, func(e error) bool { return errors.Is(err, e) }) {
			return err
		}
		longest := min(5*time.Millisecond<<run, 250*time.Millisecond)
		select {
		case <-time.After(rand.N(longest)): //nolint:gosec // jitter is no secret
		case <-ctx.Done():
			return err
		}
	}
}

func (db *DB) update(ctx context.Context, locking bool, fn func(*Tx) error) (err error) {
	t, err := db.driver.begin(ctx, false)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	tx := &Tx{q: t, t: t, now: db.now, writing: true, locking: locking, hands: db.hands.Load()}
	if node := db.auditor.Load(); node != nil {
		tx.auditor = *node
	}
	committed := false
	defer func() {
		if !committed { // also when fn panics
			t.rollback()
			tx.undo()
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	last := tx.last()
	if err := t.commit(ctx, last); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	committed = true
	for _, job := range tx.handed {
		tx.hands.take(job)
	}
	if len(last) > 0 {
		db.commits.wake()
	}
	return nil
}

// View runs fn in one read-only transaction with one consistent snapshot.
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error {
	t, err := db.driver.begin(ctx, true)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	defer t.rollback()
	return fn(&Tx{q: t, t: t, now: db.now})
}

// ViewOne is View for an fn that makes one query and so needs no transaction.
func (db *DB) ViewOne(_ context.Context, fn func(*Tx) error) error {
	return fn(&Tx{q: db.driver.single(), now: db.now})
}

// Stats counts since Open.
type Stats struct {
	// Transactions that wrote and were committed; on SQLite also those of River.
	Transactions int64
	// Commits that this took: on SQLite, transactions at the same time share one.
	Commits int64
}

// Stats returns what was committed so far.
func (db *DB) Stats() Stats { return db.driver.stats() }

// Checkpoint has what was deleted so far leave the files of SQLite, whose log keeps it
// a while otherwise. ErrUnavailable if somebody reads so long that it was not waited
// for: call it again. PostgreSQL does so by its own VACUUM and log: nothing happens.
func (db *DB) Checkpoint(ctx context.Context) error {
	if err := db.driver.checkpoint(ctx); err != nil {
		return fmt.Errorf("cutting the log of the database: %w", err)
	}
	return nil
}

// Engine returns the store as the engine sees it.
func (db *DB) Engine() engine.Store { return engineStore{db} }

type engineStore struct{ db *DB }

func (s engineStore) Update(ctx context.Context, fn func(engine.Tx) error) error {
	return s.db.Update(ctx, func(tx *Tx) error { return fn(tx) })
}

func (s engineStore) View(ctx context.Context, fn func(engine.Tx) error) error {
	return s.db.View(ctx, func(tx *Tx) error { return fn(tx) })
}

// broadcast wakes everybody who waits.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// next returns a channel that the next wake closes.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
