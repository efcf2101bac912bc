package postgresql

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/postgresconn"
)

// rights are what the issuer's own role may do.
type rights struct {
	version           int // of the server: 150003
	super, createRole bool
	stats, signal     bool
	statementsLogged  string
}

const rightsQuery = `
SELECT current_setting('server_version_num')::int, r.rolsuper, r.rolcreaterole,
  pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE'), pg_has_role(r.oid, 'pg_signal_backend', 'USAGE'),
  current_setting('log_statement')
FROM pg_roles r WHERE r.rolname = current_user`

// Check implements issuer.Checker. It reads only.
func (i *Issuer) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	var found []issuer.Finding
	connects := fmt.Sprintf("connects to %s as %s by SCRAM-SHA-256", i.server.Place(), i.username)
	err := i.within(ctx, func(ctx context.Context, tx session) error {
		var own rights
		err := tx.QueryRow(ctx, rightsQuery).Scan(&own.version, &own.super, &own.createRole, &own.stats, &own.signal, &own.statementsLogged)
		if err != nil {
			return postgresconn.Explain(err)
		}
		found = append(found, issuer.Finding{What: connects})
		found = append(found, i.ownRights(own)...)
		for _, role := range slots(sub.Settings) {
			more, err := i.checkRole(ctx, tx, own, sub, role)
			if err != nil {
				return err
			}
			found = append(found, more...)
		}
		return nil
	})
	if err != nil {
		found = append(found, issuer.Finding{What: connects, Problem: err.Error(), Mend: mend(err)})
	}
	return found
}

func mend(err error) string {
	switch postgresconn.Code(err) {
	case postgresconn.InvalidPassword:
		return "give the issuer's block the role's present password, or make the role"
	case postgresconn.InvalidLogin:
		return "give the role LOGIN, and pg_hba.conf an entry for it with scram-sha-256"
	}
	if backends.Retryable(err) {
		return "see that the server is up and can be reached from here"
	}
	return "correct the issuer's block"
}

func (i *Issuer) ownRights(own rights) []issuer.Finding {
	f := finder{}
	f.add("is no superuser, who could do anything", !own.super, fmt.Sprintf("%s is a superuser", i.username),
		"use a role of its own: CREATE ROLE keybroker LOGIN CREATEROLE; GRANT pg_read_all_stats, pg_signal_backend TO keybroker")
	f.add("may change other roles", own.createRole || own.super, fmt.Sprintf("%s lacks CREATEROLE", i.username), fmt.Sprintf("ALTER ROLE %s CREATEROLE", i.username))
	f.add("may see when sessions began and what they do", own.stats, fmt.Sprintf("%s lacks pg_read_all_stats", i.username), fmt.Sprintf("GRANT pg_read_all_stats TO %s", i.username))
	f.add("may end sessions", own.signal, fmt.Sprintf("%s lacks pg_signal_backend", i.username), fmt.Sprintf("GRANT pg_signal_backend TO %s", i.username))
	if own.statementsLogged != "none" {
		f = append(f, issuer.Finding{What: fmt.Sprintf("log_statement is %q: the server's log shows a SCRAM verifier at each rotation, from which nobody gets the password", own.statementsLogged)})
	}
	return f
}

// finder gathers findings.
type finder []issuer.Finding

func (f *finder) add(what string, good bool, problem, mend string) {
	if good {
		problem, mend = "", ""
	}
	*f = append(*f, issuer.Finding{What: what, Problem: problem, Mend: mend})
}

func (i *Issuer) checkRole(ctx context.Context, tx session, own rights, sub issuer.Subject, role string) ([]issuer.Finding, error) {
	a, noteErr := tx.account(ctx, role)
	if noteErr != nil && !a.exists {
		return nil, noteErr
	}
	f := finder{}
	name := "role " + role
	if err := a.settable(); err != nil {
		f.add(name+" can be managed", false, err.Error(), "mend the role, or name another in the secret's settings")
		return f, nil
	}
	f.add(name+" is there and can log in", !a.expired, "its VALID UNTIL is past: no password of it is accepted", fmt.Sprintf("ALTER ROLE %s VALID UNTIL 'infinity'", role))
	if own.version >= 160000 && !own.super {
		var admin bool
		if err := tx.QueryRow(ctx, "SELECT pg_has_role($1::bigint::oid, 'MEMBER WITH ADMIN OPTION')", a.oid).Scan(&admin); err != nil {
			return nil, postgresconn.Explain(err)
		}
		f.add("may change "+name, admin, fmt.Sprintf("%s lacks the ADMIN OPTION on %s", i.username, role), fmt.Sprintf("GRANT %s TO %s WITH ADMIN OPTION", role, i.username))
	} else if a.replication && !own.super {
		f.add("may change "+name, false, "it is a REPLICATION role, which before PostgreSQL 16 a superuser alone changes", "use a role without REPLICATION, or a newer server")
	}
	if noteErr == nil {
		noteErr = a.note.mine(sub.Ref)
	}
	f.add("the comment of "+name+" can hold keybroker's line", noteErr == nil, fmt.Sprint(noteErr), "take keybroker's line out of the comment (COMMENT ON ROLE), if the other secret is no more")
	return f, nil
}
