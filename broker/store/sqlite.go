package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"modernc.org/sqlite"
	sqlitecodes "modernc.org/sqlite/lib"

	"github.com/keybroker/keybroker/backends"
)

const (
	sqliteWorkers = 16
	sqlitePoll    = 200 * time.Millisecond
	sqliteReaders = 8
	sqliteCache   = "cache_size(-16384)" // KiB at most, of each connection
	sqliteBusy    = "busy_timeout(10000)"
	sqliteMembers = 64 // users of the writer's connection that are kept for the next
)

// sqliteDriver keeps one connection that writes and a pool that only reads. The
// lock file makes sure that no other process writes: River's leader, our leases
// and the change notifications rely on it.
type sqliteDriver struct {
	path    string
	copying sync.Mutex // of whoever makes a snapshot
	lock    *flock.Flock
	writer  *writer
	write   *sql.DB // over writer
	read    *sql.DB
	jobs    *river.Client[*sql.Tx] // inserts only
}

func openSQLite(ctx context.Context, path string, log *slog.Logger) (driver, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	lock, err := lockData(path)
	if err != nil {
		return nil, err
	}
	if err := unfinishedRestore(path); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	d := &sqliteDriver{path: path, lock: lock}
	if err := d.connect(ctx, path, log); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), d.close())
	}
	return d, nil
}

// lockData takes the lock that a living process holds on its data.
func lockData(path string) (*flock.Flock, error) {
	name := path + ".lock"
	lock := flock.New(name, flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("%w: locking %s: %w", backends.ErrInvalid, name, err)
	}
	if !ok {
		holder := "another process"
		if pid, err := os.ReadFile(name); err == nil && len(pid) > 0 {
			holder += " (pid " + strings.TrimSpace(string(pid)) + ")"
		}
		return nil, fmt.Errorf("%w: %s has the data at %s open; one process owns it at a time", backends.ErrConflict, holder, path)
	}
	if err := os.WriteFile(name, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", backends.ErrInvalid, err), lock.Close())
	}
	return lock, nil
}

func (d *sqliteDriver) connect(ctx context.Context, path string, log *slog.Logger) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) // SQLite would create it with the umask's mode
	if err != nil {
		return fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	// Savepoints keep in memory what they might have to restore. What is deleted is
	// overwritten: a removed key, as a seal once wrapped it, opens older copies.
	connector, err := sqlite.NewConnector(sqliteURI(path, sqliteBusy, "journal_mode(WAL)", "synchronous(FULL)",
		"foreign_keys(1)", "secure_delete(ON)", "temp_store(MEMORY)", sqliteCache))
	if err != nil {
		return sqliteError(err)
	}
	d.writer = &writer{connector: connector, groupAge: groupMaxAge, turn: newTurns(1)}
	d.write = sql.OpenDB(d.writer)
	d.write.SetMaxIdleConns(sqliteMembers)
	if _, err := d.write.ExecContext(ctx, "SELECT 1"); err != nil {
		return sqliteError(err)
	}
	if connector, err = sqlite.NewConnector(sqliteURI(path, sqliteBusy, "query_only(1)", sqliteCache)); err != nil {
		return sqliteError(err)
	}
	d.read = sql.OpenDB(readers{connector})
	d.read.SetMaxOpenConns(sqliteReaders)
	d.read.SetMaxIdleConns(sqliteReaders)
	d.jobs, err = river.NewClient(riversqlite.New(d.write), insertOnly(log))
	return err
}

func sqliteURI(path string, pragmas ...string) string {
	query := url.Values{"_timezone": {"UTC"}, "_pragma": pragmas}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
}

func (d *sqliteDriver) migrate(ctx context.Context, log *slog.Logger) error {
	if err := gooseUp(ctx, goose.DialectSQLite3, d.write); err != nil {
		return sqliteError(err)
	}
	m, err := rivermigrate.New(riversqlite.New(d.write), &rivermigrate.Config{Logger: log})
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return sqliteError(err)
}

func (d *sqliteDriver) begin(ctx context.Context, readOnly bool) (transaction, error) {
	pool := d.write
	if readOnly {
		pool = d.read
	}
	tx, err := pool.BeginTx(ctx, &sql.TxOptions{ReadOnly: readOnly})
	if err != nil {
		return nil, sqliteError(err)
	}
	return sqliteTx{sqliteQuerier{tx}, tx, d.jobs}, nil
}

func (d *sqliteDriver) newRunner(cfg *river.Config) (runner, error) {
	cfg.FetchPollInterval = sqlitePoll
	setDefaultWorkers(cfg, sqliteWorkers)
	return river.NewClient(riversqlite.New(d.write), cfg)
}

func (d *sqliteDriver) exclusive() bool { return true }

func (d *sqliteDriver) stats() Stats {
	return Stats{Transactions: d.writer.transactions.Load(), Commits: d.writer.commits.Load()}
}

func (d *sqliteDriver) checkpoint(ctx context.Context) error { return d.writer.checkpoint(ctx) }

func (d *sqliteDriver) close() error {
	var errs []error
	for _, pool := range []*sql.DB{d.read, d.write} { // the writer last: it checkpoints
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(append(errs, d.lock.Close())...)
}

func (d *sqliteDriver) single() querier { return sqliteQuerier{d.read} }

// sqliteQuerier reads in a transaction or outside of one.
type sqliteQuerier struct {
	from interface {
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
}

type sqliteTx struct {
	sqliteQuerier
	tx   *sql.Tx
	jobs *river.Client[*sql.Tx]
}

func (t sqliteTx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := t.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, sqliteError(err)
	}
	n, err := result.RowsAffected()
	return n, sqliteError(err)
}

func (q sqliteQuerier) query(ctx context.Context, each func(row) error, query string, args ...any) error {
	rows, err := q.from.QueryContext(ctx, query, args...)
	if err != nil {
		return sqliteError(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return sqliteError(err)
		}
	}
	return sqliteError(rows.Err())
}

func (q sqliteQuerier) queryRow(ctx context.Context, query string, args ...any) row {
	return classedRow{q.from.QueryRowContext(ctx, query, args...), sqliteError}
}

func (t sqliteTx) enqueue(ctx context.Context, jobs []river.InsertManyParams) ([]*rivertype.JobInsertResult, error) {
	results, err := t.jobs.InsertManyTx(ctx, t.tx, jobs)
	return results, sqliteError(err)
}

func (t sqliteTx) commit(ctx context.Context, last []statement) error {
	for _, s := range last {
		if _, err := t.exec(ctx, s.query, s.args...); err != nil {
			return err
		}
	}
	return sqliteError(t.tx.Commit())
}

func (t sqliteTx) rollback()              { _ = t.tx.Rollback() }
func (q sqliteQuerier) byteOrder() string { return "" } // SQLite knows no other order
func (t sqliteTx) rowLock(string) string  { return "" } // there is one writer at a time

// serialize has nothing to do: there is one writer at a time.
func (t sqliteTx) serialize(context.Context, string) error { return nil }

// sqliteError gives an error of the driver its class. Its texts name tables and
// columns, never values.
func sqliteError(err error) error {
	if err == nil || backends.Class(err) != nil {
		return err
	}
	if errors.Is(err, sql.ErrNoRows) {
		return backends.ErrNotFound
	}
	class := backends.ErrUnavailable
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		switch e.Code() & 0xff { // extended codes keep the primary one there
		case sqlitecodes.SQLITE_BUSY, sqlitecodes.SQLITE_LOCKED:
			class = errCollision
		case sqlitecodes.SQLITE_CONSTRAINT:
			class = backends.ErrConflict
		}
	}
	return fmt.Errorf("%w: %w", class, err)
}
