package outbound_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// secure starts a server that ca vouches for, as edit has changed it.
func secure(t *testing.T, ca *certtest.Authority, edit func(*tls.Config)) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if certs := r.TLS.PeerCertificates; len(certs) > 0 {
			w.Header().Set("X-Client", certs[0].Subject.CommonName)
		}
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that are meant to fail
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Client(func(c *x509.Certificate) {
		c.ExtKeyUsage, c.IPAddresses = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []net.IP{net.IPv4(127, 0, 0, 1)}
	})}}
	if edit != nil {
		edit(srv.TLS)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func TestLeastVersionOfTLS(t *testing.T) {
	ca := certtest.New(t, "root", nil)
	old := secure(t, ca, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	file := certtest.File(t, ca)
	if _, err := get(t, client(t, outbound.Options{AllowPrivate: true, CAFile: file}), old.URL); err != nil {
		t.Errorf("1.2 is enough unless more is asked for: %v", err)
	}
	_, err := get(t, client(t, outbound.Options{AllowPrivate: true, CAFile: file, MinVersion: tls.VersionTLS13}), old.URL)
	if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "TLS: the server refuses: protocol version not supported") {
		t.Errorf("1.3 is asked for: %v", err)
	}
	resp, err := get(t, client(t, outbound.Options{AllowPrivate: true, CAFile: file, MinVersion: tls.VersionTLS13}), secure(t, ca, nil).URL)
	if err != nil || resp.Status != http.StatusOK {
		t.Errorf("1.3 is spoken: %v", err)
	}
}

func TestClientCertificateIsAskedForAtEachHandshake(t *testing.T) {
	ca := certtest.New(t, "root", nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	srv := secure(t, ca, func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool })
	var current atomic.Pointer[tls.Certificate]
	show := func(name string) {
		c := ca.Client(func(c *x509.Certificate) { c.Subject.CommonName = name })
		current.Store(&c)
	}
	c := client(t, outbound.Options{AllowPrivate: true, RootCAs: pool, FreshConnections: true,
		ClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c := current.Load(); c != nil {
				return c, nil
			}
			return nil, errors.New("reading the certificate: no such file")
		}})
	if _, err := get(t, c, srv.URL+"/"+canary); !errors.Is(err, backends.ErrUnavailable) ||
		!strings.HasSuffix(err.Error(), ": reading the certificate: no such file") {
		t.Errorf("the option's own words are lost: %v", err)
	}
	for _, name := range []string{"first", "renewed"} {
		show(name)
		if resp, err := get(t, c, srv.URL); err != nil || resp.Header.Get("X-Client") != name {
			t.Errorf("%s: %v, %v", name, resp.Header, err)
		}
	}
	if _, err := get(t, client(t, outbound.Options{AllowPrivate: true, RootCAs: pool}), srv.URL); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("without a certificate: %v", err)
	}
}

func TestVerifyConnectionIsAskedAtEachHandshake(t *testing.T) {
	ca := certtest.New(t, "root", nil)
	srv := secure(t, ca, nil)
	var asked atomic.Int32
	c := client(t, outbound.Options{AllowPrivate: true, CAFile: certtest.File(t, ca), FreshConnections: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.VerifiedChains) != 1 || s.DidResume {
				t.Errorf("%d chains, resumed %t", len(s.VerifiedChains), s.DidResume)
			}
			if asked.Add(1) == 3 {
				return errors.New("not this one")
			}
			return nil
		}})
	for range 2 {
		if _, err := get(t, c, srv.URL); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := get(t, c, srv.URL)
	if !errors.Is(err, backends.ErrUnavailable) || !strings.HasSuffix(err.Error(), ": not this one") || resp.Sent {
		t.Errorf("got %+v, %v", resp, err)
	}
}

// An answer of which the end is missing tells its status all the same.
func TestStatusOfACutAnswer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Content-Length", "99")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, canary)
	}))
	defer srv.Close()
	resp, err := get(t, client(t, outbound.Options{AllowPrivate: true}), srv.URL)
	if !errors.Is(err, backends.ErrUnavailable) || resp.Status != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "7" || resp.Body != nil {
		t.Errorf("got %+v, %v", resp, err)
	}
}
