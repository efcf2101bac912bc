package store

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
)

// maxStatements bounds the statements that a connection keeps compiled. Ours and
// River's are some 150; the rest is room for lists with filters.
const maxStatements = 400

// sqliteConn is a connection to SQLite that compiles each statement once:
// compiling costs more than running. Its user is whoever holds it, one at a time.
//
// A statement is not cut off when its context ends, which is looked at before:
// SQLite would roll the whole transaction back, and with it what others have
// done in it (see writer), and to watch a context takes a goroutine each.
type sqliteConn struct {
	sqldriver.Conn
	statements map[string]*compiled
}

type compiled struct {
	stmt sqldriver.Stmt
	busy bool // its rows are being read
}

func openSQLiteConn(ctx context.Context, from sqldriver.Connector) (*sqliteConn, error) {
	conn, err := from.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &sqliteConn{Conn: conn, statements: map[string]*compiled{}}, nil
}

// statement returns the compiled statement of a query, a new one if that is busy.
func (c *sqliteConn) statement(query string) (s *compiled, kept bool, err error) {
	have, ok := c.statements[query]
	if ok && !have.busy {
		return have, true, nil
	}
	stmt, err := c.Prepare(query)
	if err != nil {
		return nil, false, err
	}
	s = &compiled{stmt: stmt}
	if ok {
		return s, false, nil
	}
	if len(c.statements) >= maxStatements {
		c.forget()
	}
	c.statements[query] = s
	return s, true, nil
}

// forget drops what is not in use.
func (c *sqliteConn) forget() {
	for query, s := range c.statements {
		if !s.busy {
			_ = s.stmt.Close() // repeats the error that its last use returned
			delete(c.statements, query)
		}
	}
}

// ExecContext implements driver.ExecerContext.
func (c *sqliteConn) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, kept, err := c.statement(query)
	if err != nil {
		return nil, err
	}
	if !kept {
		defer s.stmt.Close()
	}
	return s.stmt.(sqldriver.StmtExecContext).ExecContext(context.Background(), args)
}

// QueryContext implements driver.QueryerContext.
func (c *sqliteConn) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, kept, err := c.statement(query)
	if err != nil {
		return nil, err
	}
	rows, err := s.stmt.(sqldriver.StmtQueryContext).QueryContext(context.Background(), args)
	if err != nil {
		if !kept {
			err = errors.Join(err, s.stmt.Close())
		}
		return nil, err
	}
	s.busy = true
	return &statementRows{Rows: rows, of: s, kept: kept}, nil
}

// statementRows gives its statement back when it is closed.
type statementRows struct {
	sqldriver.Rows
	of   *compiled
	kept bool
}

// Close implements driver.Rows.
func (r *statementRows) Close() error {
	err := r.Rows.Close()
	r.of.busy = false
	if !r.kept {
		err = errors.Join(err, r.of.stmt.Close())
	}
	return err
}

// do runs a statement that has neither arguments nor a result.
func (c *sqliteConn) do(query string) error {
	_, err := c.ExecContext(context.Background(), query, nil)
	return err
}

// number runs a statement and returns the first column of its first row.
func (c *sqliteConn) number(query string) (n int64, err error) {
	rows, err := c.QueryContext(context.Background(), query, nil)
	if err != nil {
		return 0, err
	}
	values := make([]sqldriver.Value, len(rows.Columns()))
	if err = rows.Next(values); err == nil {
		n, _ = values[0].(int64)
	}
	return n, errors.Join(err, rows.Close())
}

// BeginTx implements driver.ConnBeginTx, for readers.
func (c *sqliteConn) BeginTx(ctx context.Context, _ sqldriver.TxOptions) (sqldriver.Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.do("BEGIN"); err != nil {
		return nil, err
	}
	return reading{c}, nil
}

// reading is a transaction that has nothing to keep.
type reading struct{ conn *sqliteConn }

func (r reading) Commit() error   { return r.conn.do("COMMIT") }
func (r reading) Rollback() error { return r.conn.do("ROLLBACK") }

// ResetSession and IsValid keep database/sql from dropping a connection after a
// transaction whose context ended.
func (c *sqliteConn) ResetSession(context.Context) error { return nil }

// IsValid implements driver.Validator.
func (c *sqliteConn) IsValid() bool { return true }

// Close implements driver.Conn.
func (c *sqliteConn) Close() error {
	for _, s := range c.statements {
		_ = s.stmt.Close() // repeats the error that its last use returned
	}
	c.statements = nil
	return c.Conn.Close()
}

// readers opens connections that only read.
type readers struct{ sqldriver.Connector }

// Connect implements driver.Connector.
func (r readers) Connect(ctx context.Context) (sqldriver.Conn, error) {
	return openSQLiteConn(ctx, r.Connector)
}
