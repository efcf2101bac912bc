package postgresqlprobe_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/rotation/postgresconn"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/postgresqlprobe"
	"github.com/keybroker/keybroker/rotation/probe/probetest"
)

func login(username, password string) backends.Value {
	return backends.NewValue(map[string]string{"username": username, "password": password})
}

func config(t *testing.T, s *postgresserver.Server, address string) postgresqlprobe.Config {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, _ := strconv.Atoi(port)
	return postgresqlprobe.Config{Conn: postgresconn.Config{
		Host: host, Port: number, Database: s.Database, SSLMode: "disable", AllowPrivateNetwork: true,
	}}
}

func open(t *testing.T, cfg postgresqlprobe.Config) *postgresqlprobe.Probe {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	p, err := postgresqlprobe.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// with is a probe whose block is changed.
func with(t *testing.T, cfg postgresqlprobe.Config, change func(*postgresconn.Config)) *postgresqlprobe.Probe {
	t.Helper()
	change(&cfg.Conn)
	return open(t, cfg)
}

func TestConformance(t *testing.T) {
	shared := postgresserver.StartTCP(t)
	special(t, shared)
	probetest.Run(t, func(t *testing.T) probetest.Harness { return harness(t, shared) })
}

// special makes the roles for which the server's access rules say something else.
func special(t *testing.T, s *postgresserver.Server) {
	t.Helper()
	for _, name := range []string{postgresserver.Trusted, postgresserver.ByPassword, postgresserver.Unlisted} {
		s.Exec(t, "CREATE ROLE "+name+" LOGIN PASSWORD 'canary-special'")
		t.Cleanup(func() { s.Exec(t, "DROP ROLE "+name) })
	}
}

func harness(t *testing.T, s *postgresserver.Server) probetest.Harness {
	gate := postgresserver.NewGate(t, s.Address)
	nobody, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	good, goodPassword := s.Role(t, "app", "LOGIN")
	canary, canaryPassword := s.Role(t, "canary", "LOGIN")
	shut, shutPassword := s.Role(t, "shut", "NOLOGIN")
	full, fullPassword := s.Role(t, "full", "LOGIN CONNECTION LIMIT 0")
	expired, expiredPassword := s.Role(t, "expired", "LOGIN VALID UNTIL '2001-01-01'")
	bare, barePassword := s.Role(t, "bare", "LOGIN")
	s.Exec(t, "ALTER ROLE "+bare+" PASSWORD NULL")

	cfg := config(t, s, gate.Address)
	cfg.LockoutAfter = 5
	cfg.Canary = map[string]backends.SecretString{"username": backends.SecretString(canary), "password": backends.SecretString(canaryPassword)}
	return probetest.Harness{
		Probe:   open(t, cfg),
		Subject: probe.Subject{Ref: backends.Ref{Tenant: "acme", Name: "db/orders"}},
		Good:    login(good, goodPassword),
		Bad:     login(good, "canary-wrong"),
		Public:  []string{"username"},
		Rejected: map[string]backends.Value{
			"nobody's":          login("nobody_there", "canary-wrong"),
			"another role's":    login(canary, goodPassword),
			"past VALID UNTIL":  login(expired, expiredPassword),
			"without password":  login(bare, barePassword),
			"wrong and NOLOGIN": login(shut, "canary-wrong"),
		},
		Undecided: map[string]backends.Value{
			"NOLOGIN":                login(shut, shutPassword),
			"too many connections":   login(full, fullPassword),
			"no entry in pg_hba":     login(postgresserver.Unlisted, "canary-special"),
			"wrong, and no entry":    login(postgresserver.Unlisted, "canary-wrong"),
			"trusted":                login(postgresserver.Trusted, "canary-special"),
			"wrong, but trusted":     login(postgresserver.Trusted, "canary-wrong"),
			"asked in clear":         login(postgresserver.ByPassword, "canary-special"),
			"wrong, asked in clear":  login(postgresserver.ByPassword, "canary-wrong"),
			"no password":            login(good, ""),
			"no name":                login("", goodPassword),
			"a name with a NUL byte": login(good+"\x00", goodPassword),
		},
		Canary:       login(canary, canaryPassword),
		LockoutAfter: 5,
		Revoke:       func() { s.Exec(t, "ALTER ROLE "+good+" PASSWORD NULL") },
		Faults: map[string]func(bool){
			"reset":            gate.Reset,
			"another protocol": gate.Babble,
		},
		Hang: gate.Hang,
		Broken: map[string]probe.Probe{
			"nobody listens": open(t, config(t, s, nobody)),
			"public addresses only": with(t, config(t, s, gate.Address), func(c *postgresconn.Config) {
				c.AllowPrivateNetwork, c.SSLMode = false, "require"
			}),
			"unknown authority": with(t, config(t, s, gate.Address), func(c *postgresconn.Config) { c.SSLMode = "verify-full" }),
			"another's name": with(t, config(t, s, gate.Address), func(c *postgresconn.Config) {
				c.Host, c.SSLMode, c.CAFile = "localhost", "verify-full", s.CAFile
			}),
		},
		Addresses:   []string{gate.Address},
		Connections: func() int { return gate.Seen().Connections },
		Attempts:    func() int { return gate.Seen().Logins },
		Marked:      func() int { return gate.Seen().Marked },
		Secrets:     []string{canaryPassword},
	}
}

// What a server that is out of order says of a good password is no rejection; and a
// wrong one is none of a database that is not there.
func TestServerOutOfOrder(t *testing.T) {
	s := postgresserver.StartTCP(t)
	good, password := s.Role(t, "app", "LOGIN")
	p := open(t, config(t, s, s.Address))
	try := func(p *postgresqlprobe.Probe) probe.Result {
		return p.Try(t.Context(), probe.Try{Value: login(good, password)})
	}
	for name, statements := range map[string][2]string{
		"the database is full":            {"ALTER DATABASE %s CONNECTION LIMIT 0", "ALTER DATABASE %s CONNECTION LIMIT -1"},
		"the permission CONNECT is taken": {"REVOKE CONNECT ON DATABASE %s FROM PUBLIC", "GRANT CONNECT ON DATABASE %s TO PUBLIC"},
	} {
		s.Exec(t, fmt.Sprintf(statements[0], s.Database))
		if r := try(p); r.Verdict != probe.Inconclusive || r.Address != s.Address || strings.Contains(r.Detail, password) {
			t.Errorf("%s: %+v", name, r)
		}
		s.Exec(t, fmt.Sprintf(statements[1], s.Database))
	}
	gone := config(t, s, s.Address)
	gone.Conn.Database = "no_such_database"
	if r := try(open(t, gone)); r.Verdict != probe.Inconclusive || !strings.Contains(r.Detail, "no such database") {
		t.Errorf("no such database: %+v", r)
	}
	if r := try(p); r.Verdict != probe.Accepted {
		t.Errorf("all is well again: %+v", r)
	}
}

// Each mode reaches the server over TLS; require binds the login to the connection.
func TestModes(t *testing.T) {
	s := postgresserver.StartTCP(t)
	good, password := s.Role(t, "app", "LOGIN")
	for mode, change := range map[string]func(*postgresconn.Config){
		"verify-full": func(c *postgresconn.Config) { c.CAFile = s.CAFile },
		"verify-ca":   func(c *postgresconn.Config) { c.CAFile, c.Host = s.CAFile, "localhost" },
		"require":     func(*postgresconn.Config) {},
	} {
		cfg := config(t, s, s.Address)
		cfg.Conn.SSLMode = mode
		change(&cfg.Conn)
		p := open(t, cfg)
		if r := p.Try(t.Context(), probe.Try{Value: login(good, password)}); r.Verdict != probe.Accepted {
			t.Errorf("%s: %+v", mode, r)
		}
		if r := p.Try(t.Context(), probe.Try{Value: login(good, "canary-wrong")}); r.Verdict != probe.Rejected {
			t.Errorf("%s, with a wrong password: %+v", mode, r)
		}
	}
}

// The environment of the broker, which libpq and pgx read, says nothing here.
func TestEnvironmentIsNotRead(t *testing.T) {
	s := postgresserver.StartTCP(t)
	good, password := s.Role(t, "app", "LOGIN")
	dir := t.TempDir()
	service := filepath.Join(dir, "service.conf")
	if err := os.WriteFile(service, []byte("[elsewhere]\nhost=192.0.2.1\npassword=canary\nsslmode=require\noptions=-c search_path=x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"PGHOST": "192.0.2.1", "PGPORT": "1", "PGDATABASE": "elsewhere", "PGUSER": "somebody", "PGPASSWORD": "canary", "PGPASSFILE": service,
		"PGSSLMODE": "nonsense", "PGCONNECT_TIMEOUT": "nonsense", "PGTARGETSESSIONATTRS": "nonsense", "PGOPTIONS": "-c default_transaction_read_only=on",
		"PGAPPNAME": "somebody", "PGREQUIREAUTH": "nonsense", "PGCHANNELBINDING": "nonsense", "PGSSLCERTMODE": "nonsense", "PGSSLNEGOTIATION": "nonsense",
		"PGSERVICE": "elsewhere", "PGSERVICEFILE": service, "PGTZ": "Nowhere/Nothing", "PGMINPROTOCOLVERSION": "nonsense",
	} {
		t.Setenv(name, value)
	}
	p := open(t, config(t, s, s.Address))
	if r := p.Try(t.Context(), probe.Try{Value: login(good, password)}); r.Verdict != probe.Accepted {
		t.Errorf("%+v", r)
	}
	t.Setenv("PGSERVICE", "missing")
	if r := p.Try(t.Context(), probe.Try{Value: login(good, password)}); r.Verdict != probe.Inconclusive || !strings.Contains(r.Detail, "PGSERVICE") {
		t.Errorf("with a service that is not there: %+v", r)
	}
}

func TestMistakes(t *testing.T) {
	good := postgresconn.Config{Host: "db.example.com", Database: "orders"}
	if err := (postgresqlprobe.Config{Conn: good}).Validate(); err != nil {
		t.Error(err)
	}
	for attribute, cfg := range map[string]postgresqlprobe.Config{
		"host":            {Conn: postgresconn.Config{Host: "/run/postgresql", Database: "orders"}},
		"port":            {Conn: postgresconn.Config{Host: "db", Port: 70000, Database: "orders"}},
		"database":        {Conn: postgresconn.Config{Host: "db"}},
		"sslmode":         {Conn: postgresconn.Config{Host: "db", Database: "orders", SSLMode: "prefer"}},
		"sslmode ":        {Conn: postgresconn.Config{Host: "db", Database: "orders", SSLMode: "disable"}},
		"ca_file":         {Conn: postgresconn.Config{Host: "db", Database: "orders", SSLMode: "require", CAFile: "/ca"}},
		"connect_timeout": {Conn: postgresconn.Config{Host: "db", Database: "orders", ConnectTimeout: -1}},
		"lockout_after":   {Conn: good, LockoutAfter: -1},
		"canary":          {Conn: good, Canary: map[string]backends.SecretString{"password": "canary-secret"}},
	} {
		err := cfg.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), "invalid: "+strings.TrimSpace(attribute)+" ") || strings.Contains(err.Error(), "canary-secret") {
			t.Errorf("%s: %v", attribute, err)
		}
	}
}
