package postgresserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
)

// StartTCP is Start on a server that listens on loopback as well, with and without
// TLS. There a login takes a password by SCRAM-SHA-256, except that of the roles
// that Trusted, ByPassword and Unlisted name.
func StartTCP(t testing.TB) *Server {
	t.Helper()
	return start(t, sharedTCP)
}

// Roles, to be created by a test that wants one, for which the server's access
// rules (pg_hba.conf) say something else than SCRAM-SHA-256 over TCP.
const (
	Trusted    = "trusted_by_rule"     // is let in without any password
	ByPassword = "by_password_by_rule" // is asked for its password in clear
	Unlisted   = "unlisted_by_rule"    // has no entry there
)

const accessRules = `local all all trust
host all ` + Trusted + ` 127.0.0.1/32 trust
host all ` + ByPassword + ` 127.0.0.1/32 password
host all ` + Unlisted + ` 127.0.0.2/32 scram-sha-256
host all ` + Unlisted + ` 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
`

// Exec runs one statement in the server's database as superuser.
func (s *Server) Exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	s.as(t, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement, args...)
		return err
	})
}

// Texts returns the one column of the rows of a query, asked as superuser.
func (s *Server) Texts(t testing.TB, query string, args ...any) (texts []string) {
	t.Helper()
	s.as(t, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		texts, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return texts
}

func (s *Server) as(t testing.TB, fn func(context.Context, *pgx.Conn) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer conn.Close(ctx)
	if err := fn(ctx, conn); err != nil {
		t.Fatalf("asking PostgreSQL as superuser: %v", err)
	}
}

// Role makes a role with a name and password of its own and options such as
// "LOGIN CREATEROLE". It is dropped with the server.
func (s *Server) Role(t testing.TB, kind, options string) (name, password string) {
	t.Helper()
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	name, password = fmt.Sprintf("%s_%d", kind, s.cluster.names.Add(1)), "canary-"+hex.EncodeToString(random)
	s.Exec(t, fmt.Sprintf("CREATE ROLE %s %s PASSWORD '%s'", pgx.Identifier{name}.Sanitize(), options, password))
	return name, password
}

// TCPURL is what a client of the TCP port connects to as that role, without TLS.
func (s *Server) TCPURL(role, password string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Host: s.Address, Path: "/" + s.Database, RawQuery: "sslmode=disable"}
	return u.String()
}

// Login logs in through the TCP port, and out again.
func (s *Server) Login(ctx context.Context, role, password string) error {
	conn, err := pgx.Connect(ctx, s.TCPURL(role, password))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Log is what the server has logged so far, of all tests.
func (s *Server) Log(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.cluster.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (c *cluster) port() string {
	_, port, _ := net.SplitHostPort(c.address)
	return port
}

// listen chooses a port, makes a certificate and writes the access rules, and
// returns the settings of the server that go with them.
func (c *cluster) listen(attr *syscall.SysProcAttr) (settings string, err error) {
	if c.address, err = loopback.Address(); err != nil {
		return "", err
	}
	cert, key, err := certificate()
	if err != nil {
		return "", err
	}
	c.caFile = filepath.Join(c.dir, "server.crt")
	keyFile := filepath.Join(c.dir, "server.key")
	for path, text := range map[string][]byte{
		c.caFile: cert, keyFile: key, filepath.Join(c.dir, "data", "pg_hba.conf"): []byte(accessRules),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return "", err
		}
		if attr.Credential == nil {
			continue
		}
		if err := os.Chown(path, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			return "", err
		}
	}
	return strings.Join([]string{"", "listen_addresses=127.0.0.1", "port=" + c.port(), "ssl=on",
		"ssl_cert_file=" + c.caFile, "ssl_key_file=" + keyFile, "password_encryption=scram-sha-256"}, " -c "), nil
}

// certificate makes one that has signed itself, as PEM.
func certificate() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "PostgreSQL of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}), nil
}
