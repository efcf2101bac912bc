package postgresql_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
	"github.com/keybroker/keybroker/rotation/issuer/postgresql"
	"github.com/keybroker/keybroker/rotation/postgresconn"
)

const rights = "LOGIN CREATEROLE IN ROLE pg_read_all_stats, pg_signal_backend"

// site is a server with an issuer, and roles whose passwords it sets.
type site struct {
	*postgresserver.Server
	t               *testing.T
	admin, password string
	managed         []string
}

func newSite(t *testing.T) *site {
	s := &site{Server: postgresserver.StartTCP(t), t: t}
	s.admin, s.password = s.Role(t, "keybroker", rights)
	return s
}

// config is an issuer's block; its server is at another address if one is given.
func (s *site) config(address, username, password string) postgresql.Config {
	if address == "" {
		address = s.Address
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		s.t.Fatal(err)
	}
	number, _ := strconv.Atoi(port)
	return postgresql.Config{
		Conn:     postgresconn.Config{Host: host, Port: number, Database: s.Database, SSLMode: "disable", AllowPrivateNetwork: true},
		Username: username, Password: backends.SecretString(password),
	}
}

func (s *site) issuer(address, username, password string) *postgresql.Issuer {
	s.t.Helper()
	i, err := postgresql.New(s.config(address, username, password))
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

// subject is a secret with n fresh roles.
func (s *site) subject(name string, n int) issuer.Subject {
	s.t.Helper()
	roles := make([]string, n)
	for i := range roles {
		roles[i], _ = s.Role(s.t, name+string(rune('a'+i)), "LOGIN")
		s.Exec(s.t, "ALTER ROLE "+roles[i]+" PASSWORD NULL")
		s.managed = append(s.managed, roles[i])
	}
	settings, _ := json.Marshal(map[string]any{"roles": roles})
	if n == 1 {
		settings, _ = json.Marshal(map[string]any{"role": roles[0]})
	}
	return issuer.Subject{Ref: backends.Ref{Tenant: "acme", Name: "db/" + name}, Settings: settings}
}

// live are the tags of the roles that have a password, by what the server itself
// says of it and their comments.
func (s *site) live() []string {
	tags := []string{}
	for _, comment := range s.Texts(s.t, `SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_authid'), 'no comment') FROM pg_authid
		WHERE rolname = ANY($1) AND rolpassword IS NOT NULL`, s.managed) {
		var n struct {
			Tag string `json:"tag"`
		}
		_, line, _ := strings.Cut(comment, "keybroker: ")
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			s.t.Errorf("a role has a password and the comment %q", comment)
		}
		tags = append(tags, n.Tag)
	}
	return tags
}

func (s *site) works(v backends.Value) bool {
	fields := v.Reveal()
	err := s.Login(context.Background(), fields["username"], fields["password"])
	if err != nil && !strings.Contains(err.Error(), "28P01") {
		s.t.Errorf("logging in: %v", err)
	}
	return err == nil
}

// session logs in and stays; alive tells whether it still can ask something.
func (s *site) session(v backends.Value) (alive func() bool) {
	fields := v.Reveal()
	conn, err := pgx.Connect(s.t.Context(), s.TCPURL(fields["username"], fields["password"]))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return func() bool {
		_, err := conn.Exec(context.Background(), "SELECT 1")
		return err == nil
	}
}

func TestConformance(t *testing.T) {
	for name, roles := range map[string]int{"pair": 2, "in place": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shared := newSite(t)
			lacking := map[string]issuer.Issuer{
				"CREATEROLE":        shared.as("IN ROLE pg_read_all_stats, pg_signal_backend"),
				"pg_read_all_stats": shared.as("CREATEROLE IN ROLE pg_signal_backend"),
				"pg_signal_backend": shared.as("CREATEROLE IN ROLE pg_read_all_stats"),
			}
			expired := shared.expired()
			issuertest.Run(t, func(t *testing.T) issuertest.Harness {
				h := harness(t, shared, roles)
				h.Lacking, h.Expired = lacking, expired
				return h
			})
		})
	}
}

// harness has fresh roles on a shared site.
func harness(t *testing.T, shared *site, roles int) issuertest.Harness {
	s := *shared
	s.t, s.managed = t, nil
	g := postgresserver.NewGate(t, s.Address)
	nobody, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return issuertest.Harness{
		Issuer:  s.issuer(g.Address, s.admin, s.password),
		Subject: s.subject("orders", roles),
		Others:  []issuer.Subject{s.subject("billing", roles), s.subject("reports", 3-roles)},
		Live:    s.live,
		Works:   s.works,
		Public:  []string{"username"},
		Cut: issuertest.CutTCP(t, s.Address, func(address string) issuer.Issuer {
			return s.issuer(address, s.admin, s.password)
		}),
		LoseAnswer: g.LoseCommit,
		Outage: func(on bool) {
			s.Exec(t, fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", s.Database, map[bool]int{true: 0, false: -1}[on]))
		},
		Hang: g.Hang,
		Refused: func(req issuer.Request) issuer.Request {
			req.Subject.Settings, req.Slot = json.RawMessage(`{"role": "nobody_there"}`), "nobody_there"
			return req
		},
		Denied:      s.issuer("", s.admin, "canary-wrong-password"),
		Unreachable: s.issuer(nobody, s.admin, s.password),
		Session:     s.session,
		Use: func(v backends.Value) {
			if !s.session(v)() {
				t.Error("a fresh session is not alive")
			}
		},
		Secrets: []string{s.password, "canary-wrong-password"},
	}
}

// as is an issuer that logs in as a role with these options.
func (s *site) as(options string) *postgresql.Issuer {
	s.t.Helper()
	role, password := s.Role(s.t, "keybroker", "LOGIN "+options)
	return s.issuer("", role, password)
}

// expired is an issuer whose password was good until a while ago.
func (s *site) expired() *postgresql.Issuer {
	role, password := s.Role(s.t, "keybroker", rights)
	s.Exec(s.t, fmt.Sprintf("ALTER ROLE %s VALID UNTIL '%s'", role, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)))
	return s.issuer("", role, password)
}
