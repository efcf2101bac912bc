package daemon_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
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
			lost := func() bool {
				found := must(n.CheckIssuer(t.Context(), "orders-db", client.CheckIssuerRequest{Secret: secret}))(t)
				return slices.ContainsFunc(found.Findings, func(f client.IssuerFinding) bool {
					return strings.HasPrefix(f.What, "account ") && strings.Contains(f.What, "the current one") && f.Problem != ""
				})
			}
			if lost() {
				t.Error("the account of the current version is said not to hold it")
			}
			s.postgres.Exec(t, "COMMENT ON ROLE "+n.value(t, secret).Fields["username"]+" IS NULL")
			if !lost() {
				t.Error("a check says nothing of an account that has lost its line")
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

// TestARenamedSecretTakesItsOwnAccount: the row of before still has it, which a reload and
// a plan warn of until it has no version.
func TestARenamedSecretTakesItsOwnAccount(t *testing.T) {
	t.Parallel()
	s := newRoles(t)
	n := s.start()
	s.hcl = strings.Replace(s.hcl, `secret "orders/reporting"`, `secret "orders/reports"`, 1)
	warned := func(dryRun bool) bool {
		r, err := n.Reload(t.Context(), client.ReloadRequest{DryRun: dryRun})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(r.Warnings, func(f client.ConfigFinding) bool {
			return strings.HasPrefix(f.What, "the secret orders/reporting, which is not in the configuration, has the account ") &&
				strings.HasSuffix(f.What, "for its version 1, and orders/reports takes it from it") && strings.Contains(f.Remedy, "keybroker secret revoke orders/reporting")
		})
	}
	if warned(true) {
		t.Error("it has no version, and a reload warns of it")
	}
	n.done(t, "orders/reporting")
	if !warned(true) {
		t.Error("a reload that is not made does not warn")
	}
	plan := must(n.PlanConfig(t.Context(), must(daemon.PlanRequest(s.config()))(t)))(t)
	if !strings.Contains(fmt.Sprint(plan.Warnings), "and orders/reports takes it from it") {
		t.Errorf("the plan warns of %v", plan.Warnings)
	}
	for range 2 {
		if !warned(false) {
			t.Error("a reload does not warn")
		}
	}
}
