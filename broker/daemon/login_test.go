package daemon_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/broker/authn/oidcserver"
	"github.com/keybroker/keybroker/broker/client"
)

const rolesToLogIn = `
policy "reading" {
  path "app/*" {
    capabilities = ["list", "read"]
  }
}
policy "administering" {
  path "*" {
    capabilities = ["list"]
  }
  path "sys/tokens" {
    capabilities = ["create", "delete", "list"]
  }
  path "sys/break-glass" {
    capabilities = ["create"]
  }
}
`

// atProvider is a site whose people and programs log in at a provider.
func atProvider(t *testing.T, p *oidcserver.Server) *site {
	t.Helper()
	s := newSite(t, withConsumer(embedded, nil)+rolesToLogIn+`
auth "oidc" "corp" {
  discovery_url         = "`+p.Issuer+`"
  client_id             = "keybroker"
  bound_audiences       = ["keybroker", "`+oidcserver.Audience+`"]
  name_claim            = "email"
  allow_private_network = true
}
role "reader" {
  policies  = ["reading"]
  token_ttl = "1h"
  bind "corp" {
    claims = { groups = ["dev", "on-call"] }
  }
}
role "on-call" {
  policies = ["administering", "reading"]
  bind "corp" {
    claims = { groups = "on-call" }
  }
}
role "far" {
  policies = ["reading"]
  bind "corp" {
    claims = { groups = "far" }
  }
  limits {
    cidrs = ["192.0.2.0/24"]
  }
}
`)
	return s
}

func claims(group string) map[string]any {
	return map[string]any{"email": "alice@example.com", "groups": []string{group}}
}

// refusedAs wants a problem of that status that says why.
func refusedAs(t *testing.T, err error, status int, why string) {
	t.Helper()
	if client.Status(err) != status || !strings.Contains(err.Error(), why) {
		t.Errorf("got %d %v, want %d: %s", client.Status(err), err, status, why)
	}
}

// TestLoginByJWT: what a provider says of somebody becomes a token of the role that is
// bound to that, the log has who, and nothing of what proved it.
func TestLoginByJWT(t *testing.T) {
	t.Parallel()
	p := oidcserver.New(t, nil)
	s := atProvider(t, p)
	n := s.start()
	n.done(t, "app/key")
	nobody := s.client("", n.addr)
	methods := must(nobody.AuthMethods(t.Context()))(t)
	if len(methods.Items) != 1 || methods.Items[0].Type != client.AuthPeople || methods.Items[0].Issuer != p.Issuer || methods.Items[0].ClientID != "keybroker" {
		t.Errorf("the methods: %+v", methods.Items)
	}
	jwt := p.Sign(t, claims("dev"))
	tok := must(nobody.LogIn(t.Context(), "corp", client.LoginRequest{JWT: client.SecretText(jwt)}))(t)
	if tok.Role != "reader" || tok.Name != "alice@example.com" || tok.Method != "corp" || tok.Identity != "alice" ||
		tok.ExpiresAt.Before(time.Now().Add(55*time.Minute)) || len(tok.EndedRoots) > 0 {
		t.Errorf("the token: %+v", tok)
	}
	alice := s.client(tok.Token.Reveal(), n.addr)
	must(alice.Value(t.Context(), "app/key", 0))(t)
	_, err := alice.Rotate(t.Context(), "app/key", client.RotateRequest{Reason: "x"})
	refusedAs(t, err, http.StatusForbidden, "is not allowed")

	for why, test := range map[string]struct {
		claims map[string]any
		role   string
	}{
		`is for ["https://other.example"]`:                                   {map[string]any{"aud": "https://other.example"}, ""},
		"has expired at":                                                     {map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, ""},
		"no role is bound to alice":                                          {claims("sales"), ""},
		`the role "on-call" is none of those that are bound`:                 {claims("dev"), "on-call"},
		"several roles are bound to the caller: name one of on-call, reader": {claims("on-call"), ""},
		`the role "far" is bound to other addresses`:                         {claims("far"), ""},
	} {
		_, err := nobody.LogIn(t.Context(), "corp", client.LoginRequest{Role: test.role, JWT: client.SecretText(p.Sign(t, test.claims))})
		if client.Status(err) == http.StatusTooManyRequests {
			t.Fatalf("%s: %v", why, err)
		}
		refusedAs(t, err, http.StatusUnauthorized, why)
	}
	_, err = nobody.LogIn(t.Context(), "corp", client.LoginRequest{})
	refusedAs(t, err, http.StatusBadRequest, "takes a JWT")

	log := s.lastAudited("auth.login", 1, "corp")
	for _, secret := range []string{jwt, strings.Split(jwt, ".")[2], tok.Token.Reveal()} {
		if strings.Contains(s.log.String(), secret) || strings.Contains(s.read("data/audit.jsonl"), secret) {
			t.Error("what proves who logged in is in a log")
		}
	}
	if audit := s.read("data/audit.jsonl"); !strings.Contains(audit, `"jwt":"hmac-sha256:`) || !strings.Contains(audit, `"actor":"corp/alice"`) {
		t.Errorf("the audit log does not tell of the login: %s", log)
	}
}

// TestFirstAdministratorEndsTheRootToken, whether they made a token or logged in.
func TestFirstAdministratorEndsTheRootToken(t *testing.T) {
	t.Parallel()
	p := oidcserver.New(t, nil)
	s := atProvider(t, p)
	n := s.start()
	must(n.Secrets(t.Context(), client.SecretQuery{}))(t)
	in := client.LoginRequest{Role: "on-call", JWT: client.SecretText(p.Sign(t, claims("on-call")))}
	tok := must(s.client("", n.addr).LogIn(t.Context(), "corp", in))(t)
	if len(tok.EndedRoots) != 1 {
		t.Errorf("it ended %v", tok.EndedRoots)
	}
	_, err := n.Secrets(t.Context(), client.SecretQuery{})
	refusedAs(t, err, http.StatusUnauthorized, "")
	must(s.client(tok.Token.Reveal(), n.addr).Tokens(t.Context(), client.Page{}))(t)
}

// TestProviderDown: a node starts without its provider, says what is wrong while it is
// down, and keeps whoever has a token already; a break-glass token works all the time.
func TestProviderDown(t *testing.T) {
	t.Parallel()
	p := oidcserver.New(t, nil)
	p.Stop()
	s := atProvider(t, p)
	n := s.start()
	nobody := s.client("", n.addr)
	in := client.LoginRequest{Role: "on-call", JWT: client.SecretText(p.Sign(t, claims("on-call")))}
	_, err := nobody.LogIn(t.Context(), "corp", in)
	refusedAs(t, err, http.StatusServiceUnavailable, `auth "corp" cannot check JWTs now`)
	var problem *client.Problem
	if !errors.As(err, &problem) || problem.RetryAfter == 0 {
		t.Errorf("it does not say when to try again: %v", err)
	}
	p.Start(t)
	var tok client.Token
	eventually(t, "a login after the provider came back", func() bool {
		tok, err = nobody.LogIn(t.Context(), "corp", in)
		return err == nil
	})
	alice := s.client(tok.Token.Reveal(), n.addr)
	glass := must(alice.CreateToken(t.Context(), client.CreateTokenRequest{Name: "safe", Role: "on-call", BreakGlass: true}))(t)

	p.Stop()
	must(alice.Secrets(t.Context(), client.SecretQuery{}))(t)
	must(s.client(glass.Token.Reveal(), n.addr).Secrets(t.Context(), client.SecretQuery{}))(t)
	p.RotateKey(t)
	p.Stop()
	in.JWT = client.SecretText(p.Sign(t, claims("on-call"))) // by a key that nobody can ask for
	_, err = nobody.LogIn(t.Context(), "corp", in)
	if s := client.Status(err); s != http.StatusServiceUnavailable && s != http.StatusUnauthorized {
		t.Errorf("with the provider down again: %v", err)
	}
}

// certified is a site over TLS with two methods, each with an authority of its own
// that is called the same.
func certified(t *testing.T) (s *site, mesh, partners *certtest.Authority, server *certtest.Authority) {
	t.Helper()
	mesh, partners, server = certtest.New(t, "clients", nil), certtest.New(t, "clients", nil), certtest.New(t, "server", nil)
	shown := server.Client(func(c *x509.Certificate) {
		c.IPAddresses, c.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	certFile, keyFile := certtest.Files(t, shown)
	s = newSite(t, "")
	crl := filepath.Join(s.dir, "mesh.crl")
	if err := os.WriteFile(crl, mesh.List(time.Now().Add(time.Hour)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.hcl = fmt.Sprintf(`
listener "tcp" {
  address       = %q
  tls_cert_file = %q
  tls_key_file  = %q
}
backend "local" "embedded" {}
auth "mtls" "mesh" {
  ca_file  = %q
  crl_file = "mesh.crl"
}
auth "mtls" "partners" {
  ca_file = %q
}
role "app" {
  policies  = ["reading"]
  token_ttl = "24h"
  bind "mesh" {
    spiffe_id = "spiffe://example.com/app"
  }
}
role "shop" {
  policies = ["reading"]
  bind "mesh" {
    dns_name = "*.shop.example.com"
  }
  bind "mesh" {
    spiffe_id = "spiffe://example.com/both/*"
  }
}
role "both" {
  policies = ["administering"]
  bind "mesh" {
    spiffe_id = "spiffe://example.com/both/*"
  }
}
role "partner" {
  policies = ["reading"]
  bind "partners" {
    subject = "CN=app,O=Acme\\, Inc."
  }
}
`, s.addr, certFile, keyFile, certtest.File(t, mesh), certtest.File(t, partners)) + rolesToLogIn
	return s, mesh, partners, server
}

// showing is a client that shows a certificate.
func (s *site) showing(ca *certtest.Authority, c tls.Certificate, role string) *client.Client {
	s.t.Helper()
	certFile, keyFile := certtest.Files(s.t, c)
	out, err := client.New("https://"+s.addr, "", client.Options{CAFile: certtest.File(s.t, ca), CertFile: certFile, KeyFile: keyFile, Role: role})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(out.Close)
	return out
}

func withURI(text string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, err := url.Parse(text)
		if err != nil {
			panic(err)
		}
		c.URIs = []*url.URL{u}
	}
}

// TestCertificates: who shows one is the role that is bound to what it says, by its
// own method's authority alone, in each request or with a token that it was given for.
func TestCertificates(t *testing.T) {
	t.Parallel()
	s, mesh, partners, server := certified(t)
	s.start()
	list := func(c *client.Client) error {
		_, err := c.Secrets(t.Context(), client.SecretQuery{})
		return err
	}
	app := mesh.Client(withURI("spiffe://example.com/app"))
	for name, test := range map[string]struct {
		c      tls.Certificate
		role   string
		status int
		why    string
	}{
		"a SPIFFE id":                   {app, "", 0, ""},
		"a DNS name":                    {mesh.Client(func(c *x509.Certificate) { c.DNSNames = []string{"eu.shop.example.com"} }), "", 0, ""},
		"a subject":                     {partners.Client(nil), "", 0, ""},
		"a role of two":                 {mesh.Client(withURI("spiffe://example.com/both/x")), "shop", 0, ""},
		"none of two roles":             {mesh.Client(withURI("spiffe://example.com/both/x")), "", 401, "name one of both, shop"},
		"somebody else's role":          {app, "partner", 401, `the role "partner" is none of those`},
		"another SPIFFE id":             {mesh.Client(withURI("spiffe://example.com/other")), "", 401, "no role is bound"},
		"the id by the other authority": {partners.Client(withURI("spiffe://example.com/app")), "app", 401, `the role "app" is none of those`},
		"a subject by the wrong one":    {mesh.Client(nil), "", 401, "no role is bound"},
	} {
		err := list(s.showing(server, test.c, test.role))
		if test.status == 0 && err != nil || test.status != 0 && (client.Status(err) != test.status || !strings.Contains(err.Error(), test.why)) {
			t.Errorf("%s: %v", name, err)
		}
	}

	shows := s.showing(server, app, "")
	tok := must(shows.LogIn(t.Context(), "mesh", client.LoginRequest{}))(t)
	if tok.Role != "app" || tok.Identity != "spiffe://example.com/app" || !tok.ExpiresAt.Equal(app.Leaf.NotAfter) {
		t.Errorf("the token outlives the certificate: %s and %s", tok.ExpiresAt, app.Leaf.NotAfter)
	}
	_, err := shows.LogIn(t.Context(), "partners", client.LoginRequest{})
	refusedAs(t, err, http.StatusUnauthorized, `is signed by no authority of auth "partners"`)
	_, err = shows.LogIn(t.Context(), "mesh", client.LoginRequest{JWT: "x"})
	refusedAs(t, err, http.StatusBadRequest, "and no JWT")
	_, err = shows.LogIn(t.Context(), "other", client.LoginRequest{})
	refusedAs(t, err, http.StatusUnauthorized, "there is no auth method of that name")

	// A revoked one is refused as soon as the list is there, on connections that are open, too.
	if err := list(shows); err != nil {
		t.Fatal(err)
	}
	crl := filepath.Join(s.dir, "mesh.crl")
	if err := os.WriteFile(crl+".new", mesh.List(time.Now().Add(time.Hour), app), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(crl+".new", crl); err != nil {
		t.Fatal(err)
	}
	refusedAs(t, list(shows), http.StatusUnauthorized, "the certificate is not accepted")
	other := mesh.Client(withURI("spiffe://example.com/app"))
	if err := list(s.showing(server, other, "")); err != nil {
		t.Errorf("another one of the same name: %v", err)
	}
}

// TestTokenBesideCertificates: who has none uses a token as before.
func TestTokenBesideCertificates(t *testing.T) {
	t.Parallel()
	s, mesh, _, server := certified(t)
	s.start()
	c, err := client.New("https://"+s.addr, s.rootToken(), client.Options{CAFile: certtest.File(t, server)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	must(c.Tokens(t.Context(), client.Page{}))(t)
	// Whoever shows both is the token's holder, and no other's if that is not valid.
	shown := mesh.Client(func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "x"} })
	certFile, keyFile := certtest.Files(t, shown)
	both, err := client.New("https://"+s.addr, s.rootToken(), client.Options{CAFile: certtest.File(t, server), CertFile: certFile, KeyFile: keyFile})
	if err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	must(both.Tokens(t.Context(), client.Page{}))(t)
}
