package postgresconn

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/xdg-go/stringprep"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Server makes connections to one server.
type Server struct {
	cfg     Config
	tls     *tls.Config // nil: plain
	timeout time.Duration
}

// Login is who logs in, and how.
type Login struct {
	User        string
	Password    backends.SecretString
	Application string // application_name, by which the server's people tell who it is
	// Address is the one to connect to ("ip:port"); empty: those of the host.
	Address string
	// Once tries the password at one address only, the first that can be reached, even
	// if it is refused there for other reasons than the password.
	Once bool
	// Primary demands a server that is not in recovery: of several addresses it is found.
	Primary bool
}

// New reads the certificates of a valid configuration; ErrInvalid if they cannot be used.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, timeout: cfg.ConnectTimeout}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	var err error
	s.tls, err = cfg.tls()
	return s, err
}

// Place is where the server is, for people.
func (s *Server) Place() string { return s.cfg.Place() }

// Timeout is that of one connection.
func (s *Server) Timeout() time.Duration { return s.timeout }

// Addresses returns every address of the host as "ip:port"; ErrUnavailable if it
// has none.
func (s *Server) Addresses(ctx context.Context) ([]string, error) {
	return outbound.Resolve(ctx, s.cfg.Host, strconv.Itoa(int(s.cfg.port())))
}

// Connect makes a connection and logs in, by SCRAM-SHA-256 and nothing else: a
// server that asks for the password in clear, or for none, is an error. address is
// that of the connection, also with an error, if there was one. Errors are as those
// of Explain; of at most one address the password is refused.
func (s *Server) Connect(ctx context.Context, l Login) (conn *pgx.Conn, address string, err error) {
	d := &dialer{private: s.cfg.AllowPrivateNetwork}
	cfg, err := s.config(l, d)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conn, err = pgx.ConnectConfig(ctx, cfg)
	if address = d.close(); err != nil {
		return nil, address, Explain(err)
	}
	return conn, address, nil
}

// dialer makes the connections of one Connect, and none later: pgx makes another one
// to cancel what ran when its first one broke.
type dialer struct {
	private bool

	mu      sync.Mutex
	closed  bool
	address string // of the last connection
}

func (d *dialer) dial(ctx context.Context, network, to string) (net.Conn, error) {
	d.mu.Lock()
	closed := d.closed
	d.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	conn, err := outbound.Dialer(d.private).DialContext(ctx, network, to)
	if err == nil {
		d.mu.Lock()
		d.address = conn.RemoteAddr().String()
		d.mu.Unlock()
	}
	return conn, err
}

func (d *dialer) close() (address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.address
}

// fixed names all that pgconn would take from the environment (PGHOST, PGPASSFILE, …)
// or from files in the home directory; config sets what differs from it.
const fixed = "host=none port=1 user=none dbname=none password=none sslmode=disable sslcertmode=disable " +
	"sslnegotiation=postgres connect_timeout=0 target_session_attrs=any " +
	"min_protocol_version=3.0 max_protocol_version=3.0 channel_binding=prefer require_auth=scram-sha-256"

func (s *Server) config(l Login, d *dialer) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(fixed)
	if err != nil { // there is nothing of ours in the text, so PGSERVICE it must be
		return nil, fmt.Errorf("%w: the environment variable PGSERVICE names a service that cannot be read: unset it for the broker", backends.ErrInvalid)
	}
	cfg.Host, cfg.Port, cfg.Database = s.cfg.Host, s.cfg.port(), s.cfg.Database
	cfg.User, cfg.Password = l.User, Prepared(l.Password.Reveal())
	cfg.TLSConfig, cfg.Fallbacks = s.tls, nil
	if s.cfg.mode() == require {
		cfg.ChannelBinding = require
	}
	cfg.RuntimeParams = map[string]string{"application_name": l.Application, "client_encoding": "UTF8"}
	cfg.KerberosSpn, cfg.KerberosSrvName = "", ""
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // no prepared statements, which a pooler may not keep
	switch {
	case l.Address != "":
		cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{l.Address}, nil }
	case l.Once: // the dialer looks it up
		cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	}
	cfg.DialFunc = d.dial
	if l.Primary {
		cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	return cfg, nil
}

// Prepared is a password as it goes into SCRAM: by SASLprep (RFC 4013), which leaves
// ASCII as it is, or unchanged where that does not take it, as servers do it. (That
// of pgx, which comes after it, leaves some characters as they are.)
func Prepared(password string) string {
	if prepared, err := stringprep.SASLprep.Prepare(password); err == nil {
		return prepared
	}
	return password
}

// Close ends a connection, whether or not ctx has ended, and waits for what pgx does
// about a broken one.
func Close(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is gone either way
	select {
	case <-conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}
