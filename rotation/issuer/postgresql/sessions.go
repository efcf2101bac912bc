package postgresql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/postgresconn"
)

// probing is the application_name of rotation/probe/postgresqlprobe, which is no use
// of a credential.
const probing = "keybroker-probe"

// opened are the sessions of a role that began in a time. To whom a session belongs
// is seen by everybody, when it began is not.
const opened = `
FROM pg_stat_activity
WHERE usesysid = $1::bigint::oid AND pid <> pg_backend_pid()
  AND (backend_start IS NULL OR ($2::timestamptz IS NULL OR backend_start >= $2) AND ($3::timestamptz IS NULL OR backend_start < $3))`

// EndSessions implements issuer.SessionEnder: it terminates the sessions that began
// by the credential, and waits until they are gone. Where the role holds none any
// more, all of its sessions are. ErrConflict if the role still holds the credential.
func (i *Issuer) EndSessions(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	err := i.within(ctx, func(ctx context.Context, tx session) error {
		a, from, until, err := tx.span(ctx, sub, h)
		if err != nil || !a.exists {
			return err
		}
		if a.note == nil {
			if off, err := tx.off(ctx, a); err != nil || off {
				return errors.Join(err, tx.terminate(ctx, a.oid, nil, nil))
			}
		}
		if a.note == nil || a.note.holds(tagOf(h)) {
			return fmt.Errorf("%w: the credential is not revoked yet", backends.ErrConflict)
		}
		if a.note.Version == 0 {
			from, until = nil, nil
		}
		return tx.terminate(ctx, a.oid, from, until)
	})
	if err != nil {
		return fmt.Errorf("ending the sessions of role %s: %w", h[Role], err)
	}
	return nil
}

// span reads a role, and in which time the sessions of one of its credentials began.
func (s session) span(ctx context.Context, sub issuer.Subject, h issuer.Handle) (a account, from, until *time.Time, err error) {
	a, err = s.account(ctx, h[Role])
	if err != nil || !a.exists {
		return a, nil, nil, err
	}
	if !slices.Contains(slots(sub.Settings), h[Role]) || a.own || a.super {
		return a, nil, nil, fmt.Errorf("%w: the secret's settings do not name it, or its password is not the issuer's to set", backends.ErrInvalid)
	}
	if err := a.note.mine(sub.Ref); err != nil {
		return a, nil, nil, err
	}
	f, u, _ := a.note.sessions(tagOf(h))
	return a, bound(f), bound(u), nil
}

func bound(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

const (
	patience = 10 * time.Second // for sessions to end: a busy one looks up now and then
	glance   = 20 * time.Millisecond
)

// terminate ends sessions. One whose beginning is hidden from us is an error, where
// that decides.
func (s session) terminate(ctx context.Context, oid int64, from, until *time.Time) error {
	var hidden int
	if err := s.QueryRow(ctx, "SELECT count(*) FILTER (WHERE backend_start IS NULL)"+opened, oid, from, until).Scan(&hidden); err != nil {
		return postgresconn.Explain(err)
	}
	if hidden > 0 && (from != nil || until != nil) {
		return fmt.Errorf("%w: when its sessions began is hidden from the issuer's role: GRANT pg_read_all_stats permits it", backends.ErrDenied)
	}
	if _, err := s.Exec(ctx, "SELECT count(pg_terminate_backend(pid))"+opened, oid, from, until); err != nil {
		return postgresconn.Explain(err)
	}
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		left, err := s.left(ctx, oid, from, until)
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return postgresconn.Explain(ctx.Err())
		case <-end.C:
			return fmt.Errorf("%w: %d of its sessions do not end", backends.ErrUnavailable, left)
		case <-time.After(glance):
		}
	}
}

// left counts sessions anew: within a transaction the server shows them as they
// were at first.
func (s session) left(ctx context.Context, oid int64, from, until *time.Time) (n int, err error) {
	if _, err = s.Exec(ctx, "SELECT pg_stat_clear_snapshot()"); err == nil {
		err = s.QueryRow(ctx, "SELECT count(*)"+opened, oid, from, until).Scan(&n)
	}
	if err != nil {
		return 0, postgresconn.Explain(err)
	}
	return n, nil
}

// LastUsed implements issuer.UseReporter: a server knows only of the sessions that
// are open. Those of probes do not count.
func (i *Issuer) LastUsed(ctx context.Context, sub issuer.Subject, h issuer.Handle) (use issuer.Use, err error) {
	err = i.within(ctx, func(ctx context.Context, tx session) error {
		a, from, until, err := tx.span(ctx, sub, h)
		if err != nil || !a.exists {
			return err
		}
		if _, _, known := a.note.sessions(tagOf(h)); !known {
			return nil
		}
		var open, hidden int
		var at *time.Time
		err = tx.QueryRow(ctx, "SELECT count(*), count(*) FILTER (WHERE backend_start IS NULL), max(greatest(backend_start, query_start, state_change))"+
			opened+" AND application_name <> $4", a.oid, from, until, probing).Scan(&open, &hidden, &at)
		switch {
		case err != nil:
			return postgresconn.Explain(err)
		case hidden > 0:
			return fmt.Errorf("%w: what its sessions do is hidden from the issuer's role: GRANT pg_read_all_stats permits it", backends.ErrDenied)
		case open > 0 && at != nil:
			use = issuer.Use{At: at.UTC(), Where: fmt.Sprintf("%d open sessions", open)}
		}
		return nil
	})
	if err != nil {
		return issuer.Use{}, fmt.Errorf("looking when role %s was last used: %w", h[Role], err)
	}
	return use, nil
}
