// Package mtls tells who calls by the certificate that a TLS connection showed.
package mtls

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
)

// maxChain bounds the certificates of a chain that are looked at.
const maxChain = 10

// Method identifies who has a certificate of its own authorities. It is safe for
// concurrent use.
type Method struct {
	name    string
	roots   *x509.CertPool
	between []*x509.Certificate // that the roots have signed
	lists   *revocations        // nil: none are asked for
	ekus    []asn1.ObjectIdentifier
}

var _ authn.CertificateMethod = (*Method)(nil)

// New reads the files of the auth block called name; ErrInvalid if they cannot be
// used. The logger is told of revocation lists that cannot be used later.
func New(name string, c Config, logger hclog.Logger) (*Method, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	m := &Method{name: name}
	for _, text := range c.RequiredEKU {
		oid, _ := parseOID(text) // Validate did
		m.ekus = append(m.ekus, oid)
	}
	var err error
	if m.roots, m.between, err = readAuthorities(c.CAFile); err != nil {
		return nil, err
	}
	if c.CRLFile != "" {
		if m.lists, err = openRevocations(c.CRLFile, logger); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Identify implements authn.CertificateMethod.
func (m *Method) Identify(chain []*x509.Certificate, at time.Time) (authn.Identity, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return authn.Identity{}, denied("a chain of %d certificates was sent", len(chain))
	}
	leaf := chain[0]
	if err := m.fit(leaf); err != nil {
		return authn.Identity{}, err
	}
	verified, err := m.verify(chain, at)
	if err != nil {
		return authn.Identity{}, err
	}
	verified, until, err := m.lists.check(verified, at)
	if err != nil {
		return authn.Identity{}, err
	}
	id, err := m.identity(leaf, verified)
	id.RecheckAt = until
	return id, err
}

// Revision changes whenever what Identify would say of a certificate may have
// changed: an answer may be kept for as long as it is the same.
func (m *Method) Revision() uint64 { return m.lists.revision() }

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: %s", backends.ErrDenied, fmt.Sprintf(format, args...))
}

// fit looks at what the certificate says of its own use. Go takes one without
// extended key usages for all of them; here it must say that it is for clients.
func (m *Method) fit(leaf *x509.Certificate) error {
	switch {
	case leaf.IsCA || leaf.KeyUsage&x509.KeyUsageCertSign != 0:
		return denied("the certificate is of an authority, and no client's")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return denied("the certificate is not for TLS clients: it lacks the extended key usage clientAuth")
	}
	for _, want := range m.ekus {
		if !hasEKU(leaf, want) {
			return denied("the certificate lacks the extended key usage %s", want)
		}
	}
	return nil
}

var oidEKU = asn1.ObjectIdentifier{2, 5, 29, 37} // RFC 5280, 4.2.1.12

// hasEKU looks in the extension itself: crypto/x509 makes constants of those it knows.
func hasEKU(cert *x509.Certificate, want asn1.ObjectIdentifier) bool {
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidEKU) {
			continue
		}
		var has []asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(ext.Value, &has); err != nil {
			return false
		}
		return slices.ContainsFunc(has, want.Equal)
	}
	return false
}

func (m *Method) verify(chain []*x509.Certificate, at time.Time) ([][]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, cert := range slices.Concat(chain[1:], m.between) {
		between.AddCert(cert)
	}
	verified, err := chain[0].Verify(x509.VerifyOptions{Roots: m.roots, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err == nil {
		return verified, nil
	}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil && at.Before(invalid.Cert.NotBefore):
		return nil, denied("the certificate of %q is not valid before %s", invalid.Cert.Subject, invalid.Cert.NotBefore.UTC().Format(time.RFC3339))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return nil, denied("the certificate of %q has expired at %s", invalid.Cert.Subject, invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &unknown):
		return nil, denied("the certificate is signed by no authority of auth %q", m.name)
	}
	return nil, denied("the certificate is not accepted: %s", err)
}

// identity is what the certificate says. Its end is that of the first certificate of
// a verified chain to end: of several chains, that of the one that lasts.
func (m *Method) identity(leaf *x509.Certificate, verified [][]*x509.Certificate) (authn.Identity, error) {
	var subject pkix.RDNSequence // as it is written there: pkix.Name sorts it
	if rest, err := asn1.Unmarshal(leaf.RawSubject, &subject); err != nil || len(rest) > 0 {
		return authn.Identity{}, denied("the subject of the certificate cannot be read")
	}
	id := authn.Identity{Method: m.name, Authority: authn.AuthorityX509, DNSNames: leaf.DNSNames, CommonName: leaf.Subject.CommonName, DistinguishedName: subject.String()}
	var err error
	if id.SPIFFEID, err = spiffeOf(leaf); err != nil {
		return authn.Identity{}, err
	}
	switch {
	case id.SPIFFEID != "":
		id.Subject = id.SPIFFEID
	case id.DistinguishedName != "":
		id.Subject = id.DistinguishedName
	case len(id.DNSNames) > 0:
		id.Subject = "dns:" + id.DNSNames[0] // which may have any form
	default:
		return authn.Identity{}, denied("the certificate names nobody: it has no SPIFFE id, subject or DNS name")
	}
	for _, name := range []string{id.SPIFFEID, id.CommonName, first(id.DNSNames), id.Subject} {
		if id.Name == "" {
			id.Name = name
		}
	}
	for _, chain := range verified {
		if ends := chainEnds(chain); ends.After(id.ExpiresAt) {
			id.ExpiresAt = ends
		}
	}
	return id, nil
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

func chainEnds(chain []*x509.Certificate) time.Time {
	ends := chain[0].NotAfter
	for _, cert := range chain[1:] {
		if cert.NotAfter.Before(ends) {
			ends = cert.NotAfter
		}
	}
	return ends.UTC()
}

// spiffeOf returns the SPIFFE id of a certificate, empty if it has none. One that has
// it beside any other URI is refused (X509-SVID, section 2).
func spiffeOf(leaf *x509.Certificate) (string, error) {
	for _, uri := range leaf.URIs {
		if uri.Scheme != "spiffe" {
			continue
		}
		if len(leaf.URIs) > 1 {
			return "", denied("the certificate has a SPIFFE id and %d other URIs, where there may be only one", len(leaf.URIs)-1)
		}
		id, err := spiffeid.FromURI(uri)
		if err != nil {
			return "", denied("the certificate's SPIFFE id is malformed: %s", err)
		}
		return id.String(), nil
	}
	return "", nil
}
