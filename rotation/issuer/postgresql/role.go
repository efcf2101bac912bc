package postgresql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/postgresconn"
)

// session is one transaction of a connection.
type session struct{ *pgx.Conn }

// begin makes names mean the server's own, whatever the database's settings say, and
// bounds how long one worker waits for another.
const begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = '10s'"

// within connects, and runs each of the steps in a transaction that is committed before
// the next one. Errors name the server; with ErrNotSent nothing was asked of it.
func (i *Issuer) within(ctx context.Context, steps ...func(context.Context, session) error) error {
	ctx, cancel := context.WithTimeout(ctx, i.timeout)
	defer cancel()
	at := func(err error) error { return fmt.Errorf("at %s: %w", i.server.Place(), err) }
	conn, _, err := i.server.Connect(ctx, postgresconn.Login{User: i.username, Password: i.password, Application: application, Primary: true})
	switch {
	case backends.Retryable(err):
		return at(fmt.Errorf("%w (%w)", err, issuer.ErrNotSent))
	case err != nil:
		return at(err)
	}
	defer postgresconn.Close(ctx, conn) // and with it what is not committed
	for _, step := range steps {
		tx := session{conn}
		if err = tx.run(ctx, begin); err == nil {
			err = step(ctx, tx)
		}
		if err == nil {
			err = tx.commit(ctx)
		}
		if err != nil {
			return at(err)
		}
	}
	return nil
}

// commit is an error, too, where the server rolled back instead: it does that, and
// says so, once any statement has failed.
func (s session) commit(ctx context.Context) error {
	done, err := s.Exec(ctx, "COMMIT", pgx.QueryExecModeSimpleProtocol)
	switch {
	case err != nil:
		return postgresconn.Explain(err)
	case done.String() != "COMMIT":
		return fmt.Errorf("%w: the server rolled the change back", backends.ErrUnavailable)
	}
	return nil
}

// account is a role as it is now.
type account struct {
	oid         int64
	exists      bool
	super       bool
	login       bool
	replication bool
	own         bool // the issuer's own login
	expired     bool // VALID UNTIL is past
	comment     string
	text        string // the comment without our line
	note        *note  // nil: the comment has no such line
}

const accountQuery = `
SELECT r.oid::bigint, r.rolsuper, r.rolcanlogin, r.rolreplication, r.rolname IN (session_user, current_user),
  coalesce(r.rolvaliduntil <= now(), false), coalesce(shobj_description(r.oid, 'pg_authid'), '')
FROM pg_roles r WHERE r.rolname = $1`

// account reads a role. One that is not there is no error; one whose note cannot be
// read is.
func (s session) account(ctx context.Context, role string) (account, error) {
	a := account{exists: true}
	err := s.QueryRow(ctx, accountQuery, role).Scan(&a.oid, &a.super, &a.login, &a.replication, &a.own, &a.expired, &a.comment)
	if errors.Is(err, pgx.ErrNoRows) {
		return account{}, nil
	}
	if err != nil {
		return account{}, postgresconn.Explain(err)
	}
	a.text, a.note, err = split(a.comment)
	return a, err
}

// settable refuses roles whose passwords are none of the issuer's business, or of no use.
func (a account) settable() error {
	if !a.exists {
		return fmt.Errorf("%w: there is no such role: CREATE ROLE … LOGIN makes it", backends.ErrInvalid)
	}
	if err := a.managed(); err != nil {
		return err
	}
	if !a.login {
		return fmt.Errorf("%w: it may not log in: ALTER ROLE … LOGIN permits it", backends.ErrInvalid)
	}
	return nil
}

// managed refuses roles whose passwords are none of the issuer's business.
func (a account) managed() error {
	switch {
	case a.super:
		return fmt.Errorf("%w: it is a superuser, whose password keybroker does not set", backends.ErrInvalid)
	case a.own:
		return fmt.Errorf("%w: it is the role that the issuer itself logs in as: have it rotated by another issuer", backends.ErrInvalid)
	}
	return nil
}

// off tells whether certainly nobody can log in as the role by a password. That it has
// none is seen only by who may read pg_authid.
func (s session) off(ctx context.Context, a account) (bool, error) {
	if !a.login {
		return true, nil
	}
	var readable, none bool
	err := s.QueryRow(ctx, "SELECT has_column_privilege('pg_catalog.pg_authid', 'oid', 'SELECT') AND has_column_privilege('pg_catalog.pg_authid', 'rolpassword', 'SELECT')").Scan(&readable)
	if err == nil && readable {
		err = s.QueryRow(ctx, "SELECT rolpassword IS NULL FROM pg_authid WHERE oid = $1::bigint::oid", a.oid).Scan(&none)
	}
	if err != nil {
		return false, postgresconn.Explain(err)
	}
	return none, nil
}

// change is what becomes of a role.
type change struct {
	nothing  bool
	password string // the verifier; empty: none, so that nobody can log in
	note     note   // without a time: that of the change
}

// locks is the space of advisory locks that are ours: "kb", and then the role's oid.
const locks = int64(0x6b62) << 48

// change reads a role, asks decide what becomes of it, and does that, all in one
// transaction. One that is not committed has had no effect; whether it is cannot be
// told where the answer to the commit is lost. A role without our line that is off
// already needs no change. A new password's note is then settled;
// until it is, the change is not acknowledged.
func (i *Issuer) change(ctx context.Context, role string, decide func(account) (change, error)) error {
	var set *note
	return i.within(ctx, func(ctx context.Context, tx session) error {
		a, err := tx.lock(ctx, role)
		if err != nil {
			return err
		}
		c, err := decide(a)
		if errors.Is(err, errNoLine) {
			if off, offErr := tx.off(ctx, a); off || offErr != nil {
				return offErr
			}
		}
		if err != nil || c.nothing {
			return err
		}
		option := "PASSWORD NULL"
		if c.password != "" {
			option, set = "PASSWORD "+literal(c.password), &c.note
		}
		return tx.alter(ctx, role, a, option, func(now time.Time) note {
			if c.note.At.IsZero() {
				c.note.At = now
			}
			return c.note
		})
	}, func(ctx context.Context, tx session) error {
		if set == nil || !set.Settled.IsZero() {
			return nil
		}
		a, err := tx.lock(ctx, role)
		if err != nil {
			return err
		}
		if !a.note.same(*set) { // somebody else came after us, or has settled it
			return nil
		}
		return tx.alter(ctx, role, a, "", func(now time.Time) note {
			set.Settled = now
			return *set
		})
	})
}

// alter changes a role as it was read, and writes the note that noted returns for the
// server's time. Without an option the role itself is only locked.
func (s session) alter(ctx context.Context, role string, a account, option string, noted func(now time.Time) note) error {
	name := pgx.Identifier{role}.Sanitize()
	if err := s.run(ctx, "ALTER ROLE "+name+" "+option); err != nil {
		return err
	}
	now, err := s.unchanged(ctx, a)
	if err != nil {
		return err
	}
	return s.run(ctx, "COMMENT ON ROLE "+name+" IS "+literal(join(a.text, noted(now))))
}

// lock reads a role once nobody else of ours is about to change it.
func (s session) lock(ctx context.Context, role string) (account, error) {
	if _, err := s.Exec(ctx, "SELECT pg_advisory_xact_lock($2::bigint | oid::bigint) FROM pg_roles WHERE rolname = $1", role, locks); err != nil {
		return account{}, postgresconn.Explain(err)
	}
	return s.account(ctx, role)
}

// unchanged looks at the comment once more, after ALTER ROLE has locked the role
// itself: advisory locks are of one database, and another issuer may use another
// database of the same server. It returns the server's time.
func (s session) unchanged(ctx context.Context, a account) (now time.Time, err error) {
	var comment string
	err = s.QueryRow(ctx, "SELECT coalesce(shobj_description($1::bigint::oid, 'pg_authid'), ''), clock_timestamp()", a.oid).Scan(&comment, &now)
	if err != nil {
		return now, postgresconn.Explain(err)
	}
	if comment != a.comment {
		return now, fmt.Errorf("%w: its comment was changed at the same time", backends.ErrUnavailable)
	}
	return now.UTC(), nil
}

func (s session) run(ctx context.Context, statement string) error {
	if _, err := s.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
		return postgresconn.Explain(err)
	}
	return nil
}

// literal quotes a text: statements that define things take no parameters.
func literal(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
