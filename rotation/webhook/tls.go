package webhook

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net/url"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// TLS is how an https endpoint and the broker know each other.
type TLS struct {
	MinVersion uint16   // tls.VersionTLS12 or tls.VersionTLS13; 0: the latter
	CAFile     string   // PEM certificates trusted instead of the system's
	CertFile   string   // PEM certificate, with its chain, that the broker shows; empty: none
	KeyFile    string   // and its private key
	Pins       []string // "sha256//…", see ParsePin; none: any chain that verifies
}

// check reads no file.
func (t TLS) check(scheme string) error {
	switch {
	case t.MinVersion != 0 && t.MinVersion != tls.VersionTLS12 && t.MinVersion != tls.VersionTLS13:
		return fmt.Errorf("%w: the least version of TLS is 1.2 or 1.3", backends.ErrInvalid)
	case (t.CertFile == "") != (t.KeyFile == ""):
		return fmt.Errorf("%w: client_cert_file and client_key_file belong together: write both", backends.ErrInvalid)
	case scheme != "https" && (t.CAFile != "" || t.CertFile != "" || len(t.Pins) > 0):
		return fmt.Errorf("%w: pins, ca_file and client_cert_file mean nothing over http: use https", backends.ErrInvalid)
	}
	return nil
}

// client returns the client that keeps the connections to an endpoint at u.
func (e Endpoint) client(u *url.URL) (*outbound.Client, error) {
	t := e.TLS
	opts := outbound.Options{
		AllowPrivate: e.AllowPrivate, LoopbackOnly: local(u), Timeout: cmp.Or(e.Timeout, Timeout), MaxBody: MaxAnswer,
		CAFile: t.CAFile, MinVersion: t.MinVersion,
	}
	if opts.MinVersion == 0 {
		opts.MinVersion = tls.VersionTLS13
	}
	if t.CertFile != "" {
		if _, err := t.certificate(nil); err != nil {
			return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
		}
		opts.ClientCertificate = t.certificate
	}
	if len(t.Pins) > 0 {
		pins, err := parsePins(t.Pins)
		if err != nil {
			return nil, err
		}
		opts.VerifyConnection = pins.verify
	}
	return outbound.New(opts)
}

// certificate reads the broker's certificate, at each handshake, so that a renewed one
// is used from then on.
func (t TLS) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate %s and its key: %w", t.CertFile, err)
	}
	return &pair, nil
}
