package daemon_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/client"
)

// roles is the example of the issuer postgresql before a real server.
type roles struct {
	*site
	postgres *postgresserver.Server
}

func newRoles(t *testing.T) *roles {
	t.Helper()
	pg := postgresserver.StartTCP(t)
	admin, password := pg.Role(t, "keybroker", "LOGIN CREATEROLE IN ROLE pg_read_all_stats, pg_signal_backend")
	a, _ := pg.Role(t, "orders_a", "LOGIN")
	b, _ := pg.Role(t, "orders_b", "LOGIN")
	single, _ := pg.Role(t, "reporting", "LOGIN")
	host, port, _ := net.SplitHostPort(pg.Address)
	s := newSite(t, example(t, "postgresql",
		`host     = "db.example.com"`, fmt.Sprintf("host = %q\n  port = %s\n  allow_private_network = true\n  ca_file = %q", host, port, pg.CAFile),
		`database = "orders"`, fmt.Sprintf("database = %q", pg.Database), `username = "keybroker"`, fmt.Sprintf("username = %q", admin),
		`"orders_a", "orders_b"`, fmt.Sprintf("%q, %q", a, b), `"reporting" #`, fmt.Sprintf("%q #", single),
		`schedule = "0 3 1 * *"`, "", `schedule = "0 4 1 * *"`, "", `overlap  = "24h"`, `overlap = "1s"`, `window     = "1m"`, `window = "1s"`))
	s.env = map[string]string{"ORDERS_ADMIN": password}
	return &roles{s, pg}
}

func (r *roles) login(fields map[string]string) error {
	return r.postgres.Login(context.Background(), fields["username"], fields["password"])
}

// connect begins a session, which is there until the test ends or somebody ends it.
func (r *roles) connect(t *testing.T, fields map[string]string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.postgres.TCPURL(fields["username"], fields["password"]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Both secrets of the example rotate to a proof: a pair in turn, with an overlap in
// which both work, and a single role in place.
func TestPasswordsOfRolesAreRotatedAndProvenDead(t *testing.T) {
	t.Parallel()
	for secret, pair := range map[string]bool{"orders/db": true, "orders/reporting": false} {
		t.Run(secret, func(t *testing.T) {
			t.Parallel()
			s := newRoles(t)
			n := s.start()
			n.done(t, secret)
			first := n.value(t, secret).Fields
			session := s.connect(t, first)
			rot, retired := n.rotate(t, secret)
			old := retired[rot.FromVersion]
			if rot.State != client.RotationDone || old.State != client.ProvenDead || old.SessionsEndedAt.IsZero() || old.Control != "current_version" {
				t.Fatalf("%+v\n%+v", rot, old)
			}
			now := n.value(t, secret).Fields
			if (now["username"] != first["username"]) != pair || now["password"] == first["password"] {
				t.Errorf("after %s comes %s", first["username"], now["username"])
			}
			if err := s.login(first); err == nil || !strings.Contains(err.Error(), "28P01") {
				t.Errorf("the old login: %v", err)
			}
			if err := s.login(now); err != nil {
				t.Errorf("the new login: %v", err)
			}
			if _, err := session.Exec(t.Context(), "SELECT 1"); err == nil {
				t.Error("a session of the old login goes on")
			}
			if rot, _ := n.rotate(t, secret); rot.State != client.RotationDone { // to the role that was revoked
				t.Errorf("once more: %+v", rot)
			}
			log, served := s.log.String(), s.postgres.Log(t)
			for _, text := range []string{first["password"], now["password"], s.env["ORDERS_ADMIN"]} {
				if strings.Contains(log, text) || strings.Contains(served, text) {
					t.Fatal("a log gives a password away")
				}
			}
		})
	}
}
