package store

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"

	"modernc.org/sqlite"
	sqlitecodes "modernc.org/sqlite/lib"
)

// member is what database/sql takes for a connection: a user of the writer's
// one. Its statements outside of a transaction are transactions of their own.
type member struct {
	w    *writer
	in   bool  // a transaction, and so the turn is its own
	lost error // after which SQLite may have given the transaction up
}

// BeginTx implements driver.ConnBeginTx.
func (m *member) BeginTx(ctx context.Context, _ sqldriver.TxOptions) (sqldriver.Tx, error) {
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// Begin implements driver.Conn.
func (m *member) Begin() (sqldriver.Tx, error) {
	return m.BeginTx(context.Background(), sqldriver.TxOptions{})
}

func (m *member) begin(ctx context.Context) error {
	err := m.w.begin(ctx)
	m.in, m.lost = err == nil, nil
	return err
}

// Commit implements driver.Tx.
func (m *member) Commit() error {
	m.in = false
	if m.lost != nil {
		m.w.giveUp()
		return m.lost
	}
	return m.w.keep()
}

// Rollback implements driver.Tx.
func (m *member) Rollback() error {
	m.in = false
	if m.lost != nil {
		m.w.giveUp()
		return nil
	}
	return m.w.undo()
}

// check notes an error after which SQLite may have rolled the transaction back:
// what followed would be committed at once.
func (m *member) check(err error) error {
	e := (*sqlite.Error)(nil)
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlitecodes.SQLITE_CONSTRAINT, sqlitecodes.SQLITE_ERROR:
		default:
			m.lost = err
		}
	}
	return err
}

// ExecContext implements driver.ExecerContext.
func (m *member) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	if m.lost != nil {
		return nil, m.lost
	}
	if m.in {
		result, err := m.w.conn.ExecContext(ctx, query, args)
		return result, m.check(err)
	}
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	result, err := m.w.conn.ExecContext(ctx, query, args)
	return result, m.finish(err)
}

// finish ends the transaction of a single statement that returned err.
func (m *member) finish(err error) error {
	if m.check(err) == nil {
		return m.Commit()
	}
	return errors.Join(err, m.Rollback())
}

// QueryContext implements driver.QueryerContext.
func (m *member) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	if m.lost != nil {
		return nil, m.lost
	}
	if m.in {
		rows, err := m.w.conn.QueryContext(ctx, query, args)
		return rows, m.check(err)
	}
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	rows, err := m.w.conn.QueryContext(ctx, query, args)
	if err != nil {
		return nil, m.finish(err)
	}
	return memberRows{rows, m}, nil
}

// memberRows are those of a query that is a transaction of its own, which ends
// when they are closed.
type memberRows struct {
	sqldriver.Rows
	of *member
}

// Close implements driver.Rows.
func (r memberRows) Close() error { return r.of.finish(r.Rows.Close()) }

// Prepare implements driver.Conn. Statements are kept compiled anyhow.
func (m *member) Prepare(string) (sqldriver.Stmt, error) { return nil, errors.ErrUnsupported }

// ResetSession and IsValid let database/sql keep it after a transaction whose
// context ended.
func (m *member) ResetSession(context.Context) error { return nil }

// IsValid implements driver.Validator.
func (m *member) IsValid() bool { return true }

// Close implements driver.Conn.
func (m *member) Close() error { return nil }
