package mtls

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// Config is the body of an auth "mtls" block.
type Config struct {
	// CAFile holds the PEM certificates that chains must end in, and nothing else is
	// trusted: neither the system's authorities nor those of another block. One that
	// another in it has signed may stand in a chain, which goes on to that.
	CAFile string `hcl:"ca_file"`
	// CRLFile holds PEM revocation lists, one of each authority that stands in a chain,
	// and is read again when it changes. Where it is set, what cannot be checked, as
	// with a list that is over its time, is refused.
	CRLFile string `hcl:"crl_file,optional" file:"reread"`
	// RequiredEKU are extended key usages that a certificate must have beside that of
	// TLS clients, as dotted OIDs.
	RequiredEKU []string `hcl:"required_eku,optional"`
}

// Validate returns every mistake, joined, each a text that begins with the name of
// the attribute. It opens nothing.
func (c Config) Validate() error {
	var errs []error
	if c.CAFile == "" {
		errs = append(errs, fmt.Errorf("%w: ca_file is empty: name the PEM file of the authority whose clients may call", backends.ErrInvalid))
	}
	for _, text := range c.RequiredEKU {
		if _, err := parseOID(text); err != nil {
			errs = append(errs, fmt.Errorf("%w: required_eku has %q, which is no dotted OID: write one such as \"1.3.6.1.4.1.311.20.2.2\"", backends.ErrInvalid, text))
		}
	}
	return errors.Join(errs...)
}

// parseOID reads the dotted form.
func parseOID(text string) (asn1.ObjectIdentifier, error) {
	var oid asn1.ObjectIdentifier
	for _, part := range strings.Split(text, ".") {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%w: %q is no number", backends.ErrInvalid, part)
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 || oid[0] > 2 {
		return nil, fmt.Errorf("%w: an OID begins with 0, 1 or 2 and has two numbers at least", backends.ErrInvalid)
	}
	return oid, nil
}

// readAuthorities reads the certificates of a file. All of them must be authorities:
// a client's certificate there by mistake would be trusted as it is.
func readAuthorities(file string) (anchors *x509.CertPool, between []*x509.Certificate, err error) {
	all, err := parseAuthorities(file)
	if err != nil {
		return nil, nil, err
	}
	anchors = x509.NewCertPool()
	for _, cert := range all {
		signs := func(by *x509.Certificate) bool { return !by.Equal(cert) && cert.CheckSignatureFrom(by) == nil }
		if cert.CheckSignatureFrom(cert) != nil && slices.ContainsFunc(all, signs) {
			between = append(between, cert) // a revocation of it counts
		} else {
			anchors.AddCert(cert)
		}
	}
	if len(between) == len(all) {
		return nil, nil, fmt.Errorf("%w: ca_file %s has no authority in which a chain could end: each is signed by another of them", backends.ErrInvalid, file)
	}
	return anchors, between, nil
}

func parseAuthorities(file string) (all []*x509.Certificate, err error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: reading ca_file: %w", backends.ErrInvalid, err)
	}
	for found := 0; ; found++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if found == 0 {
				return nil, fmt.Errorf("%w: ca_file %s holds no PEM certificate", backends.ErrInvalid, file)
			}
			return all, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: ca_file %s holds a %s: only certificates belong there", backends.ErrInvalid, file, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: ca_file %s: certificate %d: %w", backends.ErrInvalid, file, found+1, err)
		}
		if !cert.BasicConstraintsValid || !cert.IsCA {
			return nil, fmt.Errorf("%w: ca_file %s: certificate %d (%s) is not of an authority", backends.ErrInvalid, file, found+1, cert.Subject)
		}
		all = append(all, cert)
	}
}
