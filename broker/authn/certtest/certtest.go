// Package certtest makes authorities, certificates and revocation lists for tests.
package certtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

var serial atomic.Int64

// Authority is a CA of a test.
type Authority struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey

	t     testing.TB
	above *Authority // nil: a root
}

// New makes an authority, which above has signed; nil: a root.
func New(t testing.TB, name string, above *Authority) *Authority {
	t.Helper()
	return NewOf(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, above)
}

// NewOf is New by a template.
func NewOf(t testing.TB, template *x509.Certificate, above *Authority) *Authority {
	t.Helper()
	template.IsCA, template.BasicConstraintsValid = true, true
	template.NotAfter = time.Now().Add(2 * time.Hour) // longer than what it signs
	a := &Authority{t: t, above: above}
	a.Cert, a.Key = above.issue(t, template)
	return a
}

// issue makes a certificate that a has signed, nil: that has signed itself.
func (a *Authority) issue(t testing.TB, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template.SerialNumber = big.NewInt(serial.Add(1))
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := template, key
	if a != nil {
		parent, signer = a.Cert, a.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert, key
}

// SignedBy is another certificate of the same authority, which by has signed.
func (a *Authority) SignedBy(by *Authority) *x509.Certificate {
	a.t.Helper()
	template := *a.Cert
	template.SerialNumber = big.NewInt(serial.Add(1))
	der, err := x509.CreateCertificate(rand.Reader, &template, by.Cert, a.Key.Public(), by.Key)
	must(a.t, err)
	cert, err := x509.ParseCertificate(der)
	must(a.t, err)
	return cert
}

// Client issues a certificate for TLS clients, as edit has changed it; nil: as it is.
// With it come those of the authorities below the root.
func (a *Authority) Client(edit func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "app", Organization: []string{"Acme, Inc."}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if edit != nil {
		edit(template)
	}
	cert, key := a.issue(a.t, template)
	shown := tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	for by := a; by.above != nil; by = by.above {
		shown.Certificate = append(shown.Certificate, by.Cert.Raw)
	}
	return shown
}

// File writes the certificates of authorities, and returns where.
func File(t testing.TB, authorities ...*Authority) string {
	t.Helper()
	var text bytes.Buffer
	for _, a := range authorities {
		must(t, pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw}))
	}
	path := filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(path, text.Bytes(), 0o600))
	return path
}

// List is a revocation list, from an hour ago until then.
func (a *Authority) List(until time.Time, revoked ...tls.Certificate) []byte {
	return a.ListWith(&x509.RevocationList{NextUpdate: until}, revoked...)
}

// ListWith is List by a template.
func (a *Authority) ListWith(template *x509.RevocationList, revoked ...tls.Certificate) []byte {
	a.t.Helper()
	template.Number = big.NewInt(serial.Add(1))
	if template.ThisUpdate.IsZero() {
		template.ThisUpdate = time.Now().Add(-time.Hour)
	}
	for _, c := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.Cert, a.Key)
	must(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// PEM is the authority's certificate.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw})
}

// Files writes a certificate, with those that it comes with, and its key.
func Files(t testing.TB, c tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	var text bytes.Buffer
	for _, der := range c.Certificate {
		must(t, pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(t, err)
	certFile, keyFile = filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	must(t, os.WriteFile(certFile, text.Bytes(), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	return certFile, keyFile
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
