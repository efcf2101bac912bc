package postgresql_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/postgresql"
)

// request is for the version's number into a slot of the subject.
func (s *site) request(i *postgresql.Issuer, sub issuer.Subject, version, slot int) issuer.Request {
	s.t.Helper()
	req := issuer.Request{Subject: sub, Tag: fmt.Sprintf("kb-test-%d", version), Attempt: 1, Version: version, Slot: i.TraitsFor(sub.Settings).Slots[slot]}
	value, err := i.Prepare(req)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Prepared = value
	return req
}

func (s *site) issue(i *postgresql.Issuer, req issuer.Request) issuer.Credential {
	s.t.Helper()
	cred, err := i.Issue(s.t.Context(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	return cred
}

func (s *site) comment(role string) string {
	s.t.Helper()
	return strings.Join(s.Texts(s.t, "SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = $1", role), "")
}

func (s *site) commentOn(role, text string) {
	s.t.Helper()
	s.Exec(s.t, "COMMENT ON ROLE "+pgx.Identifier{role}.Sanitize()+" IS '"+strings.ReplaceAll(text, "'", "''")+"'")
}

// A person's comment stands as it is above the broker's line.
func TestCommentsOfPeopleAreKept(t *testing.T) {
	s := newSite(t)
	i := s.issuer("", s.admin, s.password)
	sub := s.subject("orders", 1)
	req := s.request(i, sub, 1, 0)
	const text = `Orders' app: see C:\wiki
owner: "team growth"`
	s.commentOn(req.Slot, text)
	cred := s.issue(i, req)
	if got := s.comment(req.Slot); !strings.HasPrefix(got, text+"\nkeybroker: {") || strings.Contains(got, cred.Value.Reveal()["password"]) {
		t.Errorf("the comment is %q", got)
	}
	if err := i.Revoke(t.Context(), sub, cred.Handle); err != nil {
		t.Fatal(err)
	}
	if got := s.comment(req.Slot); !strings.HasPrefix(got, text+"\nkeybroker: {") || strings.Contains(got, cred.Handle["tag"]+`","at`) {
		t.Errorf("after the revocation the comment is %q", got)
	}
}

// Roles that are none of the issuer's business, or of the secret's, stay as they are.
func TestRefusedRoles(t *testing.T) {
	s := newSite(t)
	i := s.issuer("", s.admin, s.password)
	super, superPassword := s.Role(t, "super", "LOGIN SUPERUSER")
	group, _ := s.Role(t, "nologin", "NOLOGIN")
	taken := s.subject("taken", 1)
	s.issue(i, s.request(i, taken, 1, 0))
	spoiled := s.subject("spoiled", 1)
	s.commentOn(i.TraitsFor(spoiled.Settings).Slots[0], `keybroker: {"secret"`)
	for what, tt := range map[string]struct {
		settings json.RawMessage
		class    error
	}{
		"a superuser":              {roleSettings(super), backends.ErrInvalid},
		"the issuer's own login":   {roleSettings(s.admin), backends.ErrInvalid},
		"a role without LOGIN":     {roleSettings(group), backends.ErrInvalid},
		"a role of another secret": {taken.Settings, backends.ErrInvalid},
		"a role that is not there": {roleSettings("nobody"), backends.ErrInvalid},
		"an unreadable note":       {spoiled.Settings, backends.ErrConflict},
	} {
		t.Run(what, func(t *testing.T) {
			sub := issuer.Subject{Ref: backends.Ref{Tenant: "acme", Name: "db/thief"}, Settings: tt.settings}
			if _, err := i.Issue(t.Context(), s.request(i, sub, 9, 0)); !errors.Is(err, tt.class) {
				t.Errorf("issuing: %v", err)
			}
			slot := i.TraitsFor(tt.settings).Slots[0]
			_ = i.Revoke(t.Context(), sub, issuer.Handle{"role": slot, "tag": "imported"})
			_ = i.EndSessions(t.Context(), sub, issuer.Handle{"role": slot, "tag": "imported"})
			found := i.Check(t.Context(), sub)
			if last := found[len(found)-1]; last.Problem == "" || last.Mend == "" || strings.Contains(fmt.Sprint(found), s.password) {
				t.Errorf("a check finds %+v", found)
			}
		})
	}
	for role, password := range map[string]string{super: superPassword, s.admin: s.password} {
		if err := s.Login(t.Context(), role, password); err != nil {
			t.Errorf("%s cannot log in any more: %v", role, err)
		}
	}
	if len(s.live()) != 1 {
		t.Errorf("live are %v, want the role of the other secret alone", s.live())
	}
}

func roleSettings(role string) json.RawMessage {
	b, _ := json.Marshal(map[string]string{"role": role})
	return b
}

// A role that another secret once held, and whose credential is revoked, is free.
func TestRoleOfASecretThatIsGone(t *testing.T) {
	s := newSite(t)
	i := s.issuer("", s.admin, s.password)
	sub := s.subject("old", 1)
	cred := s.issue(i, s.request(i, sub, 7, 0))
	if err := i.Revoke(t.Context(), sub, cred.Handle); err != nil {
		t.Fatal(err)
	}
	sub.Ref.Name = "db/new"
	if next := s.issue(i, s.request(i, sub, 1, 0)); !s.works(next.Value) {
		t.Error("the first version of the new secret does not work")
	}
}

// A password that was there before the broker: it is revoked by the tag "imported",
// put back as it was, and left alone once another is set.
func TestImportedPassword(t *testing.T) {
	s := newSite(t)
	i := s.issuer("", s.admin, s.password)
	sub := s.subject("imported", 1)
	role := i.TraitsFor(sub.Settings).Slots[0]
	const password = "pässwörd\u00a01" // SASLprep makes a space of the one that does not break
	s.Exec(t, "ALTER ROLE "+role+" PASSWORD '"+password+"'")
	imported := backends.NewValue(map[string]string{"username": role, "password": password})
	handle := issuer.Handle{"role": role, "tag": "imported"}

	if !s.works(imported) {
		t.Fatal("the imported password does not work")
	}

	next := s.request(i, sub, 2, 0)
	s.issue(i, next)
	if s.works(imported) || !s.works(next.Prepared) {
		t.Error("the imported password works, or the next does not")
	}
	if err := i.Revoke(t.Context(), sub, handle); err != nil || !s.works(next.Prepared) {
		t.Errorf("revoking what is replaced: %v", err)
	}
	old := issuer.Request{Subject: sub, Version: 1, Prepared: imported}
	if err := i.PutBack(t.Context(), old, handle, 2); err != nil || !s.works(imported) || s.works(next.Prepared) {
		t.Errorf("putting back: %v", err)
	}
	for range 2 {
		if err := i.Revoke(t.Context(), sub, handle); err != nil || s.works(imported) {
			t.Errorf("revoking: %v", err)
		}
	}

	fresh := s.subject("untouched", 1)
	role = i.TraitsFor(fresh.Settings).Slots[0]
	s.Exec(t, "ALTER ROLE "+role+" PASSWORD 'canary-untouched'")
	untouched := backends.NewValue(map[string]string{"username": role, "password": "canary-untouched"})
	if err := i.Revoke(t.Context(), fresh, issuer.Handle{"role": role, "tag": "kb-lost-1"}); !errors.Is(err, backends.ErrConflict) || !s.works(untouched) {
		t.Errorf("revoking by a tag that no comment knows: %v", err)
	}
	if err := i.Revoke(t.Context(), fresh, issuer.Handle{"role": role}); err != nil || s.works(untouched) {
		t.Errorf("revoking by the role alone: %v", err)
	}
}

// Where our line was taken out of the comment, what nobody can log in by is turned off:
// a role without LOGIN, and one without a password, where the issuer may see that.
func TestRevokingWithoutALine(t *testing.T) {
	s := newSite(t)
	i := s.issuer("", s.admin, s.password)
	sub := s.subject("lineless", 1)
	cred := s.issue(i, s.request(i, sub, 1, 0))
	role, open := cred.Handle["role"], s.session(cred.Value)
	s.Exec(t, "COMMENT ON ROLE "+role+" IS NULL")
	if err := i.EndSessions(t.Context(), sub, cred.Handle); !errors.Is(err, backends.ErrConflict) || !open() {
		t.Errorf("ending sessions that may be another's: %v", err)
	}
	revoke := func(what string, want error) {
		t.Helper()
		if err := i.Revoke(t.Context(), sub, cred.Handle); !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), "retirement done") {
			t.Errorf("%s: %v", what, err)
		}
	}
	revoke("it may have another's password", backends.ErrConflict)
	s.Exec(t, "ALTER ROLE "+role+" NOLOGIN")
	revoke("it cannot log in", nil)
	s.Exec(t, "ALTER ROLE "+role+" LOGIN PASSWORD NULL")
	revoke("it has no password, which the issuer cannot see", backends.ErrConflict)
	s.Exec(t, "GRANT SELECT ON pg_authid TO "+s.admin)
	revoke("it has no password", nil)
	if err := i.EndSessions(t.Context(), sub, cred.Handle); err != nil || open() {
		t.Errorf("ending its sessions: %v", err)
	}
	s.Exec(t, "ALTER ROLE "+role+" PASSWORD 'canary-by-hand'")
	revoke("it has one that a person set", backends.ErrConflict)
	if !s.works(backends.NewValue(map[string]string{"username": role, "password": "canary-by-hand"})) {
		t.Error("the person's password was taken away")
	}
}

// In place, only sessions that began by the old password are ended; what was put
// back keeps the ones that it had.
func TestSessionsInPlace(t *testing.T) {
	s := newSite(t)
	i := s.issuer("", s.admin, s.password)
	sub := s.subject("sessions", 1)
	first := s.request(i, sub, 1, 0)
	one := s.issue(i, first)
	before := s.session(one.Value)
	two := s.issue(i, s.request(i, sub, 2, 0))
	if err := i.EndSessions(t.Context(), sub, two.Handle); !errors.Is(err, backends.ErrConflict) || !before() {
		t.Errorf("ending sessions of what is not revoked: %v", err)
	}
	after := s.session(two.Value)
	if err := i.EndSessions(t.Context(), sub, one.Handle); err != nil {
		t.Fatal(err)
	}
	if before() || !after() {
		t.Error("the old session goes on, or the new one was ended")
	}
	if err := i.PutBack(t.Context(), first, one.Handle, 2); err != nil {
		t.Fatal(err)
	}
	again := s.session(one.Value)
	if err := i.EndSessions(t.Context(), sub, two.Handle); err != nil {
		t.Fatal(err)
	}
	if after() || !again() {
		t.Error("the session of what was put back from goes on, or that of what was put back was ended")
	}
	if use, err := i.LastUsed(t.Context(), sub, one.Handle); err != nil || use.Where != "1 open sessions" && use.Where != "1 open session" {
		t.Errorf("the last use is %+v, %v", use, err)
	}
}

// Until the change is committed sessions begin by the old password, however long that
// takes: they end with it.
func TestCommitThatIsHeldUp(t *testing.T) {
	s := newSite(t)
	i := s.issuer("", s.admin, s.password)
	sub := s.subject("heldup", 1)
	one := s.issue(i, s.request(i, sub, 1, 0))
	role := one.Handle["role"]
	holder, err := pgx.Connect(t.Context(), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close(context.Background()) }()
	comment := s.comment(role)
	if _, err := holder.Exec(t.Context(), "BEGIN; COMMENT ON ROLE "+role+" IS '"+comment+"'"); err != nil {
		t.Fatal(err)
	}
	next, done := s.request(i, sub, 2, 0), make(chan error, 1)
	go func() { _, err := i.Issue(context.Background(), next); done <- err }()
	for deadline := time.Now().Add(20 * time.Second); len(s.Texts(t, "SELECT pid::text FROM pg_stat_activity WHERE application_name = 'keybroker' AND wait_event_type = 'Lock' AND usename = $1", s.admin)) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the change is not held up")
		}
	}
	late := s.session(one.Value)
	if _, err := holder.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	after := s.session(next.Prepared)
	for range 2 {
		if err := i.EndSessions(t.Context(), sub, one.Handle); err != nil || late() || !after() {
			t.Errorf("ending the old sessions: %v; one that began while the change was held up: %t, one by the new password: %t", err, late(), after())
		}
	}
}

// Two issuers on two databases of one server, whose advisory locks do not see each
// other, never both win.
func TestTwoDatabasesOfOneServer(t *testing.T) {
	one := newSite(t)
	other := &site{Server: postgresserver.StartTCP(t), t: t, admin: one.admin, password: one.password}
	a, b := one.issuer("", one.admin, one.password), other.issuer("", one.admin, one.password)
	sub := one.subject("contended", 1)
	for round := range 5 {
		older, newer := one.request(a, sub, 2*round+1, 0), one.request(a, sub, 2*round+2, 0)
		done := make(chan error)
		go func() { _, err := a.Issue(context.Background(), older); done <- err }()
		_, err := b.Issue(t.Context(), newer)
		for errors.Is(err, backends.ErrUnavailable) {
			_, err = b.Issue(t.Context(), newer)
		}
		if err != nil {
			t.Fatalf("the newer one: %v", err)
		}
		if err := <-done; err != nil && !errors.Is(err, backends.ErrConflict) && !errors.Is(err, backends.ErrUnavailable) {
			t.Fatalf("the older one: %v", err)
		}
		if !one.works(newer.Prepared) || one.works(older.Prepared) {
			t.Fatalf("round %d: the older one won", round)
		}
	}
}

// Neither the password nor what proves it is in the server's log, also where all
// statements are.
func TestServerLogHoldsNoPassword(t *testing.T) {
	s := newSite(t)
	s.Exec(t, "ALTER ROLE "+s.admin+" SET log_statement = 'all'")
	i := s.issuer("", s.admin, s.password)
	sub := s.subject("logged", 1)
	cred := s.issue(i, s.request(i, sub, 1, 0))
	log := s.Log(t)
	if !strings.Contains(log, "COMMENT ON ROLE") || strings.Contains(log, cred.Value.Reveal()["password"]) || strings.Contains(log, s.password) {
		t.Error("the log has no statements in it, or a password")
	}
	if text := fmt.Sprint(i.Check(t.Context(), sub)); !strings.Contains(text, `log_statement is "all"`) {
		t.Errorf("a check says nothing of it: %s", text)
	}
}

// Names that need quoting, and databases whose settings would redirect names.
func TestHostileNames(t *testing.T) {
	s := newSite(t)
	s.Exec(t, "ALTER DATABASE "+s.Database+" SET search_path = public, pg_catalog")
	s.Exec(t, "ALTER DATABASE "+s.Database+" SET default_transaction_read_only = on")
	s.Exec(t, "SET transaction_read_only = off; CREATE FUNCTION public.shobj_description(oid, name) RETURNS text LANGUAGE sql AS $$ SELECT 'hijacked' $$")
	i := s.issuer("", s.admin, s.password)
	const name = `O'Hara "x"; DROP ROLE y\`
	s.Exec(t, "SET transaction_read_only = off; CREATE ROLE "+pgx.Identifier{name}.Sanitize()+" LOGIN")
	s.managed = append(s.managed, name)
	sub := issuer.Subject{Ref: backends.Ref{Tenant: "acme", Name: "db/odd"}, Settings: roleSettings(name)}
	cred := s.issue(i, s.request(i, sub, 1, 0))
	if err := s.Login(t.Context(), name, cred.Value.Reveal()["password"]); err != nil {
		t.Errorf("logging in: %v", err)
	}
	if got := s.live(); len(got) != 1 || got[0] != "kb-test-1" {
		t.Errorf("live are %q", got)
	}
}
