package store

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// writer shares the one connection on which SQLite is written among any number
// of connections of database/sql, and commits by groups: a commit waits for the
// disk, and those who come meanwhile are committed by the next one together.
//
// One of them has the turn at a time (see turns). It works
// in a savepoint of its own, so that it can be undone alone, and then hands the
// open transaction to the next who waits; the last one, or the one that makes the
// group large or old enough, commits for all. Whoever is done waits for that
// commit: nobody is told of success before it is on the disk. Who comes alone
// commits at once.
//
// What a member reads was written by those before it and may not be committed
// yet. If that is undone after all, since the commit fails or SQLite gives the
// transaction up (a full disk), it is undone for all members; they fail with
// errCollision and may run again.
//
// A member must therefore not wait for what another one does after its commit.
type writer struct {
	connector sqldriver.Connector

	// What follows belongs to whoever has the turn.
	conn  *sqliteConn // nil: to be opened
	group *group      // nil: none is open

	closed bool

	groupAge time.Duration // beyond which the members of a group wait no longer for others

	turn *turns // of one at a time

	transactions, commits atomic.Int64 // see Stats
}

// group is one transaction of SQLite.
type group struct {
	members int // whose savepoints are released
	began   time.Time
	done    chan struct{} // closed when err is final
	err     error
}

// Bounds of a group, beyond which its members wait no longer for others.
const (
	groupMembers = 64
	groupMaxAge  = 20 * time.Millisecond
)

// closeTimeout is how long Close waits for a transaction under way.
const closeTimeout = 10 * time.Second

// errGivenUp tells those whose transaction was lost by somebody else's failure.
var errGivenUp = fmt.Errorf("%w: SQLite gave the common transaction up", errCollision)

var errClosed = fmt.Errorf("%w: the database is closed", backends.ErrUnavailable)

// leave gives the turn up; the open group is handed on with it or committed.
func (w *writer) leave() {
	if g := w.group; g != nil {
		if g.members < groupMembers && time.Since(g.began) < w.groupAge && w.turn.pass() {
			return
		}
		w.commit()
	}
	w.turn.leave()
}

// commit ends the open group.
func (w *writer) commit() {
	if w.group.members == 0 {
		w.end(w.conn.do("ROLLBACK"))
		return
	}
	w.end(w.conn.do("COMMIT"))
}

// end tells the members of the open group how it ended. After an error nobody
// knows how the connection stands: the next one gets another.
func (w *writer) end(err error) {
	g := w.group
	w.group = nil
	if err != nil {
		_ = w.conn.Close() // which rolls back what was not committed
		w.conn = nil
	} else if g.members > 0 {
		w.transactions.Add(int64(g.members))
		w.commits.Add(1)
	}
	g.err = err
	close(g.done)
}

// begin takes the turn and sets a savepoint in the open group.
func (w *writer) begin(ctx context.Context) error {
	if err := w.turn.take(ctx); err != nil {
		return err
	}
	if err := w.beginGroup(ctx); err != nil {
		w.leave()
		return err
	}
	if err := w.conn.do("SAVEPOINT member"); err != nil {
		w.giveUp()
		return err
	}
	return nil
}

// open makes sure that there is a connection.
func (w *writer) open(ctx context.Context) (err error) {
	if w.closed {
		return errClosed
	}
	if w.conn == nil {
		w.conn, err = openSQLiteConn(ctx, w.connector)
	}
	return err
}

func (w *writer) beginGroup(ctx context.Context) error {
	if w.group != nil {
		return nil
	}
	if err := w.open(ctx); err != nil {
		return err
	}
	if err := w.conn.do("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	w.group = &group{began: time.Now(), done: make(chan struct{})}
	return nil
}

// keep makes what was done since begin part of the group and returns when that
// is on the disk, or lost.
func (w *writer) keep() error {
	g := w.group
	if err := w.conn.do("RELEASE member"); err != nil {
		w.giveUp()
		return err
	}
	g.members++
	w.leave()
	<-g.done
	return g.err
}

// undo takes back what was done since begin.
func (w *writer) undo() error {
	err := w.conn.do("ROLLBACK TO member")
	if err == nil {
		err = w.conn.do("RELEASE member")
	}
	if err != nil {
		w.giveUp()
		return err
	}
	w.leave()
	return nil
}

// giveUp ends the group of a transaction that SQLite has given up.
func (w *writer) giveUp() {
	w.end(errGivenUp)
	w.leave()
}

// checkpoint copies the log into the database and cuts it to nothing. All writers
// wait meanwhile, so it waits only a moment for readers.
func (w *writer) checkpoint(ctx context.Context) error {
	if err := w.turn.take(ctx); err != nil {
		return err
	}
	defer w.leave()
	if w.group != nil {
		w.commit()
	}
	if err := w.open(ctx); err != nil {
		return sqliteError(err)
	}
	if err := w.conn.do("PRAGMA busy_timeout(200)"); err != nil { // ms
		return sqliteError(err)
	}
	busy, err := w.conn.number("PRAGMA wal_checkpoint(TRUNCATE)")
	if err == nil && busy != 0 {
		err = fmt.Errorf("%w: somebody reads", backends.ErrUnavailable)
	}
	return errors.Join(sqliteError(err), sqliteError(w.conn.do("PRAGMA "+sqliteBusy)))
}

// Connect implements driver.Connector: the connection is one in name only.
func (w *writer) Connect(context.Context) (sqldriver.Conn, error) { return &member{w: w}, nil }

// Driver implements driver.Connector.
func (w *writer) Driver() sqldriver.Driver { return w.connector.Driver() }

// Close implements io.Closer, for database/sql. It waits for whoever is at work.
func (w *writer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := w.turn.take(ctx); err != nil {
		return fmt.Errorf("waiting for the last transaction: %w", err)
	}
	defer w.leave()
	if w.group != nil {
		w.commit()
	}
	w.closed = true
	if w.conn == nil {
		return nil
	}
	err := w.conn.Close()
	w.conn = nil
	return err
}
