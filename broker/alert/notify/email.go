package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/wneessen/go-mail"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Email is a notifier that sends mail by SMTP.
type Email struct {
	Address             string                `hcl:"address"` // host:port
	From                string                `hcl:"from"`
	To                  []string              `hcl:"to"`
	Username            string                `hcl:"username,optional"`
	Password            backends.SecretString `hcl:"password,optional"`
	TLS                 string                `hcl:"tls,optional"` // "starttls", the default, "implicit", or "none" to loopback
	CAFile              string                `hcl:"ca_file,optional"`
	AllowPrivateNetwork bool                  `hcl:"allow_private_network,optional"`
}

// How a connection is protected.
const (
	startTLS    = "starttls"
	implicitTLS = "implicit"
	noTLS       = "none"
)

// Check returns every mistake, joined; offline, secrets are not known.
func (c Email) Check(bool) error {
	var all []error
	host, port, err := net.SplitHostPort(c.Address)
	if n, bad := strconv.Atoi(port); err != nil || host == "" || bad != nil || n < 1 || n > 65535 {
		all = append(all, invalid("address is no host:port: write for instance mail.example.com:587"))
	}
	if err := mail.NewMsg().From(c.From); err != nil {
		all = append(all, invalid("from is no address: write for instance keybroker@example.com"))
	}
	if len(c.To) == 0 {
		all = append(all, invalid("to names nobody: write at least one address"))
	}
	for _, to := range c.To {
		if err := mail.NewMsg().To(to); err != nil {
			all = append(all, invalid("to has %q, which is no address: write for instance security@example.com", to))
		}
	}
	if (c.Username == "") != (c.Password == "") {
		all = append(all, invalid("username goes with password: write both, or neither"))
	}
	switch c.TLS {
	case "", startTLS, implicitTLS:
	case noTLS:
		if !loopback(host) {
			all = append(all, invalid(`tls = "none" is for loopback only: write "starttls" or "implicit"`))
		}
	default:
		all = append(all, invalid(`tls is "starttls", "implicit" or, to loopback, "none"`))
	}
	return joined(all...)
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.IsLoopback()
}

type emailNotifier struct {
	Email
	host  string
	port  int
	roots *x509.CertPool // nil: the system's
}

// NewEmail returns the notifier.
func NewEmail(c Email) (alert.Notifier, error) {
	if err := c.Check(false); err != nil {
		return nil, err
	}
	n := &emailNotifier{Email: c}
	host, port, _ := net.SplitHostPort(c.Address) // checked
	n.host = host
	n.port, _ = strconv.Atoi(port)
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%w: reading certificates: %w", backends.ErrInvalid, err)
		}
		if n.roots = x509.NewCertPool(); !n.roots.AppendCertsFromPEM(pem) {
			return nil, invalid("%s holds no PEM certificate", c.CAFile)
		}
	}
	return n, nil
}

// Notify implements alert.Notifier. The Message-ID is made of the notification's, so
// that one sent twice can be told.
func (e *emailNotifier) Notify(ctx context.Context, n alert.Notification) error {
	m := mail.NewMsg()
	if err := m.From(e.From); err != nil {
		return invalid("from is no address")
	}
	if err := m.To(e.To...); err != nil {
		return invalid("to holds what is no address")
	}
	m.Subject("[keybroker] " + short(strings.Join(strings.Fields(n.Title()), " "), 200))
	m.SetDateWithValue(n.At)
	m.SetMessageIDWithValue(n.ID + "@" + e.domain())
	if n.Alert.ID != "" { // all of one alert are shown as one thread
		m.SetGenHeader(mail.HeaderReferences, "<"+n.Alert.ID+"@"+e.domain()+">")
	}
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no automatic replies
	m.SetBodyString(mail.TypeTextPlain, n.Text())
	client, err := e.client()
	if err != nil {
		return err
	}
	return e.failure(client.DialAndSendWithContext(ctx, m))
}

func (e *emailNotifier) domain() string {
	_, domain, _ := strings.Cut(strings.Trim(e.From, "<> "), "@")
	return domain
}

func (e *emailNotifier) client() (*mail.Client, error) {
	options := []mail.Option{
		mail.WithPort(e.port), mail.WithTimeout(timeout),
		mail.WithTLSConfig(&tls.Config{ServerName: e.host, RootCAs: e.roots, MinVersion: tls.VersionTLS12}),
	}
	dialer := outbound.Dialer(e.AllowPrivateNetwork)
	dial := dialer.DialContext
	switch e.TLS {
	case implicitTLS:
		secure := &tls.Dialer{NetDialer: dialer, Config: &tls.Config{ServerName: e.host, RootCAs: e.roots, MinVersion: tls.VersionTLS12}}
		dial = secure.DialContext
		options = append(options, mail.WithTLSPolicy(mail.NoTLS)) // it is there already
	case noTLS:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	default:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	options = append(options, mail.WithDialContextFunc(dial))
	if e.Username != "" {
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthPlain), mail.WithUsername(e.Username), mail.WithPassword(e.Password.Reveal()))
	}
	client, err := mail.NewClient(e.host, options...)
	if err != nil {
		return nil, invalid("the mail server cannot be used as it is configured")
	}
	return client, nil
}

// failure says what happened without what the server said, which may quote the mail
// or the login.
func (e *emailNotifier) failure(err error) error {
	if err == nil {
		return nil
	}
	refused, isRefused := errors.AsType[*outbound.RefusedError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	code := 0
	if sent, ok := errors.AsType[*mail.SendError](err); ok {
		code = sent.ErrorCode()
	} else if said, ok := errors.AsType[*textproto.Error](err); ok {
		code = said.Code
	}
	switch {
	case isRefused:
		return fmt.Errorf("telling by email: %w", refused)
	case untrusted:
		return fmt.Errorf("%w: telling by email: the certificate of %s is not trusted", backends.ErrUnavailable, e.Address)
	case code >= 530 && code <= 538: // RFC 4954, section 6
		return fmt.Errorf("%w: telling by email: %s does not accept the login: it answered %d", backends.ErrDenied, e.Address, code)
	case code >= 500:
		return fmt.Errorf("%w: telling by email: %s answered %d", backends.ErrInvalid, e.Address, code)
	case code > 0:
		return fmt.Errorf("%w: telling by email: %s answered %d", backends.ErrUnavailable, e.Address, code)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: telling by email: %s did not answer in time", backends.ErrUnavailable, e.Address)
	}
	return fmt.Errorf("%w: telling by email: %s %s", backends.ErrUnavailable, e.Address, e.unreached(err))
}

// unreached says why there was no answer.
func (e *emailNotifier) unreached(err error) string {
	nowhere, unknown := errors.AsType[*net.DNSError](err)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refuses the connection: nothing listens there"
	case unknown && nowhere.IsNotFound:
		return "is no host that is known"
	case plain:
		return "speaks no TLS"
	case e.TLS == noTLS:
		return "cannot be reached, or breaks off"
	}
	return "cannot be reached, breaks off, or speaks no TLS"
}
