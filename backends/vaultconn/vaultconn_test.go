package vaultconn_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

const canary = "canary-2b77e0"

// dial closes the connection with the test. The log is returned for what should
// be in it; what must not be is looked for here.
func dial(t *testing.T, cfg vaultconn.Config) (*vaultconn.Conn, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	c, err := vaultconn.Dial(t.Context(), cfg, hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if _, err := c.Read(context.Background(), "auth/token/lookup-self", nil); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("reading after Close: %v", err)
		}
		if strings.Contains(log.String(), canary) {
			t.Error("the log gives a secret away")
		}
	})
	return c, log
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func tokenConfig(address, token string) vaultconn.Config {
	return vaultconn.Config{
		Address: address,
		Auth:    []vaultconn.Auth{{Method: "token", Token: backends.SecretString(token)}},
	}
}

func appRoleConfig(t *testing.T, s *vaultserver.Server, role vaultserver.AppRole) vaultconn.Config {
	t.Helper()
	roleID, secretID := s.AppRole(t, role)
	return vaultconn.Config{
		Address: s.Addr,
		Auth: []vaultconn.Auth{{
			Method: "approle", RoleID: backends.SecretString(roleID), SecretID: backends.SecretString(secretID),
		}},
	}
}

func wantClass(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(backends.Class(err), class) {
		t.Errorf("got %v, want an error of class %v", err, class)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
		t.Error("the error gives a secret away")
	}
}

// accessor names what the connection is logged in with at the moment.
func accessor(t *testing.T, c *vaultconn.Conn) string {
	t.Helper()
	self, err := c.Read(t.Context(), "auth/token/lookup-self", nil)
	if err != nil {
		t.Fatal(err)
	}
	return self.Data["accessor"].(string)
}

func revoke(t *testing.T, s *vaultserver.Server, accessor string) {
	t.Helper()
	if err := s.Client(t).Auth().Token().RevokeAccessorWithContext(t.Context(), accessor); err != nil {
		t.Fatal(err)
	}
}

func TestAppRoleLogsInOnceAndAgainWhenRevoked(t *testing.T) {
	s := vaultserver.Shared(t)
	c, _ := dial(t, appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything}))

	first := accessor(t, c)
	if again := accessor(t, c); again != first {
		t.Error("two calls used two logins")
	}
	revoke(t, s, first)

	var wg sync.WaitGroup
	accessors := make([]string, 8)
	for i := range accessors {
		wg.Go(func() { accessors[i] = accessor(t, c) })
	}
	wg.Wait()
	for _, a := range accessors {
		if a == first || a != accessors[0] {
			t.Errorf("after the login was revoked, calls used the logins %q", accessors)
			break
		}
	}
}

func TestDeniedByPolicyIsNoReasonToLogInAgain(t *testing.T) {
	s := vaultserver.Shared(t)
	c, _ := dial(t, appRoleConfig(t, s, vaultserver.AppRole{Policy: `path "nothing" { capabilities = ["read"] }`}))
	first := accessor(t, c)
	for range 3 {
		_, err := c.Read(t.Context(), "secret/data/x", nil)
		wantClass(t, err, backends.ErrDenied)
	}
	if accessor(t, c) != first {
		t.Error("a denied call cost a login")
	}
}

func TestShortLoginsAreRenewedAndThenReplaced(t *testing.T) {
	t.Parallel()
	s := vaultserver.Shared(t)
	c, log := dial(t, appRoleConfig(t, s, vaultserver.AppRole{
		Policy: vaultserver.Everything, TokenTTL: 3 * time.Second, TokenMaxTTL: 6 * time.Second,
	}))
	first := accessor(t, c)
	deadline := time.Now().Add(20 * time.Second)
	for accessor(t, c) == first {
		if time.Now().After(deadline) {
			t.Fatal("the login never ended")
		}
		time.Sleep(50 * time.Millisecond) // a poll, not an order of events
	}
	if !strings.Contains(log.String(), "login renewed") {
		t.Errorf("the login was never renewed; log:\n%s", log)
	}
}

func TestCloseLeavesNothingRunning(t *testing.T) {
	s := vaultserver.Shared(t)
	before := goleak.IgnoreCurrent()
	c, _ := dial(t, appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything, TokenTTL: time.Hour}))
	revoke(t, s, accessor(t, c)) // its renewal goes with it
	accessor(t, c)
	c.Close()
	c.Close()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

func TestSecretIDFileIsReadAtEachLogin(t *testing.T) {
	s := vaultserver.Shared(t)
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	secretID := cfg.Auth[0].SecretID.Reveal()
	file := filepath.Join(t.TempDir(), "secret-id")
	cfg.Auth[0].SecretID, cfg.Auth[0].SecretIDFile = "", file
	c, _ := dial(t, cfg)

	wantClass(t, c.Check(t.Context()), backends.ErrUnavailable) // there may be one later
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(canary)
	wantClass(t, c.Check(t.Context()), backends.ErrDenied)
	write(secretID)
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("with the right secret id in the file: %v", err)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s := vaultserver.Shared(t)
	root, _ := dial(t, tokenConfig(s.Addr, s.RootToken))
	if err := root.Check(t.Context()); err != nil {
		t.Errorf("with the root token: %v", err)
	}
	unknown, _ := dial(t, tokenConfig(s.Addr, canary))
	wantClass(t, unknown.Check(t.Context()), backends.ErrDenied)

	// A periodic token lives for as long as somebody renews it.
	periodic, err := s.Client(t).Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Period: "4s"})
	if err != nil {
		t.Fatal(err)
	}
	c, log := dial(t, tokenConfig(s.Addr, periodic.Auth.ClientToken))
	for start := time.Now(); time.Since(start) < 5*time.Second; time.Sleep(50 * time.Millisecond) {
		if err := c.Check(t.Context()); err != nil {
			t.Fatalf("the token was not kept alive: %v; log:\n%s", err, log)
		}
	}
}

func TestWrongLoginsAreDenied(t *testing.T) {
	s := vaultserver.Shared(t)
	good := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	for name, spoil := range map[string]func(*vaultconn.Auth){
		"secret id": func(a *vaultconn.Auth) { a.SecretID = canary },
		"role id":   func(a *vaultconn.Auth) { a.RoleID = canary },
		"mount":     func(a *vaultconn.Auth) { a.Mount = "elsewhere" },
	} {
		cfg := good
		cfg.Auth = []vaultconn.Auth{good.Auth[0]}
		spoil(&cfg.Auth[0])
		c, _ := dial(t, cfg)
		_, err := c.Read(t.Context(), "secret/data/x", nil)
		t.Logf("wrong %s: %v", name, err)
		wantClass(t, err, backends.ErrDenied)
	}
}

func TestServerMayComeAndGo(t *testing.T) {
	s := vaultserver.Start(t)
	c, _ := dial(t, appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything}))
	s.Seal(t)
	wantClass(t, c.Check(t.Context()), backends.ErrUnavailable) // cannot even log in
	s.Unseal(t)
	if err := c.Check(t.Context()); err != nil {
		t.Fatalf("after unsealing: %v", err)
	}
	s.Seal(t)
	wantClass(t, c.Check(t.Context()), backends.ErrUnavailable)
	s.Unseal(t)
	if err := c.Check(t.Context()); err != nil {
		t.Fatalf("after unsealing again: %v", err)
	}
	s.Stop()
	wantClass(t, c.Check(t.Context()), backends.ErrUnavailable)
}

func TestNothingComesFromTheEnvironment(t *testing.T) {
	s := vaultserver.Shared(t)
	for name, value := range map[string]string{
		"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_AGENT_ADDR": "http://127.0.0.1:1", "VAULT_PROXY_ADDR": "http://127.0.0.1:1",
		"VAULT_HTTP_PROXY": "http://127.0.0.1:1", "VAULT_TOKEN": "hvs.other", "VAULT_NAMESPACE": "other", "VAULT_WRAP_TTL": "60s",
		"VAULT_RATE_LIMIT": "0.001:1", "VAULT_CLIENT_TIMEOUT": "1ms", "VAULT_SKIP_VERIFY": "true", "VAULT_TLS_SERVER_NAME": "other",
		"VAULT_HEADERS": `{"Authorization":"Bearer other"}`, "VAULT_SRV_LOOKUP": "true", "VAULT_MAX_RETRIES": "9",
	} {
		t.Setenv(name, value)
	}
	var seen http.Header
	proxy := before(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		seen = r.Header.Clone()
		return true
	})
	c, _ := dial(t, tokenConfig(proxy, s.RootToken))
	written, err := c.Write(t.Context(), "secret/data/environment", map[string]any{"data": map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if written.WrapInfo != nil {
		t.Error("VAULT_WRAP_TTL wrapped an answer")
	}
	for name := range seen {
		if name == "X-Vault-Namespace" || name == "Authorization" || name == "X-Vault-Wrap-Ttl" {
			t.Errorf("the request carried %s: %s", name, seen.Get(name))
		}
	}
}

// before puts f before a server: it answers itself or returns true to pass the
// request on.
func before(t *testing.T, s *vaultserver.Server, f func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	srv := httptest.NewServer(reverseProxy(t, s, f))
	t.Cleanup(srv.Close)
	return srv.URL
}

func reverseProxy(t *testing.T, s *vaultserver.Server, f func(http.ResponseWriter, *http.Request) bool) http.Handler {
	t.Helper()
	target, err := url.Parse(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	proxy.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f(w, r) {
			proxy.ServeHTTP(w, r)
		}
	})
}

// selfSigned makes a certificate that is its own authority.
func selfSigned(t *testing.T, name string) (cert *x509.Certificate, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func TestAnswersAreClassified(t *testing.T) {
	s := vaultserver.Shared(t)
	body := map[string]any{"data": map[string]string{"key": canary}}
	tests := []struct {
		status int
		text   string
		class  error
	}{
		{400, `{"errors":["check-and-set parameter did not match the current version"]}`, backends.ErrConflict},
		{400, `{"errors":["Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly."]}`, backends.ErrUnavailable},
		{400, `{"errors":["something else"]}`, backends.ErrInvalid},
		{401, ``, backends.ErrDenied},
		{403, `{"errors":["permission denied"]}`, backends.ErrDenied},
		{405, `{"errors":["unsupported operation"]}`, backends.ErrUnsupported},
		{412, `{"errors":["required index state not present"]}`, backends.ErrUnavailable},
		{413, `<html>too large</html>`, backends.ErrInvalid},
		{429, `{"errors":["request path rate limit exceeded"]}`, backends.ErrUnavailable},
		{473, ``, backends.ErrUnavailable},
		{500, `{"errors":["internal error"]}`, backends.ErrUnavailable},
		{502, `<html>bad gateway</html>`, backends.ErrUnavailable},
		{503, `{"errors":["Vault is sealed"]}`, backends.ErrUnavailable},
		{200, `no JSON`, backends.ErrUnavailable},
		{200, `{"data":`, backends.ErrUnavailable},
		{307, ``, backends.ErrUnavailable},
		// A proxy that quotes the request must not bring a value into the log.
		{400, `{"errors":["cannot handle {\"key\":\"` + canary + `\"}"]}`, backends.ErrInvalid},
		{500, `cannot handle ` + canary, backends.ErrUnavailable},
	}
	for _, tt := range tests {
		var requests atomic.Int32
		address := before(t, s, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return true
			}
			requests.Add(1)
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.text)
			return false
		})
		c, _ := dial(t, tokenConfig(address, s.RootToken))
		_, err := c.Write(t.Context(), "secret/data/x", body)
		wantClass(t, err, tt.class)
		if strings.ContainsAny(fmt.Sprint(err), "\n<") {
			t.Errorf("%d: the error is not one plain line: %v", tt.status, err)
		}
		if n := requests.Load(); n != 1 {
			t.Errorf("%d: the request was sent %d times", tt.status, n)
		}
	}
}

func TestCallsEndWithTheirContextAndWithClose(t *testing.T) {
	s := vaultserver.Shared(t)
	arrived := make(chan struct{}, 2)
	address := before(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return true
		}
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server see the client leave
		arrived <- struct{}{}
		<-r.Context().Done()
		return false
	})
	c, _ := dial(t, tokenConfig(address, s.RootToken))
	write := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := c.Write(ctx, "secret/data/x", map[string]any{"data": map[string]string{"key": canary}})
			done <- err
		}()
		<-arrived
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := write(ctx)
	cancel()
	err := <-cancelled
	wantClass(t, err, backends.ErrUnavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want it to be context.Canceled too", err)
	}
	closed := write(t.Context())
	c.Close()
	wantClass(t, <-closed, backends.ErrUnavailable)
}

func TestTLS(t *testing.T) {
	s := vaultserver.Shared(t)
	srv := httptest.NewUnstartedServer(reverseProxy(t, s, func(http.ResponseWriter, *http.Request) bool { return true }))
	srv.Config.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := tokenConfig(srv.URL, s.RootToken)
	untrusting, _ := dial(t, cfg)
	wantClass(t, untrusting.Check(t.Context()), backends.ErrUnavailable)

	cfg.CACertFile = ca
	trusting, _ := dial(t, cfg)
	if err := trusting.Check(t.Context()); err != nil {
		t.Errorf("with its CA: %v", err)
	}
	cfg.TLSServerName = "example.com" // is in httptest's certificate
	named, _ := dial(t, cfg)
	if err := named.Check(t.Context()); err != nil {
		t.Errorf("under the name example.com: %v", err)
	}
	cfg.TLSServerName = "vault.invalid"
	misnamed, _ := dial(t, cfg)
	wantClass(t, misnamed.Check(t.Context()), backends.ErrUnavailable)

	cfg.CACertFile = filepath.Join(t.TempDir(), "none.pem")
	_, err := vaultconn.Dial(t.Context(), cfg, hclog.NewNullLogger())
	wantClass(t, err, backends.ErrInvalid)
}
