// Package postgresconn makes guarded connections to PostgreSQL servers, for the
// issuer and the probe of their roles.
package postgresconn

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Config says where a server is. It is decoded from the attributes of a block that
// needs one; such a block's own Config takes it in by a field
//
//	Conn postgresconn.Config `hcl:",remain"`
type Config struct {
	Host     string `hcl:"host"`          // a name or an IP address
	Port     int    `hcl:"port,optional"` // default 5432
	Database string `hcl:"database"`
	// SSLMode is verify-full (default), verify-ca, require or disable. They are those
	// of libpq, but require binds the login to the TLS connection (SCRAM-SHA-256-PLUS):
	// nobody in between, whose certificate nobody verifies, can pass the login on. What
	// may end without encryption (prefer, allow) there is not.
	SSLMode        string        `hcl:"sslmode,optional"`
	CAFile         string        `hcl:"ca_file,optional"`         // PEM; default: the system's roots
	ConnectTimeout time.Duration `hcl:"connect_timeout,optional"` // of one connection with its login, default 10s

	AllowPrivateNetwork bool `hcl:"allow_private_network,optional"`
}

// Values of SSLMode.
const (
	verifyFull = "verify-full"
	verifyCA   = "verify-ca"
	require    = "require"
	disable    = "disable"
)

const (
	defaultPort    = 5432
	defaultTimeout = 10 * time.Second
)

// Validate returns every mistake in c, joined, each an ErrInvalid in one line that
// begins with the attribute's name. It reads no file.
func (c Config) Validate() error {
	var mistakes []error
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	if c.Host == "" || strings.ContainsAny(c.Host, "/, \x00") || strings.Contains(c.Host, ":") && net.ParseIP(c.Host) == nil {
		wrong("host %q is no name and no IP address: write one, such as db.example.com, and the port in port", c.Host)
	}
	if c.Port < 0 || c.Port > 65535 {
		wrong("port %d is none: leave it out for %d", c.Port, defaultPort)
	}
	if c.Database == "" || strings.ContainsRune(c.Database, 0) {
		wrong("database is empty: name the one to connect to")
	}
	switch c.mode() {
	case verifyFull, verifyCA:
	case require, disable:
		if c.CAFile != "" {
			wrong("ca_file verifies nothing with sslmode %q: use verify-full or verify-ca", c.SSLMode)
		}
	default:
		wrong(`sslmode %q there is not: use "verify-full", "verify-ca", "require" or "disable"; what may end without encryption is not offered`, c.SSLMode)
	}
	if c.mode() == disable && !c.AllowPrivateNetwork {
		wrong(`sslmode "disable" leaves the connection open to whoever is on its way: use "verify-full", or set allow_private_network = true if the network is yours`)
	}
	if c.ConnectTimeout < 0 {
		wrong("connect_timeout is negative: leave it out for %s", defaultTimeout)
	}
	return errors.Join(mistakes...)
}

func (c Config) mode() string { return cmp.Or(c.SSLMode, verifyFull) }

func (c Config) port() uint16 {
	return uint16(cmp.Or(c.Port, defaultPort))
}

// Place is where the server is, for people: "db.example.com:5432/orders".
func (c Config) Place() string {
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.port()))) + "/" + c.Database
}

// Server names the server in one spelling, whichever of its databases c connects to:
// they share their roles.
func (c Config) Server() string {
	host := strings.ToLower(strings.TrimSuffix(c.Host, "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(c.port())))
}

// tls makes what the connection is encrypted by; nil: by nothing.
func (c Config) tls() (*tls.Config, error) {
	if c.mode() == disable {
		return nil, nil
	}
	cfg := &tls.Config{ServerName: c.Host, MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%w: ca_file cannot be read: %w", backends.ErrInvalid, err)
		}
		if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: ca_file %s holds no PEM certificate", backends.ErrInvalid, c.CAFile)
		}
	}
	switch c.mode() {
	case require: // channel binding takes the place of the verification
		cfg.InsecureSkipVerify = true
	case verifyCA: // all but the host's name
		roots := cfg.RootCAs
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(s tls.ConnectionState) error { return verifyChain(s, roots) }
	}
	return cfg, nil
}

func verifyChain(s tls.ConnectionState, roots *x509.CertPool) error {
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, cert := range s.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := s.PeerCertificates[0].Verify(opts)
	return err
}
