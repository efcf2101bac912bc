package webhook_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// site is an https consumer.
type site struct {
	*httptest.Server
	cert     tls.Certificate // its own, with those of the authorities below the root
	requests atomic.Int32
	conns    atomic.Int32
	client   atomic.Value // common name of the last client's certificate
}

// secure starts a consumer that ca vouches for.
func secure(t *testing.T, ca *certtest.Authority, cert func(*x509.Certificate), config func(*tls.Config)) *site {
	t.Helper()
	s := &site{cert: ca.Client(func(c *x509.Certificate) {
		forServers(c)
		if cert != nil {
			cert(c)
		}
	})}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if certs := r.TLS.PeerCertificates; len(certs) > 0 {
			s.client.Store(certs[0].Subject.CommonName)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that are meant to fail
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{s.cert}}
	if config != nil {
		config(s.TLS)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *site) endpoint(t webhook.TLS) webhook.Endpoint {
	e := private(s.URL + "/" + canary + "?token=" + canary)
	e.TLS = t
	return e
}

// refused makes an attempt that is not to get beyond the handshake.
func (s *site) refused(t *testing.T, how webhook.TLS, want string) {
	t.Helper()
	before := s.requests.Load()
	o := send(t, s.endpoint(how))
	if o.Received || o.Status != 0 || !errors.Is(o.Err, backends.ErrUnavailable) || !strings.Contains(o.Err.Error(), want) {
		t.Errorf("got %+v, want %q", o, want)
	}
	if o.Err != nil && strings.Contains(o.Err.Error(), canary) {
		t.Errorf("the canary is in %v", o.Err)
	}
	if s.requests.Load() != before {
		t.Error("the request was sent")
	}
}

func (s *site) accepted(t *testing.T, how webhook.TLS) {
	t.Helper()
	if o := send(t, s.endpoint(how)); !o.Received {
		t.Errorf("got %+v", o)
	}
}

func TestCertificatesOfConsumers(t *testing.T) {
	ca, other := certtest.New(t, "acme", nil), certtest.New(t, "other", nil)
	trusted := webhook.TLS{CAFile: certtest.File(t, ca)}
	good := secure(t, ca, nil, nil)
	good.accepted(t, trusted)
	good.refused(t, webhook.TLS{}, "unknown authority")
	good.refused(t, webhook.TLS{CAFile: certtest.File(t, other)}, "unknown authority")
	secure(t, ca, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}, nil).refused(t, trusted, "expired")
	secure(t, ca, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example.com"} }, nil).
		refused(t, trusted, "another host")
	secure(t, ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, nil).
		refused(t, trusted, "otherwise invalid")
}

func TestTLS13UnlessLessIsAllowed(t *testing.T) {
	ca := certtest.New(t, "acme", nil)
	old := secure(t, ca, nil, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	how := webhook.TLS{CAFile: certtest.File(t, ca)}
	old.refused(t, how, "protocol version not supported")
	how.MinVersion = tls.VersionTLS13
	old.refused(t, how, "protocol version not supported")
	how.MinVersion = tls.VersionTLS12
	old.accepted(t, how)
	ancient := secure(t, ca, nil, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
	ancient.refused(t, how, "protocol version not supported")
}

// TestPins: one pinned key anywhere in the chain that was verified is enough, and
// nothing else is.
func TestPins(t *testing.T) {
	root := certtest.New(t, "root", nil)
	middle := certtest.New(t, "intermediate", root)
	stranger := certtest.New(t, "stranger", nil)
	s := secure(t, middle, nil, nil)
	pinned := func(certs ...*x509.Certificate) webhook.TLS {
		how := webhook.TLS{CAFile: certtest.File(t, root, stranger)}
		for _, c := range certs {
			how.Pins = append(how.Pins, webhook.PinOf(c).String())
		}
		return how
	}
	const want = "TLS: none of the pinned public keys is in the certificate's chain"
	s.accepted(t, pinned())
	s.accepted(t, pinned(s.cert.Leaf))
	s.accepted(t, pinned(middle.Cert))
	s.accepted(t, pinned(root.Cert))
	s.accepted(t, pinned(stranger.Cert, s.cert.Leaf)) // the backup pin, once the key was changed
	s.refused(t, pinned(stranger.Cert), want)
	s.refused(t, pinned(stranger.Cert, certtest.New(t, "another", nil).Cert), want)

	// What a server shows beside its chain proves nothing.
	padded := secure(t, middle, nil, func(c *tls.Config) {
		c.Certificates[0].Certificate = slices.Concat(c.Certificates[0].Certificate, [][]byte{stranger.Cert.Raw})
	})
	padded.refused(t, pinned(stranger.Cert), want)
	padded.accepted(t, pinned(middle.Cert))

	// A pin is no leave to skip the usual verification.
	s.refused(t, webhook.TLS{Pins: pinned(s.cert.Leaf).Pins}, "unknown authority")
	// A new certificate of the same key is that key.
	if p := webhook.PinOf(middle.SignedBy(stranger)); p != webhook.PinOf(middle.Cert) {
		t.Error("the pin is of the certificate, not of its key")
	}
}

// TestPinIsTheUsualOne: as `openssl x509 -pubkey | openssl pkey -pubin -outform der |
// openssl dgst -sha256 -binary | base64` writes it, and curl --pinnedpubkey takes it.
func TestPinIsTheUsualOne(t *testing.T) {
	text, err := os.ReadFile("testdata/pinned.pem")
	if err != nil {
		t.Fatal(err)
	}
	const want = "sha256//TafejFS9DVHepOqlyF19G2CoEma2tpQ+5J7vpzlnOvU="
	if got := webhook.PinOf(certificate(t, text)); got.String() != want {
		t.Errorf("got %s", got)
	}
	if p, err := webhook.ParsePin(want); err != nil || p.String() != want {
		t.Errorf("got %s, %v", p, err)
	}
}

// TestKeptConnectionsAreVerifiedOnes: a connection that is used again was verified with
// the same pins, and no sender uses another one's.
func TestKeptConnectionsAreVerifiedOnes(t *testing.T) {
	ca, stranger := certtest.New(t, "acme", nil), certtest.New(t, "stranger", nil)
	var replaced atomic.Pointer[tls.Config]
	s := secure(t, ca, nil, func(c *tls.Config) {
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return replaced.Load(), nil }
	})
	how := webhook.TLS{CAFile: certtest.File(t, ca), Pins: []string{webhook.PinOf(s.cert.Leaf).String()}}
	sender := newSender(t, s.endpoint(how))
	for range 3 {
		if o := sender.Send(t.Context(), "d1", []byte("{}"), signer(t, vectorSecret)); !o.Received {
			t.Fatalf("got %+v", o)
		}
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections for 3 deliveries", n)
	}
	how.Pins = []string{webhook.PinOf(stranger.Cert).String()}
	s.refused(t, how, "pinned public keys")

	// The consumer comes back with another key of the same authority.
	replaced.Store(&tls.Config{Certificates: []tls.Certificate{ca.Client(forServers)}})
	s.CloseClientConnections()
	o := sender.Send(t.Context(), "d1", []byte("{}"), signer(t, vectorSecret))
	if o.Received || !strings.Contains(o.Err.Error(), "pinned public keys") {
		t.Errorf("with another key: %+v", o)
	}
}

func forServers(c *x509.Certificate) {
	c.ExtKeyUsage, c.IPAddresses = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []net.IP{net.IPv4(127, 0, 0, 1)}
}

func TestClientCertificates(t *testing.T) {
	ca, clients := certtest.New(t, "acme", nil), certtest.New(t, "clients", nil)
	pool := x509.NewCertPool()
	pool.AddCert(clients.Cert)
	s := secure(t, ca, nil, func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool })
	how := webhook.TLS{CAFile: certtest.File(t, ca)}
	s.refused(t, how, "") // whether the alert or the end of the connection comes first is open
	how.CertFile, how.KeyFile = certtest.Files(t, certtest.New(t, "stranger", nil).Client(nil))
	s.refused(t, how, "")

	name := func(name string) (certFile, keyFile string) {
		return certtest.Files(t, clients.Client(func(c *x509.Certificate) { c.Subject.CommonName = name }))
	}
	how.CertFile, how.KeyFile = name("first")
	sender := newSender(t, s.endpoint(how))
	deliver := func() webhook.Outcome {
		s.CloseClientConnections() // the next delivery shakes hands anew
		return sender.Send(t.Context(), "d1", []byte("{}"), signer(t, vectorSecret))
	}
	if o := deliver(); !o.Received || s.client.Load() != "first" {
		t.Errorf("got %+v from %v", o, s.client.Load())
	}
	renewedCert, renewedKey := name("renewed")
	rename(t, renewedCert, how.CertFile) // half of the renewal: the pair does not fit
	if o := deliver(); o.Received || !strings.Contains(o.Err.Error(), "reading the client certificate "+how.CertFile) || strings.Contains(o.Err.Error(), canary) {
		t.Errorf("with half a pair: %+v", o)
	}
	rename(t, renewedKey, how.KeyFile)
	if o := deliver(); !o.Received || s.client.Load() != "renewed" {
		t.Errorf("got %+v from %v", o, s.client.Load())
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestCertificateIsShownToWhoAsks: a consumer that asks for none is reached all the same.
func TestCertificateIsShownToWhoAsks(t *testing.T) {
	ca := certtest.New(t, "acme", nil)
	s := secure(t, ca, nil, nil)
	how := webhook.TLS{CAFile: certtest.File(t, ca)}
	how.CertFile, how.KeyFile = certtest.Files(t, certtest.New(t, "clients", nil).Client(nil))
	s.accepted(t, how)
	if s.client.Load() != nil {
		t.Errorf("%v was shown", s.client.Load())
	}
}

func certificate(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
