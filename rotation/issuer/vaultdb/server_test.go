package vaultdb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vaultconn"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
	"github.com/keybroker/keybroker/rotation/issuer/vaultdb"
)

const canary = "canary-7d10ba"

// site is a Vault with a database engine before a PostgreSQL.
type site struct {
	t        *testing.T
	vault    *vaultserver.Server
	postgres *postgresserver.Server
	mount    string
	readers  string   // that all of Vault's users in the database are members of
	roles    []string // all that a test makes credentials of
	secrets  []string
}

// The statements of docs/issuers/vault_database.md.
var (
	creation   = `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE READERS`
	revocation = []string{
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'`,
		`DROP ROLE IF EXISTS "{{name}}"`,
	}
)

func newSite(t *testing.T, vault *vaultserver.Server) *site {
	t.Helper()
	pg := postgresserver.StartTCP(t)
	name, password := pg.Role(t, "vault", "LOGIN CREATEROLE")
	readers, _ := pg.Role(t, "readers", "NOLOGIN")
	pg.Exec(t, "GRANT pg_signal_backend TO "+name)
	pg.Exec(t, "GRANT "+readers+" TO "+name+" WITH ADMIN OPTION")
	s := &site{t: t, vault: vault, postgres: pg, readers: readers, secrets: []string{password, canary}, roles: []string{"orders-ro"}}
	s.mount = vault.Database(t, pg.Address, pg.Database, name, password)
	s.role("orders-ro", map[string]any{"revocation_statements": revocation})
	return s
}

// role writes a role, which is good for an hour unless more says something else.
func (s *site) role(name string, more map[string]any) {
	s.t.Helper()
	creation := strings.Replace(creation, "READERS", s.readers, 1)
	body := map[string]any{"db_name": "db", "creation_statements": []string{creation}, "default_ttl": "1h", "max_ttl": "2h"}
	for k, v := range more {
		body[k] = v
	}
	s.vault.Write(s.t, s.mount+"/roles/"+name, body)
}

// policy is that of the documentation, without what contains a text.
func (s *site) policy(without string) string {
	var b strings.Builder
	for _, line := range []string{
		`path "%s/creds/*" { capabilities = ["read"] }`,
		`path "%s/roles/*" { capabilities = ["read"] }`,
		`path "sys/leases/revoke/%s/creds/*" { capabilities = ["update"] }`,
		`path "sys/leases/lookup/%s/creds/*" { capabilities = ["list", "sudo"] }`,
	} {
		line = strings.ReplaceAll(line, "%s", s.mount)
		if without == "" || !strings.Contains(line, without) {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func (s *site) conn(address string, auth vaultconn.Auth) vaultconn.Config {
	return vaultconn.Config{Address: address, Auth: []vaultconn.Auth{auth}}
}

// appRole makes one that gives batch tokens unless role says something else.
func (s *site) appRole(role vaultserver.AppRole) vaultconn.Auth {
	s.t.Helper()
	if role.Policy == "" {
		role.Policy = s.policy("")
	}
	if role.TokenType == "" {
		role.TokenType = "batch"
	}
	roleID, secretID := s.vault.AppRole(s.t, role)
	s.secrets = append(s.secrets, secretID)
	return vaultconn.Auth{Method: "approle", RoleID: backends.SecretString(roleID), SecretID: backends.SecretString(secretID)}
}

// token makes one; wants are parameters of auth/token/create-orphan.
func (s *site) token(path string, wants map[string]any) vaultconn.Auth {
	s.t.Helper()
	name := "policy-" + s.mount
	s.vault.Write(s.t, "sys/policies/acl/"+name, map[string]any{"policy": s.policy("")})
	body := map[string]any{"policies": []string{name, "default"}}
	for k, v := range wants {
		body[k] = v
	}
	token := s.vault.Write(s.t, path, body).Auth.ClientToken
	s.secrets = append(s.secrets, token)
	return vaultconn.Auth{Method: "token", Token: backends.SecretString(token)}
}

// config is what all tests begin with.
func (s *site) config(auth vaultconn.Auth) vaultdb.Config {
	return vaultdb.Config{Mount: s.mount, ListLeases: true, Exclusive: true, EndsSessions: true, Conn: s.conn(s.vault.Addr, auth)}
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// open makes an issuer, whose log must hold no secret in the end. Close may be called
// before.
func (s *site) open(cfg vaultdb.Config) issuer.Issuer {
	s.t.Helper()
	log := &logBuffer{}
	is, err := vaultdb.Open(s.t.Context(), cfg, hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace}))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		closeIssuer(is)
		text := log.b.String() + fmt.Sprintf("%v %+v %#v", is, is, is)
		for _, secret := range s.secrets {
			if strings.Contains(text, secret) {
				s.t.Error("the log, or printing, gives a secret away")
			}
		}
	})
	return is
}

func closeIssuer(is issuer.Issuer) { is.(interface{ Close() }).Close() }

// leases are those that Vault holds of a mount.
func (s *site) leases() []string {
	s.t.Helper()
	var ids []string
	for _, role := range s.roles {
		prefix := s.mount + "/creds/" + role + "/"
		answer, err := s.vault.Client(s.t).Logical().ListWithContext(context.Background(), "sys/leases/lookup/"+prefix)
		if err != nil {
			s.t.Fatal(err)
		}
		if answer == nil {
			continue
		}
		for _, key := range answer.Data["keys"].([]any) {
			ids = append(ids, prefix+key.(string))
		}
	}
	return ids
}

func (s *site) works(v backends.Value) bool {
	fields := v.Reveal()
	err := s.postgres.Login(context.Background(), fields["username"], fields["password"])
	// 28000: the user was dropped in the middle of the login.
	if err != nil && !strings.Contains(err.Error(), "28P01") && !strings.Contains(err.Error(), "does not exist (SQLSTATE 28000)") {
		s.t.Errorf("logging in to the database: %v", err)
	}
	return err == nil
}

func (s *site) session(v backends.Value) func() bool {
	fields := v.Reveal()
	conn, err := pgx.Connect(context.Background(), s.postgres.TCPURL(fields["username"], fields["password"]))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return func() bool {
		_, err := conn.Exec(context.Background(), "SELECT 1")
		return err == nil
	}
}

func subject(tenant, role string) issuer.Subject {
	settings, _ := json.Marshal(map[string]string{"role": role})
	return issuer.Subject{Ref: backends.Ref{Tenant: tenant, Name: "orders/db"}, Settings: settings}
}

func minting(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/creds/") && r.Method == http.MethodGet
}

// open makes a harness with two roles of its own.
func (v variant) open(t *testing.T) issuertest.Harness {
	s := &site{t: t, vault: v.site.vault, postgres: v.site.postgres, mount: v.site.mount, readers: v.site.readers, secrets: slices.Clone(v.site.secrets)}
	s.roles = []string{fmt.Sprintf("ro-%d", v.harnesses.Add(1)), fmt.Sprintf("rw-%d", v.harnesses.Add(1))}
	for _, role := range s.roles {
		s.role(role, map[string]any{"revocation_statements": revocation})
	}
	proxy := faultproxy.New(t, s.vault.Addr)
	at := func(address string, auth vaultconn.Auth) issuer.Issuer {
		cfg := s.config(auth)
		cfg.Conn.Address = address
		cfg.ListLeases, cfg.Exclusive, cfg.EndsSessions = v.all, v.all, v.all
		return s.open(cfg)
	}
	spoil := func(f faultproxy.Fault) func(bool) {
		return func(on bool) {
			if proxy.Set(); on {
				proxy.Set(faultproxy.Rule{Fault: f})
			}
		}
	}
	h := issuertest.Harness{
		Issuer:     at(proxy.URL, v.auth),
		Subject:    subject("acme", s.roles[0]),
		Others:     []issuer.Subject{subject("other", s.roles[1])},
		Live:       s.leases,
		Unknown:    func(issuer.Handle) issuer.Handle { return issuer.Handle{"lease_id": s.mount + "/creds/none/none"} },
		Name:       func(h issuer.Handle) string { return h["lease_id"] },
		Works:      s.works,
		Session:    s.session,
		Public:     []string{"username"},
		LoseAnswer: func() { proxy.Set(faultproxy.Rule{Fault: faultproxy.LostAnswer(), Match: minting, Times: 1}) },
		Outage:     spoil(faultproxy.Status(http.StatusServiceUnavailable)),
		Hang:       spoil(faultproxy.Latency(time.Hour)),
		Cut:        issuertest.CutHTTP(t, s.vault.Addr, func(url string) issuer.Issuer { return at(url, v.auth) }),
		Refused: func(req issuer.Request) issuer.Request {
			req.Subject = subject("acme", "no-such-role")
			return req
		},
		Denied:      at(s.vault.Addr, vaultconn.Auth{Method: "approle", RoleID: "no-such-role", SecretID: canary}),
		Expired:     at(s.vault.Addr, vaultconn.Auth{Method: "token", Token: "hvs." + canary}),
		Unreachable: at("http://127.0.0.1:1", v.auth),
		Lacking:     map[string]issuer.Issuer{},
		Secrets:     s.secrets,
	}
	for right, auth := range v.lacking {
		h.Lacking[right] = at(s.vault.Addr, auth)
	}
	return h
}

// variant is one way to log in, to a site that all tests share.
type variant struct {
	*site
	auth      vaultconn.Auth
	lacking   map[string]vaultconn.Auth
	all       bool // of what an issuer can do
	harnesses *atomic.Int64
}

func TestConformance(t *testing.T) {
	for name, auth := range map[string]func(*site) vaultconn.Auth{
		"batch": func(s *site) vaultconn.Auth { return s.appRole(vaultserver.AppRole{}) },
		// A token of the operator's, and nothing that is not needed.
		"token": func(s *site) vaultconn.Auth {
			return s.token("auth/token/create-orphan", map[string]any{"type": "batch", "ttl": "2h"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := variant{newSite(t, vaultserver.Shared(t)), vaultconn.Auth{}, map[string]vaultconn.Auth{}, name == "batch", new(atomic.Int64)}
			v.auth = auth(v.site)
			for _, right := range []string{"/creds/", "sys/leases/revoke", "sys/leases/lookup"} {
				without := right
				if right == "/creds/" {
					without = v.mount + "/creds/*\" { capabilities = [\"read" // the list has the path in it, too
				}
				if right != "sys/leases/lookup" || v.all {
					v.lacking[right] = v.appRole(vaultserver.AppRole{Policy: v.policy(without)})
				}
			}
			issuertest.Run(t, v.open)
		})
	}
}

// mustIssue issues one that works.
func (s *site) mustIssue(is issuer.Issuer, tag string) issuer.Credential {
	s.t.Helper()
	cred, err := is.Issue(s.t.Context(), issuer.Request{Subject: subject("acme", "orders-ro"), Tag: tag})
	if err != nil {
		s.t.Fatal(err)
	}
	s.secrets = append(s.secrets, cred.Value.Reveal()["password"])
	if !s.works(cred.Value) {
		s.t.Fatal("a fresh credential does not work")
	}
	if ids := s.leases(); !slices.Contains(ids, cred.Handle["lease_id"]) {
		s.t.Errorf("the handle %v is none of the leases %q", cred.Handle, ids)
	}
	return cred
}
