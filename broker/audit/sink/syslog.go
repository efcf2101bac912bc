package sink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Syslog sends each record as one message of RFC 5424: over UDP (RFC 5426), TCP with
// counted octets (RFC 6587), TLS (RFC 5425) or a local socket. None of these says what
// has arrived, so no request relies on it.
type Syslog struct {
	Address      string `hcl:"address"`           // udp://HOST:PORT, tcp://…, tls://…, unix:///dev/log
	Facility     int    `hcl:"facility,optional"` // 1 to 23; 13, log audit, if none is given
	Format       string `hcl:"format,optional"`   // jsonl or ocsf
	CAFile       string `hcl:"ca_file,optional"`
	AllowPrivate bool   `hcl:"allow_private_network,optional"`
}

const (
	syslogTimeout   = 10 * time.Second
	maxDatagram     = 60000 // bytes of a message over UDP; what is longer is cut off
	defaultFacility = 13
)

// Validate implements Config.
func (c Syslog) Validate() error {
	var errs []error
	if _, _, err := c.target(); err != nil {
		errs = append(errs, err)
	}
	if c.Facility < 0 || c.Facility > 23 {
		errs = append(errs, invalid("facility is %d: it is one of 1 to 23", c.Facility))
	}
	return errors.Join(append(errs, checkFormat(c.Format, formJSONL, formOCSF))...)
}

// target is the scheme and what it leads to: HOST:PORT or a path.
func (c Syslog) target() (scheme, to string, err error) {
	u, err := url.Parse(c.Address)
	bad := invalid(`address is none of syslog: write "udp://HOST:514", "tcp://HOST:514", "tls://HOST:6514" or "unix:///dev/log"`)
	if err != nil {
		return "", "", bad
	}
	switch u.Scheme {
	case "unix":
		if u.Path == "" || u.Host != "" {
			return "", "", bad
		}
		return u.Scheme, u.Path, nil
	case "udp", "tcp", "tls":
		if u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.User != nil {
			return "", "", bad
		}
		return u.Scheme, u.Host, nil
	}
	return "", "", bad
}

// Open implements Config.
func (c Syslog) Open(node string) (audit.Sink, error) {
	s := &syslog{cfg: c, node: node}
	var err error
	if s.scheme, s.to, err = c.target(); err != nil {
		return nil, err
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%w: reading certificates: %w", backends.ErrInvalid, err)
		}
		s.roots = x509.NewCertPool()
		if !s.roots.AppendCertsFromPEM(pem) {
			return nil, invalid("ca_file holds no PEM certificate")
		}
	}
	if s.host, err = os.Hostname(); err != nil || s.host == "" {
		s.host = "-"
	}
	return s, nil
}

type syslog struct {
	cfg              Syslog
	node             string
	scheme, to, host string
	roots            *x509.CertPool

	mu       sync.Mutex
	conn     net.Conn
	datagram bool
}

// Confirms implements audit.Sink.
func (s *syslog) Confirms() bool { return false }

// Close implements audit.Sink.
func (s *syslog) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangUp()
	return nil
}

func (s *syslog) hangUp() {
	if s.conn != nil {
		_ = s.conn.Close() // nothing depends on how
		s.conn = nil
	}
}

// Send implements audit.Sink.
func (s *syslog) Send(ctx context.Context, lines []audit.Line) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.connect(ctx); err != nil {
		return err
	}
	deadline := time.Now().Add(syslogTimeout)
	if by, ok := ctx.Deadline(); ok && by.Before(deadline) {
		deadline = by
	}
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		s.hangUp()
		return fmt.Errorf("%w: writing to syslog", backends.ErrUnavailable)
	}
	var stream []byte
	for _, ln := range lines {
		msg, err := s.message(ln)
		if err != nil {
			return err
		}
		if msg == nil {
			continue
		}
		if s.datagram {
			if err := s.write(msg[:min(len(msg), maxDatagram)]); err != nil {
				return err
			}
			continue
		}
		stream = append(strconv.AppendInt(stream, int64(len(msg)), 10), ' ')
		stream = append(stream, msg...)
	}
	if len(stream) == 0 {
		return nil
	}
	return s.write(stream)
}

func (s *syslog) write(b []byte) error {
	if _, err := s.conn.Write(b); err != nil {
		s.hangUp()
		return fmt.Errorf("%w: writing to syslog at %s: the connection failed", backends.ErrUnavailable, s.to)
	}
	return nil
}

// connect connects, anew if the other side has hung up.
func (s *syslog) connect(ctx context.Context) error {
	if s.conn != nil && !s.datagram && s.gone() {
		s.hangUp()
	}
	if s.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, syslogTimeout)
	defer cancel()
	conn, err := s.dial(ctx)
	if refused, ok := errors.AsType[*outbound.RefusedError](err); ok {
		return refused
	}
	if err != nil {
		return fmt.Errorf("%w: connecting to syslog at %s failed", backends.ErrUnavailable, s.to)
	}
	s.conn = conn
	return nil
}

func (s *syslog) dial(ctx context.Context) (net.Conn, error) {
	guarded := outbound.Dialer(s.cfg.AllowPrivate)
	s.datagram = s.scheme == "udp"
	switch s.scheme {
	case "udp", "tcp":
		return guarded.DialContext(ctx, s.scheme, s.to)
	case "tls":
		return (&tls.Dialer{NetDialer: guarded, Config: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", s.to)
	}
	var local net.Dialer
	conn, err := local.DialContext(ctx, "unixgram", s.to)
	if err == nil {
		s.datagram = true
		return conn, nil
	}
	return local.DialContext(ctx, "unix", s.to)
}

// gone tells whether the other side has closed the connection. Nothing is ever read
// from it otherwise.
func (s *syslog) gone() bool {
	if s.conn.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
		return true
	}
	_, err := s.conn.Read(make([]byte, 1))
	var timeout net.Error
	return err != nil && (!errors.As(err, &timeout) || !timeout.Timeout())
}

// message is one message; nil: the line is none for syslog.
func (s *syslog) message(ln audit.Line) ([]byte, error) {
	if ln.Kind == audit.KindCheckpoint {
		return nil, nil
	}
	text, err := formOf(s.cfg.Format)(ln, s.node)
	if err != nil {
		return nil, err
	}
	facility := s.cfg.Facility
	if facility == 0 {
		facility = defaultFacility
	}
	severity := 6 // informational
	if ln.Outcome != "ok" {
		severity = 4 // warning
	}
	data := "-"
	if ln.Index >= 0 { // RFC 5424, section 7.3.1: from 1 to 2147483647, then again
		data = fmt.Sprintf(`[meta sequenceId="%d"]`, ln.Index%2147483647+1)
	}
	head := fmt.Sprintf("<%d>1 %s %s keybroker %d %s %s \xef\xbb\xbf", facility*8+severity, ln.At.UTC().Format("2006-01-02T15:04:05.000000Z"),
		ascii(s.host, 255), os.Getpid(), ascii(ln.Action, 32), data)
	return append([]byte(head), text...), nil
}

// ascii makes a header field of RFC 5424: printable, no space, "-" for nothing.
func ascii(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < 33 || r > 126 {
			return -1
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}
