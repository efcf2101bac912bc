package daemon_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
)

const ordersDB = "orders/db"

// orders is the example of the issuer vault_database: a real Vault before a real
// PostgreSQL.
type orders struct {
	*site
	vault    *vaultserver.Server
	postgres *postgresserver.Server
}

func newOrders(t *testing.T, ttl time.Duration) *orders {
	t.Helper()
	vault, pg := vaultserver.Start(t), postgresserver.StartTCP(t)
	admin, password := pg.Role(t, "vault", "LOGIN CREATEROLE")
	pg.Exec(t, "GRANT pg_signal_backend TO "+admin)
	mount := vault.Database(t, pg.Address, pg.Database, admin, password)
	vault.Write(t, mount+"/roles/orders-ro", map[string]any{
		"db_name": "db", "default_ttl": ttl.String(), "max_ttl": "24h",
		"creation_statements": []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
		"revocation_statements": []string{
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'`, `DROP ROLE IF EXISTS "{{name}}"`},
	})
	roleID, secretID := vault.AppRole(t, vaultserver.AppRole{TokenType: "batch", TokenTTL: 24 * time.Hour, Policy: strings.ReplaceAll(`
path "MOUNT/creds/orders-ro" { capabilities = ["read"] }
path "sys/leases/revoke/MOUNT/creds/orders-ro/*" { capabilities = ["update"] }
path "sys/leases/lookup/MOUNT/creds/orders-ro/*" { capabilities = ["list", "sudo"] }
path "MOUNT/roles/orders-ro" { capabilities = ["read"] }`, "MOUNT", mount)})
	host, port, _ := net.SplitHostPort(pg.Address)
	s := newSite(t, replaced(t, example(t, "vault_database", "https://vault.example.com:8200", vault.Addr, `"database"`, fmt.Sprintf("%q", mount)),
		`host     = "db.example.com"`, fmt.Sprintf("host = %q\n  port = %s\n  allow_private_network = true\n  ca_file = %q", host, port, pg.CAFile),
		`database = "orders"`, fmt.Sprintf("database = %q", pg.Database),
		`schedule = "0 3 1,15 * *"`, "", `overlap  = "24h"`, `overlap = "1s"`, `window     = "1m"`, `window = "1s"`))
	s.env = map[string]string{"VAULT_ROLE_ID": roleID, "VAULT_SECRET_ID": secretID}
	return &orders{s, vault, pg}
}

// login tries what readers get.
func (o *orders) login(n *node) error {
	fields := n.value(o.t, ordersDB).Fields
	return o.postgres.Login(context.Background(), fields["username"], fields["password"])
}

// The example rotates to a proof, and the broker's restarts end nothing.
func TestDynamicCredentialsAreRotatedAndProvenDead(t *testing.T) {
	t.Parallel()
	o := newOrders(t, time.Hour)
	n := o.start()
	n.done(t, ordersDB)
	first := n.value(t, ordersDB).Fields
	n.stop()
	if err := o.postgres.Login(t.Context(), first["username"], first["password"]); err != nil {
		t.Fatalf("the credential has ended with the broker: %v", err)
	}
	n = o.start()
	if err := o.login(n); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	rot, retired := n.rotate(t, ordersDB)
	old := retired[rot.FromVersion]
	if rot.State != client.RotationDone || old.State != client.ProvenDead || old.SessionsEndedAt.IsZero() {
		t.Fatalf("%+v\n%+v", rot, old)
	}
	if err := o.postgres.Login(t.Context(), first["username"], first["password"]); err == nil || !strings.Contains(err.Error(), "28P01") {
		t.Errorf("the old credential: %v", err)
	}
	current := n.value(t, ordersDB).Fields
	users := o.postgres.Texts(t, `SELECT rolname::text FROM pg_roles WHERE rolname IN ($1, $2)`, first["username"], current["username"])
	if err := o.login(n); err != nil || !slices.Equal(users, []string{current["username"]}) {
		t.Errorf("the database has %q: %v", users, err)
	}
	log := o.log.String()
	for _, secret := range []string{first["password"], current["password"], o.env["VAULT_SECRET_ID"]} {
		if strings.Contains(log, secret) {
			t.Fatal("the log gives a secret away")
		}
	}
}

// Credentials that soon expire are replaced in time, also after the broker was away: who
// reads never gets a dead one.
func TestDynamicCredentialsAreReplacedBeforeTheyExpire(t *testing.T) {
	t.Parallel()
	o := newOrders(t, 30*time.Second) // a third of it is left for a busy machine
	n := o.start()
	n.done(t, ordersDB)
	first := n.value(t, ordersDB)
	n.stop()
	n = o.start()
	seen := map[int]bool{}
	eventually(t, "two more versions", func() bool {
		v := n.value(t, ordersDB)
		if err := o.postgres.Login(t.Context(), v.Fields["username"], v.Fields["password"]); err != nil {
			again := n.value(t, ordersDB) // it may have been replaced since
			if again.Version == v.Version {
				t.Fatalf("version %d is current and dead: %v", v.Version, err)
			}
		}
		seen[v.Version] = true
		return v.Version >= first.Version+2
	})
	if len(seen) < 3 {
		t.Errorf("the versions %v were seen", seen)
	}
}
