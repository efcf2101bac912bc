package vaultconn_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

func TestServerIsKilledAndRestarted(t *testing.T) {
	s := vaultserver.StartDurable(t)
	c, _ := dial(t, appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything}))
	first := accessor(t, c)
	s.Kill(t)
	wantClass(t, c.Check(t.Context()), backends.ErrUnavailable)
	s.Restart(t)
	if accessor(t, c) != first {
		t.Error("logged in again, though the server still knows the login")
	}
	revoke(t, s, first)
	s.Kill(t)
	s.Restart(t)
	if accessor(t, c) == first {
		t.Error("used a revoked login")
	}
}

// Like a server restored from a backup that is older than our login.
func TestServerThatForgotTheLogin(t *testing.T) {
	s := vaultserver.Shared(t)
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	c, _ := dial(t, cfg)
	first := accessor(t, c)
	if err := s.Client(t).Sys().RevokePrefixWithContext(t.Context(), "auth/approle"); err != nil {
		t.Fatal(err)
	}
	if accessor(t, c) == first {
		t.Error("used a revoked login")
	}
}

func TestStandbyLeadsToTheActiveNode(t *testing.T) {
	s, standby := vaultserver.StartPair(t)
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	cfg.Address = standby
	c, _ := dial(t, cfg)
	if err := c.Check(t.Context()); err != nil {
		t.Fatalf("through the standby: %v", err)
	}
	if _, err := c.Write(t.Context(), "secret/data/x", map[string]any{"data": map[string]string{"key": canary}}); err != nil {
		t.Errorf("writing: %v", err)
	}
	if err := c.Patch(t.Context(), "secret/metadata/x", map[string]any{"custom_metadata": map[string]string{"a": "b"}}); err != nil {
		t.Errorf("patching: %v", err)
	}
	if _, err := c.List(t.Context(), "secret/metadata/"); err != nil {
		t.Errorf("listing: %v", err)
	}
	if err := s.Client(t).Sys().SealWithContext(t.Context()); err != nil { // the active node
		t.Fatal(err)
	}
	// The standby becomes the active node.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := c.Check(t.Context())
		if err == nil {
			break
		}
		wantClass(t, err, backends.ErrUnavailable)
		if time.Now().After(deadline) {
			t.Fatal("the standby did not take over")
		}
	}
	if _, err := c.Read(t.Context(), "secret/data/x", nil); err != nil {
		t.Errorf("reading after the failover: %v", err)
	}
}

func TestRedirectionToPlainHTTPIsRefused(t *testing.T) {
	s := vaultserver.Shared(t)
	address := before(t, s, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Location", "http://vault.invalid:8200/v1/auth/token/lookup-self")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return false
	})
	c, _ := dial(t, tokenConfig(address, canary))
	err := c.Check(t.Context())
	wantClass(t, err, backends.ErrUnavailable)
	if !strings.Contains(fmt.Sprint(err), "redirects to plain HTTP") {
		t.Errorf("redirected with %v", err)
	}
}

func TestTooManyRequestsAreUnavailable(t *testing.T) {
	s := vaultserver.Start(t)
	client := s.Client(t)
	_, err := client.Logical().WriteWithContext(t.Context(), "sys/quotas/rate-limit/few", map[string]any{
		"path": "secret/", "rate": 1, "interval": "1h",
	})
	if err != nil {
		t.Fatal(err)
	}
	var status []string
	address := before(t, s, func(http.ResponseWriter, *http.Request) bool { return true })
	c, _ := dial(t, tokenConfig(address, s.RootToken))
	for range 2 {
		_, err = c.Read(t.Context(), "secret/config", nil)
		status = append(status, fmt.Sprint(err))
	}
	wantClass(t, err, backends.ErrUnavailable)
	if !strings.Contains(status[1], "429") {
		t.Errorf("answered %q", status)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("the login went with it: %v", err)
	}
}

// The core is the community edition, which has no namespaces: what it would make
// of them is seen on the way and taken off.
func TestNamespaceIsSentWithEveryRequest(t *testing.T) {
	s := vaultserver.Shared(t)
	var mu sync.Mutex
	seen := map[string]string{} // path → namespace
	address := before(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		seen[r.Method+" "+r.URL.Path] = r.Header.Get("X-Vault-Namespace")
		r.Header.Del("X-Vault-Namespace")
		return true
	})
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	cfg.Address, cfg.Namespace = address, "team/payments"
	c, _ := dial(t, cfg)
	if _, err := c.Write(t.Context(), "secret/data/namespace", map[string]any{"data": map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Patch(t.Context(), "secret/metadata/namespace", map[string]any{"max_versions": 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(t.Context(), "secret/metadata/"); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock() // renewals go on
	defer mu.Unlock()
	for _, request := range []string{
		"PUT /v1/auth/approle/login", "PUT /v1/secret/data/namespace", "PATCH /v1/secret/metadata/namespace", "GET /v1/auth/token/lookup-self",
	} {
		if _, ok := seen[request]; !ok {
			t.Errorf("did not see %s but %v", request, seen)
		}
	}
	for request, namespace := range seen {
		if strings.Trim(namespace, "/") != "team/payments" {
			t.Errorf("%s carried the namespace %q", request, namespace)
		}
	}
}

// clientCertificate writes a self-signed certificate for a name to two files.
func clientCertificate(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	cert, certPEM, keyPEM := selfSigned(t, name)
	for file, content := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert
}

// The core serves plain HTTP; a proxy before it asks for certificates, as proxies
// before Vault do.
func TestClientCertificateIsShownAndReadAnew(t *testing.T) {
	s := vaultserver.Shared(t)
	dir := t.TempDir()
	first := clientCertificate(t, dir, "first")
	clients := x509.NewCertPool()
	clients.AddCert(first)

	var shown []string
	srv := httptest.NewUnstartedServer(reverseProxy(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		shown = append(shown, r.TLS.PeerCertificates[0].Subject.CommonName)
		return true
	}))
	srv.Config.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
	srv.Config.SetKeepAlivesEnabled(false) // a handshake for each request
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := filepath.Join(dir, "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}

	cfg := tokenConfig(srv.URL, s.RootToken)
	cfg.CACertFile = ca
	anonymous, _ := dial(t, cfg)
	wantClass(t, anonymous.Check(t.Context()), backends.ErrUnavailable)

	cfg.ClientCertFile, cfg.ClientKeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c, _ := dial(t, cfg)
	if err := c.Check(t.Context()); err != nil {
		t.Fatalf("with a certificate: %v", err)
	}
	clients.AddCert(clientCertificate(t, dir, "second")) // between handshakes
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("with another certificate: %v", err)
	}
	if shown[0] != "first" || shown[len(shown)-1] != "second" {
		t.Errorf("showed the certificates %q", shown)
	}

	cfg.ClientKeyFile = cfg.ClientCertFile
	_, err := vaultconn.Dial(t.Context(), cfg, hclog.NewNullLogger())
	wantClass(t, err, backends.ErrInvalid)
}

// The time to wait comes from a Vault's quota or from a proxy before it.
func TestHowLongToWaitIsPassedOn(t *testing.T) {
	s := vaultserver.Shared(t)
	for header, want := range map[string]time.Duration{"": -1, "soon": -1, "7": 7 * time.Second, "Mon, 02 Jan 2006 15:04:05 GMT": 0} {
		for _, spoilt := range []string{"/login", "/secret/config"} {
			address := before(t, s, func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, spoilt) {
					return true
				}
				if header != "" {
					w.Header().Set("Retry-After", header)
				}
				w.WriteHeader(http.StatusTooManyRequests)
				return false
			})
			cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
			cfg.Address = address
			c, _ := dial(t, cfg)
			_, err := c.Read(t.Context(), "secret/config", nil)
			wantClass(t, err, backends.ErrUnavailable)
			wait, ok := backends.RetryAfter(err)
			if ok != (want >= 0) || ok && wait != want {
				t.Errorf("%s with Retry-After %q: the error says %s, %t", spoilt, header, wait, ok)
			}
		}
	}
}
