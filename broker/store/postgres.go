package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"

	"github.com/keybroker/keybroker/backends"
)

const (
	postgresWorkers = 32
	postgresPoll    = 500 * time.Millisecond // of scheduled jobs; the others are notified
	postgresConns   = 16                     // unless the url says pool_max_conns
	// migrationLock is the advisory lock under which nodes that start together
	// migrate one after the other: "keybrokr" in ASCII.
	migrationLock int64 = 0x6b657962726f6b72
	// serializeSeed keeps the locks of serialize apart from those of others in the database.
	serializeSeed = migrationLock
)

type postgresDriver struct {
	pool *pgxpool.Pool
	jobs *river.Client[pgx.Tx] // inserts only

	turns   *turns // of transactions: most of the pool's connections
	commits atomic.Int64
}

func openPostgres(ctx context.Context, url backends.SecretString, log *slog.Logger) (driver, error) {
	cfg, err := pgxpool.ParseConfig(url.Reveal())
	if err != nil {
		// Its text is dropped: it quotes the url, and the password in a malformed one is not found to be redacted.
		return nil, fmt.Errorf("%w: the PostgreSQL url cannot be parsed; it should look like "+
			"postgres://user:password@host:5432/database?sslmode=verify-full", backends.ErrInvalid)
	}
	if !strings.Contains(url.Reveal(), "pool_max_conns") {
		cfg.MaxConns = postgresConns
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, postgresError(err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, postgresError(err)
	}
	jobs, err := river.NewClient(riverpgxv5.New(pool), insertOnly(log))
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &postgresDriver{pool: pool, jobs: jobs, turns: newTurns(max(int(cfg.MaxConns)*3/4, 1))}, nil
}

func (d *postgresDriver) migrate(ctx context.Context, log *slog.Logger) error {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return postgresError(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", migrationLock); err != nil {
		return postgresError(err)
	}
	migrated := d.migrateLocked(ctx, log)
	if _, err := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", migrationLock); err != nil {
		// The lock goes with the session.
		return errors.Join(migrated, postgresError(err), conn.Conn().Close(context.WithoutCancel(ctx)))
	}
	return migrated
}

func (d *postgresDriver) migrateLocked(ctx context.Context, log *slog.Logger) error {
	db := stdlib.OpenDBFromPool(d.pool)
	defer db.Close()
	if err := gooseUp(ctx, goose.DialectPostgres, db); err != nil {
		return postgresError(err)
	}
	for _, index := range byteOrderIndexes {
		if _, err := d.pool.Exec(ctx, index); err != nil {
			return postgresError(err)
		}
	}
	m, err := rivermigrate.New(riverpgxv5.New(d.pool), &rivermigrate.Config{Logger: log})
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return postgresError(err)
}

// Lists are in byte order on both databases; where PostgreSQL's own order is that
// of a locale, the indexes of the common schema do not serve them.
var byteOrderIndexes = []string{
	`CREATE INDEX IF NOT EXISTS secrets_by_name ON secrets (tenant COLLATE "C", name COLLATE "C")`,
	`CREATE INDEX IF NOT EXISTS local_secrets_by_name ON local_secrets (tenant, name COLLATE "C")`,
}

// begin starts a transaction. Writers read what is committed: every write of a
// record is a compare-and-swap, and PostgreSQL checks its condition again on the
// row as it is once the lock is there.
func (d *postgresDriver) begin(ctx context.Context, readOnly bool) (transaction, error) {
	opts := pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	if readOnly {
		opts = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	}
	if err := d.turns.take(ctx); err != nil {
		return nil, postgresError(err)
	}
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		d.turns.leave()
		return nil, postgresError(err)
	}
	tx, err := conn.BeginTx(ctx, opts)
	if err != nil {
		conn.Release()
		d.turns.leave()
		return nil, postgresError(err)
	}
	return postgresTx{postgresQuerier{tx}, tx, conn, d}, nil
}

func (d *postgresDriver) newRunner(cfg *river.Config) (runner, error) {
	cfg.FetchPollInterval = postgresPoll
	setDefaultWorkers(cfg, postgresWorkers)
	return river.NewClient(riverpgxv5.New(d.pool), cfg)
}

func (d *postgresDriver) exclusive() bool { return false }

func (d *postgresDriver) stats() Stats {
	n := d.commits.Load()
	return Stats{Transactions: n, Commits: n}
}

func (d *postgresDriver) checkpoint(context.Context) error { return nil }

func (d *postgresDriver) close() error {
	d.pool.Close()
	return nil
}

func (d *postgresDriver) single() querier { return postgresQuerier{d.pool} }

// postgresQuerier reads in a transaction or outside of one.
type postgresQuerier struct {
	from interface {
		Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
		QueryRow(ctx context.Context, query string, args ...any) pgx.Row
	}
}

type postgresTx struct {
	postgresQuerier
	tx     pgx.Tx
	conn   *pgxpool.Conn
	driver *postgresDriver
}

func (t postgresTx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	tag, err := t.tx.Exec(ctx, query, args...)
	return tag.RowsAffected(), postgresError(err)
}

func (q postgresQuerier) query(ctx context.Context, each func(row) error, query string, args ...any) error {
	rows, err := q.from.Query(ctx, query, args...)
	if err != nil {
		return postgresError(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return postgresError(err)
		}
	}
	return postgresError(rows.Err())
}

func (q postgresQuerier) queryRow(ctx context.Context, query string, args ...any) row {
	return classedRow{q.from.QueryRow(ctx, query, args...), postgresError}
}

func (t postgresTx) enqueue(ctx context.Context, jobs []river.InsertManyParams) ([]*rivertype.JobInsertResult, error) {
	results, err := t.driver.jobs.InsertManyTx(ctx, t.tx, jobs)
	return results, postgresError(err)
}

// commit sends all that is left at once: what is locked by the last statements,
// which is what everybody needs, is locked while the server works and the disk
// writes, and never while a client is waited for.
func (t postgresTx) commit(ctx context.Context, last []statement) error {
	var batch pgx.Batch
	for _, s := range last {
		batch.Queue(s.query, s.args...)
	}
	batch.Queue("commit")
	results := t.tx.SendBatch(ctx, &batch)
	var tag pgconn.CommandTag
	for range batch.Len() {
		var err error
		if tag, err = results.Exec(); err != nil {
			_ = results.Close() // the same error
			return postgresError(err)
		}
	}
	if err := results.Close(); err != nil {
		return postgresError(err)
	}
	if tag.String() != "COMMIT" { // a statement had failed before
		return postgresError(pgx.ErrTxCommitRollback)
	}
	t.end() // t.tx is over, though it does not know
	t.driver.commits.Add(1)
	return nil
}

func (t postgresTx) rollback() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = t.tx.Rollback(ctx)
	t.end() // which closes the connection unless the transaction is over
}

// end gives the connection up, and the turn.
func (t postgresTx) end() {
	t.conn.Release()
	t.driver.turns.leave()
}

func (q postgresQuerier) byteOrder() string { return ` COLLATE "C"` }

// serialize takes an advisory lock, which ends with the transaction. Two keys may share
// one: then they wait for each other, too.
func (t postgresTx) serialize(ctx context.Context, key string) error {
	_, err := t.exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, $2))", key, serializeSeed)
	return err
}

// rowLock lets others refer to the row by a foreign key.
func (t postgresTx) rowLock(table string) string { return " FOR NO KEY UPDATE OF " + table }

// postgresError gives an error of the driver its class. pgx puts neither the
// password nor an argument into a text; the server's detail, which quotes
// values, is not part of it either.
func postgresError(err error) error {
	if err == nil || backends.Class(err) != nil {
		return err
	}
	if errors.Is(err, pgx.ErrNoRows) || errors.Is(err, sql.ErrNoRows) {
		return backends.ErrNotFound
	}
	class := backends.ErrUnavailable
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		switch {
		case e.Code == "40001" || e.Code == "40P01": // serialization_failure, deadlock_detected
			class = errCollision
		case e.ConstraintName == "rotation_steps_pkey": // see addStep
			class = errCollision
		case strings.HasPrefix(e.Code, "23"): // integrity_constraint_violation
			class = backends.ErrConflict
		case strings.HasPrefix(e.Code, "28"): // invalid_authorization_specification
			class = backends.ErrDenied
		}
	}
	return fmt.Errorf("%w: %w", class, err)
}
