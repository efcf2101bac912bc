package mtls_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/broker/authn/mtls"
)

func open(t *testing.T, c mtls.Config) *mtls.Method {
	t.Helper()
	m, err := mtls.New("mesh", c, hclog.NewNullLogger())
	must(t, err)
	return m
}

func refused(t *testing.T, err error, why string) {
	t.Helper()
	if !errors.Is(err, backends.ErrDenied) || errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), why) {
		t.Errorf("got %v, want it to be denied: %s", err, why)
	}
}

func TestIdentity(t *testing.T) {
	root := certtest.New(t, "root", nil)
	between := certtest.New(t, "issuing", root)
	m := open(t, mtls.Config{CAFile: certtest.File(t, root)})
	for name, test := range map[string]struct {
		by   *certtest.Authority
		edit func(*x509.Certificate)
		want authn.Identity
	}{
		"a subject": {root, nil,
			authn.Identity{Subject: `CN=app,O=Acme\, Inc.`, Name: "app", CommonName: "app", DistinguishedName: `CN=app,O=Acme\, Inc.`}},
		"a SPIFFE id, through an intermediate authority": {between, func(c *x509.Certificate) { c.URIs = []*url.URL{uri(t, "spiffe://example.com/app")} },
			authn.Identity{Subject: "spiffe://example.com/app", Name: "spiffe://example.com/app", SPIFFEID: "spiffe://example.com/app", CommonName: "app", DistinguishedName: `CN=app,O=Acme\, Inc.`}},
		"DNS names alone": {between, func(c *x509.Certificate) { c.Subject, c.DNSNames = pkix.Name{}, []string{"app.example.com", "app"} },
			authn.Identity{Subject: "dns:app.example.com", Name: "app.example.com", DNSNames: []string{"app.example.com", "app"}}},
		"a URI that is no SPIFFE id": {root, func(c *x509.Certificate) { c.URIs = []*url.URL{uri(t, "https://example.com")} },
			authn.Identity{Subject: `CN=app,O=Acme\, Inc.`, Name: "app", CommonName: "app", DistinguishedName: `CN=app,O=Acme\, Inc.`}},
	} {
		t.Run(name, func(t *testing.T) {
			shown := test.by.Client(test.edit)
			got, err := m.Identify(connect(t, shown), time.Now())
			must(t, err)
			w := test.want
			w.Method, w.ExpiresAt = "mesh", got.ExpiresAt
			if got.Subject != w.Subject || got.Name != w.Name || got.SPIFFEID != w.SPIFFEID || got.CommonName != w.CommonName ||
				got.DistinguishedName != w.DistinguishedName || got.Method != w.Method || !slices.Equal(got.DNSNames, w.DNSNames) {
				t.Errorf("got %+v, want %+v", got, w)
			}
			if ends := shown.Leaf.NotAfter; got.ExpiresAt.After(ends) || got.ExpiresAt.Before(ends.Add(-time.Minute)) {
				t.Errorf("it ends at %s, the certificate at %s", got.ExpiresAt, ends)
			}
		})
	}
}

// A certificate lasts no longer than the authority that signed it.
func TestEndOfTheChain(t *testing.T) {
	root := certtest.New(t, "root", nil)
	shown := root.Client(func(c *x509.Certificate) { c.NotAfter = root.Cert.NotAfter.Add(time.Hour) })
	got, err := open(t, mtls.Config{CAFile: certtest.File(t, root)}).Identify(connect(t, shown), time.Now())
	must(t, err)
	if !got.ExpiresAt.Equal(root.Cert.NotAfter) {
		t.Errorf("it ends at %s and not at %s", got.ExpiresAt, root.Cert.NotAfter)
	}
}

func TestRefused(t *testing.T) {
	root := certtest.New(t, "root", nil)
	namesake := certtest.New(t, "root", nil) // another authority with the same name
	m := open(t, mtls.Config{CAFile: certtest.File(t, root)})
	smartcard := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 2}
	strict := open(t, mtls.Config{CAFile: certtest.File(t, root), RequiredEKU: []string{smartcard.String()}})
	now := time.Now()
	for name, test := range map[string]struct {
		m     *mtls.Method
		shown tls.Certificate
		at    time.Time
		why   string
	}{
		"expired":              {m, root.Client(nil), now.Add(2 * time.Hour), "has expired at"},
		"of the future":        {m, root.Client(nil), now.Add(-2 * time.Hour), "is not valid before"},
		"a namesake authority": {m, namesake.Client(nil), now, `is signed by no authority of auth "mesh"`},
		"an unknown authority": {m, certtest.New(t, "other", nil).Client(nil), now, `is signed by no authority of auth "mesh"`},
		"of a server":          {m, root.Client(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), now, "lacks the extended key usage clientAuth"},
		"of no usage":          {m, root.Client(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), now, "lacks the extended key usage clientAuth"},
		"an authority": {m, root.Client(func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		}), now, "is of an authority"},
		"two SPIFFE ids": {m, root.Client(func(c *x509.Certificate) {
			c.URIs = []*url.URL{uri(t, "spiffe://example.com/a"), uri(t, "spiffe://example.com/b")}
		}), now, "where there may be only one"},
		"a malformed SPIFFE id": {m, root.Client(func(c *x509.Certificate) { c.URIs = []*url.URL{uri(t, "spiffe://example.com/../b")} }), now, "SPIFFE id is malformed"},
		"nobody":                {m, root.Client(func(c *x509.Certificate) { c.Subject = pkix.Name{} }), now, "names nobody"},
		"without required_eku":  {strict, root.Client(nil), now, "lacks the extended key usage 1.3.6.1.4.1.311.20.2.2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.m.Identify(connect(t, test.shown), test.at)
			refused(t, err, test.why)
		})
	}
	if _, err := m.Identify(nil, now); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("no chain: %v", err)
	}
	has := root.Client(func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{smartcard} })
	if _, err := strict.Identify(connect(t, has), now); err != nil {
		t.Errorf("with required_eku: %v", err)
	}
}

// An authority that signs for servers alone passes nobody on, whatever a certificate
// of its says of itself.
func TestUsageOfTheAuthority(t *testing.T) {
	root := certtest.New(t, "root", nil)
	servers := certtest.NewOf(t, &x509.Certificate{Subject: pkix.Name{CommonName: "servers"}, KeyUsage: x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, root)
	_, err := open(t, mtls.Config{CAFile: certtest.File(t, root)}).Identify(connect(t, servers.Client(nil)), time.Now())
	refused(t, err, "is not accepted")
}

// Two methods with authorities of the same name know only their own clients.
func TestTwoMethods(t *testing.T) {
	one, two := certtest.New(t, "mesh", nil), certtest.New(t, "mesh", nil)
	ofOne, ofTwo := open(t, mtls.Config{CAFile: certtest.File(t, one)}), open(t, mtls.Config{CAFile: certtest.File(t, two)})
	shown := connect(t, one.Client(nil))
	if _, err := ofOne.Identify(shown, time.Now()); err != nil {
		t.Error(err)
	}
	_, err := ofTwo.Identify(shown, time.Now())
	refused(t, err, "is signed by no authority")
}

func TestRevocation(t *testing.T) {
	root := certtest.New(t, "root", nil)
	between := certtest.New(t, "issuing", root)
	namesake := certtest.New(t, "issuing", nil)
	good, bad := between.Client(nil), between.Client(nil)
	now := time.Now()
	later := now.Add(30 * time.Minute)
	path := filepath.Join(t.TempDir(), "crl.pem")
	write := func(lists ...[]byte) {
		t.Helper()
		must(t, os.WriteFile(path+".new", bytes.Join(lists, nil), 0o600))
		must(t, os.Rename(path+".new", path))
	}
	write(root.List(later), between.List(later))
	var log bytes.Buffer
	m, err := mtls.New("mesh", mtls.Config{CAFile: certtest.File(t, root), CRLFile: path}, hclog.New(&hclog.LoggerOptions{Output: &log}))
	must(t, err)
	identify := func(c tls.Certificate, at time.Time) error {
		_, err := m.Identify(connect(t, c), at)
		return err
	}
	must(t, identify(bad, now))
	first := m.Revision()

	write(root.List(later), between.List(later, bad))
	if m.Revision() == first {
		t.Error("the revision is the same with another list")
	}
	refused(t, identify(bad, now), "was revoked at")
	must(t, identify(good, now))

	// A list of who merely has the name revokes nobody, and is none of the authority.
	write(root.List(later), between.List(later), namesake.List(later, good))
	must(t, identify(good, now))
	write(root.List(later), namesake.List(later))
	refused(t, identify(good, now), `there is no revocation list of "CN=issuing"`)
	if !strings.Contains(log.String(), "certificates are refused") {
		t.Errorf("the log does not say why nobody can log in: %s", log.String())
	}

	// The whole chain is looked at; a list that has ended, or is yet to begin, counts as none.
	write(root.List(later, tls.Certificate{Leaf: between.Cert}), between.List(later))
	refused(t, identify(good, now), `of "CN=issuing" was revoked`)
	write(root.List(later), between.List(later))
	refused(t, identify(good, later.Add(time.Minute)), "has ended at")
	write(root.List(later), between.ListWith(&x509.RevocationList{ThisUpdate: now.Add(10 * time.Minute), NextUpdate: later}))
	refused(t, identify(good, now), "is of the future")

	// What cannot be read changes nothing, until the lists of before end.
	write(root.List(later), between.List(later, bad))
	must(t, identify(good, now))
	for what, content := range map[string][]byte{
		"torn":            []byte("-----BEGIN X509 CRL-----\nMII"),
		"of another kind": root.PEM(),
		"partial":         between.ListWith(&x509.RevocationList{NextUpdate: later, ExtraExtensions: []pkix.Extension{critical(2, 5, 29, 28)}}),
	} {
		write(content)
		if err := identify(good, now); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		refused(t, identify(bad, now), "was revoked at")
		if !strings.Contains(log.String(), "the revocation lists cannot be read") {
			t.Errorf("%s: not in the log", what)
		}
		log.Reset()
	}
	must(t, os.Remove(path))
	refused(t, identify(bad, now), "was revoked at")
}

func TestMistakes(t *testing.T) {
	root := certtest.New(t, "root", nil)
	client := root.Client(nil)
	folder := t.TempDir()
	text := func(name, content string) string {
		path := filepath.Join(folder, name)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	leaf := filepath.Join(folder, "leaf.crt")
	must(t, os.WriteFile(leaf, (&certtest.Authority{Cert: client.Leaf}).PEM(), 0o600))
	a, b := certtest.New(t, "a", nil), certtest.New(t, "b", nil)
	one, two := a.SignedBy(b), b.SignedBy(a)
	for name, test := range map[string]struct {
		c   mtls.Config
		why string
	}{
		"no ca_file":       {mtls.Config{}, "ca_file is empty"},
		"a missing file":   {mtls.Config{CAFile: filepath.Join(folder, "none")}, "reading ca_file"},
		"no certificate":   {mtls.Config{CAFile: text("empty", "")}, "holds no PEM certificate"},
		"a client's":       {mtls.Config{CAFile: leaf}, "is not of an authority"},
		"a list":           {mtls.Config{CAFile: text("crl", string(root.List(time.Now())))}, "only certificates belong there"},
		"no end":           {mtls.Config{CAFile: certtest.File(t, &certtest.Authority{Cert: one}, &certtest.Authority{Cert: two})}, "in which a chain could end"},
		"a wrong OID":      {mtls.Config{CAFile: certtest.File(t, root), RequiredEKU: []string{"client"}}, `required_eku has "client"`},
		"a missing list":   {mtls.Config{CAFile: certtest.File(t, root), CRLFile: filepath.Join(folder, "none")}, "crl_file"},
		"a list of no CRL": {mtls.Config{CAFile: certtest.File(t, root), CRLFile: text("text", "hello")}, "holds no revocation list"},
	} {
		if _, err := mtls.New("mesh", test.c, hclog.NewNullLogger()); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), test.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRevokedIntermediateOfABundle: that an authority stands in the file, too, does not
// keep it from being revoked.
func TestRevokedIntermediateOfABundle(t *testing.T) {
	root := certtest.New(t, "root", nil)
	between := certtest.New(t, "issuing", root)
	shown := between.Client(nil)
	now := time.Now()
	later := now.Add(30 * time.Minute)
	lists := filepath.Join(t.TempDir(), "crl.pem")
	for what, revoked := range map[string][]tls.Certificate{"good": nil, "revoked": {{Leaf: between.Cert}}} {
		must(t, os.WriteFile(lists, append(root.List(later, revoked...), between.List(later)...), 0o600))
		id, err := open(t, mtls.Config{CAFile: certtest.File(t, root, between), CRLFile: lists}).Identify(connect(t, shown), now)
		if what == "good" {
			must(t, err)
			if !id.RecheckAt.Equal(later.Truncate(time.Second)) {
				t.Errorf("it is to be looked at again at %s, and the lists end at %s", id.RecheckAt, later)
			}
			continue
		}
		refused(t, err, `of "CN=issuing" was revoked`)
	}
	// One that stands there alone is trusted by itself.
	_, err := open(t, mtls.Config{CAFile: certtest.File(t, between)}).Identify(connect(t, shown), now)
	must(t, err)
}

// TestAListToCome takes the place of no other before its time.
func TestAListToCome(t *testing.T) {
	root := certtest.New(t, "root", nil)
	good, bad := root.Client(nil), root.Client(nil)
	now := time.Now()
	later := now.Add(30 * time.Minute)
	lists := filepath.Join(t.TempDir(), "crl.pem")
	toCome := root.ListWith(&x509.RevocationList{ThisUpdate: now.Add(10 * time.Minute), NextUpdate: later}, good)
	for _, text := range [][]byte{append(root.List(later, bad), toCome...), append(toCome, root.List(later, bad)...)} {
		must(t, os.WriteFile(lists, text, 0o600))
		m := open(t, mtls.Config{CAFile: certtest.File(t, root), CRLFile: lists})
		_, err := m.Identify(connect(t, good), now)
		must(t, err)
		_, err = m.Identify(connect(t, bad), now)
		refused(t, err, "was revoked at")
		_, err = m.Identify(connect(t, good), now.Add(20*time.Minute))
		refused(t, err, "was revoked at")
	}
}

// TestAListOfAFastClock is used: an authority whose clock is a little ahead of ours
// keeps nobody out whenever it renews its list.
func TestAListOfAFastClock(t *testing.T) {
	root := certtest.New(t, "root", nil)
	good, bad := root.Client(nil), root.Client(nil)
	now := time.Now()
	later := now.Add(30 * time.Minute)
	lists := filepath.Join(t.TempDir(), "crl.pem")
	ahead := root.ListWith(&x509.RevocationList{ThisUpdate: now.Add(time.Minute), NextUpdate: later}, bad)
	for _, text := range [][]byte{ahead, append(root.List(later), ahead...), append(ahead, root.List(later)...)} {
		must(t, os.WriteFile(lists, text, 0o600))
		m := open(t, mtls.Config{CAFile: certtest.File(t, root), CRLFile: lists})
		_, err := m.Identify(connect(t, good), now)
		must(t, err)
		_, err = m.Identify(connect(t, bad), now)
		refused(t, err, "was revoked at")
	}
}

// TestRevokedInOneChain: of several chains one that holds a revoked certificate is
// enough, and one that nobody can tell about is left out, with its end.
func TestRevokedInOneChain(t *testing.T) {
	old, root := certtest.New(t, "old root", nil), certtest.New(t, "root", nil)
	between := certtest.New(t, "issuing", root)
	cross := between.SignedBy(old)
	shown := between.Client(nil)
	shown.Certificate = append(shown.Certificate, cross.Raw)
	now := time.Now()
	later := now.Add(30 * time.Minute)
	lists := filepath.Join(t.TempDir(), "crl.pem")
	identify := func(ofOld []byte) (authn.Identity, error) {
		t.Helper()
		must(t, os.WriteFile(lists, slices.Concat(ofOld, root.List(later), between.List(later)), 0o600))
		return open(t, mtls.Config{CAFile: certtest.File(t, old, root), CRLFile: lists}).Identify(connect(t, shown), now)
	}
	_, err := identify(old.List(later, tls.Certificate{Leaf: cross}))
	refused(t, err, `of "CN=issuing" was revoked`)
	for _, ofOld := range [][]byte{nil, old.List(later)} {
		_, err = identify(ofOld)
		must(t, err)
	}
}
