package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"testing"

	"github.com/keybroker/keybroker/broker/authn/certtest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func uri(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	must(t, err)
	return u
}

func critical(id ...int) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier(id), Critical: true, Value: []byte{0x30, 0}}
}

// connect shows a certificate in a real TLS handshake that asks for one without
// verifying it, as the listener does, and returns what the server got.
func connect(t *testing.T, shown tls.Certificate) []*x509.Certificate {
	t.Helper()
	self := certtest.New(t, "server", nil)
	served := self.Client(func(c *x509.Certificate) {
		c.DNSNames = []string{"localhost"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{served}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13})
	must(t, err)
	defer func() { _ = l.Close() }()
	type got struct {
		chain []*x509.Certificate
		err   error
	}
	answer := make(chan got, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			answer <- got{err: err}
			return
		}
		defer func() { _ = conn.Close() }()
		err = conn.(*tls.Conn).Handshake()
		answer <- got{conn.(*tls.Conn).ConnectionState().PeerCertificates, err}
	}()
	roots := x509.NewCertPool()
	roots.AddCert(self.Cert)
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: "localhost", RootCAs: roots, Certificates: []tls.Certificate{shown}, MinVersion: tls.VersionTLS13})
	must(t, err)
	defer func() { _ = conn.Close() }()
	g := <-answer
	must(t, g.err)
	return g.chain
}
