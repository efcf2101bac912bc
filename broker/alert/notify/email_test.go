package notify_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/alert/notify"
)

// mailServer is an SMTP server that keeps the mails that it takes.
type mailServer struct {
	mu       sync.Mutex
	mails    []string
	to       []string
	refuse   error // of every mail
	password string
}

func (m *mailServer) NewSession(*smtp.Conn) (smtp.Session, error) { return &mailSession{m: m}, nil }

type mailSession struct {
	m  *mailServer
	in bool
}

func (s *mailSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *mailSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		if username != "keybroker" || password != s.m.password {
			return &smtp.SMTPError{Code: 535, Message: "no such login: " + password}
		}
		s.in = true
		return nil
	}), nil
}

func (s *mailSession) Mail(string, *smtp.MailOptions) error {
	if s.m.password != "" && !s.in {
		return smtp.ErrAuthRequired
	}
	return s.m.refuse
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.to = append(s.m.to, to)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.mails = append(s.m.mails, string(text))
	return err
}

func (s *mailSession) Reset()        {}
func (s *mailSession) Logout() error { return nil }

// startMail starts the server: with TLS from the first byte, or offered. Its
// certificate is for 127.0.0.1, and stands in the file.
func startMail(t *testing.T, m *mailServer, implicit bool) (address, caFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := smtp.NewServer(m)
	server.Domain, server.ErrorLog = "mail.test", quiet{}
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	address = l.Addr().String()
	if implicit {
		l = tls.NewListener(l, server.TLSConfig)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return address, caFile
}

// quiet logs nothing: clients that trust nobody are part of the tests.
type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

func TestEmail(t *testing.T) {
	for _, how := range []string{"starttls", "implicit"} {
		m := &mailServer{password: canary}
		address, ca := startMail(t, m, how == "implicit")
		cfg := notify.Email{Address: address, From: "Keybroker <keybroker@example.com>", To: []string{"a@example.com", "b@example.com"},
			Username: "keybroker", Password: canary, TLS: how, CAFile: ca, AllowPrivateNetwork: true}
		to, err := notify.NewEmail(cfg)
		if err != nil {
			t.Fatal(err)
		}
		tell(t, to, resurrected(alert.Raised))
		if len(m.mails) != 1 || strings.Join(m.to, " ") != "a@example.com b@example.com" {
			t.Fatalf("%s: %d mails to %v", how, len(m.mails), m.to)
		}
		got, err := mail.ReadMessage(strings.NewReader(m.mails[0]))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(got.Body)
		if s := got.Header.Get("Subject"); !strings.HasPrefix(s, "[keybroker] resurrected: version 3 of acme:mail/sender") {
			t.Errorf("subject %q", s)
		}
		if got.Header.Get("Message-Id") != "<ntc_1-1@example.com>" || got.Header.Get("References") != "<alt_1@example.com>" || got.Header.Get("Auto-Submitted") != "auto-generated" {
			t.Errorf("header %v", got.Header)
		}
		if !strings.Contains(string(body), "next: keybroker retirement show ret_1") {
			t.Errorf("body %s", body)
		}

		stranger := cfg
		stranger.CAFile = ""
		impostor := cfg
		impostor.Password = backends.SecretString("wrong-" + canary)
		for class, c := range map[error]notify.Email{backends.ErrUnavailable: stranger, backends.ErrDenied: impostor} {
			to, err := notify.NewEmail(c)
			if err != nil {
				t.Fatal(err)
			}
			if err := to.Notify(t.Context(), heartbeat); !errors.Is(err, class) || strings.Contains(err.Error(), canary) {
				t.Errorf("%s: %v, want %v", how, err, class)
			}
		}
		for code, class := range map[int]error{451: backends.ErrUnavailable, 554: backends.ErrInvalid} {
			m.refuse = &smtp.SMTPError{Code: code, Message: canary}
			if err := to.Notify(t.Context(), heartbeat); !errors.Is(err, class) || strings.Contains(err.Error(), canary) {
				t.Errorf("%s, %d: %v, want %v", how, code, err, class)
			}
		}
		if len(m.mails) != 1 {
			t.Errorf("%s: %d mails were taken", how, len(m.mails))
		}
	}
}
