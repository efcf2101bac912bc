package vaultconn_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// A login of one's own is neither renewed nor ended by the connection.
func TestOwnLoginOutlivesTheConnection(t *testing.T) {
	s := vaultserver.Shared(t)
	c, _ := dial(t, appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything, TokenTTL: time.Hour, TokenMaxTTL: 2 * time.Hour}))
	l, err := c.LogIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if l.Token.Batch || !l.Token.Orphan || l.Token.Period != 0 || l.Token.TTL > time.Hour || l.Token.TTL < time.Hour-time.Minute {
		t.Errorf("the token is told as %+v", l.Token)
	}
	self, err := l.Read(t.Context(), "auth/token/lookup-self")
	if err != nil {
		t.Fatal(err)
	}
	own := self.Data["accessor"].(string)
	if shared := accessor(t, c); shared == own {
		t.Error("it is the shared login")
	}
	if _, err := l.Read(t.Context(), "secret/data/none"); backends.Class(err) != backends.ErrNotFound {
		t.Errorf("reading what is not there: %v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v", l, l, l); strings.Contains(text, self.Data["id"].(string)) {
		t.Error("printing shows the token")
	}
	c.Close()
	_, err = s.Client(t).Logical().Write("auth/token/lookup-accessor", map[string]any{"accessor": own})
	if err != nil {
		t.Errorf("it has ended with the connection: %v", err)
	}
	_, err = c.LogIn(t.Context())
	wantClass(t, err, backends.ErrUnavailable)
}

func TestTokensAreTold(t *testing.T) {
	s := vaultserver.Shared(t)
	token := func(path string, wants map[string]any) vaultconn.Config {
		return tokenConfig(s.Addr, s.Write(t, path, wants).Auth.ClientToken)
	}
	for name, tt := range map[string]struct {
		cfg  vaultconn.Config
		want vaultconn.Token
	}{
		"root":     {tokenConfig(s.Addr, s.RootToken), vaultconn.Token{Orphan: true}},
		"batch":    {appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything, TokenType: "batch", TokenTTL: time.Hour}), vaultconn.Token{Batch: true, Orphan: true, TTL: time.Hour}},
		"periodic": {token("auth/token/create-orphan", map[string]any{"period": "2h"}), vaultconn.Token{Orphan: true, TTL: 2 * time.Hour, Period: 2 * time.Hour}},
		"child":    {token("auth/token/create", map[string]any{"ttl": "1h"}), vaultconn.Token{TTL: time.Hour}},
		"about to end": {token("auth/token/create-orphan", map[string]any{"ttl": "1s", "policies": []string{"default"}}),
			vaultconn.Token{Orphan: true, TTL: time.Millisecond}}, // and not "never"
	} {
		c, _ := dial(t, tt.cfg)
		l, err := c.LogIn(t.Context())
		if err != nil {
			if name != "about to end" { // it may have ended
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if off := tt.want.TTL - l.Token.TTL; off < 0 || off > 10*time.Second {
			t.Errorf("%s: it lives %s, want %s", name, l.Token.TTL, tt.want.TTL)
		}
		tt.want.TTL = l.Token.TTL
		if l.Token != tt.want {
			t.Errorf("%s: told as %+v, want %+v", name, l.Token, tt.want)
		}
	}
}

// Whose login ends when cannot be told by one that may not look itself up.
func TestOwnLoginThatMayNotLook(t *testing.T) {
	s := vaultserver.Shared(t)
	token := s.Write(t, "auth/token/create-orphan", map[string]any{"no_default_policy": true, "policies": []string{"none"}}).Auth.ClientToken
	c, _ := dial(t, tokenConfig(s.Addr, token))
	_, err := c.LogIn(t.Context())
	wantClass(t, err, backends.ErrDenied)
	if !strings.Contains(err.Error(), "lookup-self") {
		t.Errorf("what to do is not told: %v", err)
	}
}

// What an own login reads is asked for once, on a connection of its own.
func TestOwnLoginAsksOnce(t *testing.T) {
	s := vaultserver.Shared(t)
	var asked atomic.Int32
	address := before(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "secret/data/") {
			asked.Add(1)
			panic(http.ErrAbortHandler)
		}
		return true
	})
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	cfg.Address = address
	c, _ := dial(t, cfg)
	l, err := c.LogIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.Read(t.Context(), "secret/data/x")
	wantClass(t, err, backends.ErrUnavailable)
	if asked.Load() != 1 {
		t.Errorf("it was asked for %d times", asked.Load())
	}
}

// A wrapped secret id, which Vault gives once, is good for all logins.
func TestOwnLoginByAWrappedSecretID(t *testing.T) {
	s := vaultserver.Shared(t)
	roleID, secretID := wrappedRole(t, s)
	file := filepath.Join(t.TempDir(), "secret-id")
	if err := os.WriteFile(file, []byte(secretID()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := dial(t, wrappedConfig(s.Addr, roleID, file))
	for range 2 {
		if _, err := c.LogIn(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A login of one's own that is refused is not tried again at once: Vault would lock the
// role for everybody.
func TestRefusedOwnLoginsArePaced(t *testing.T) {
	s := vaultserver.Shared(t)
	var logins atomic.Int32
	address := before(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/login") || logins.Add(1) == 1 {
			return true
		}
		w.WriteHeader(http.StatusBadRequest) // as when the secret id has been used up
		_, _ = w.Write([]byte(`{"errors":["invalid role or secret ID"]}`))
		return false
	})
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	cfg.Address = address
	c, _ := dial(t, cfg)
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	for range 5 {
		callers.Go(func() {
			_, err := c.LogIn(t.Context())
			wantClass(t, err, backends.ErrDenied)
		})
	}
	callers.Wait()
	if n := logins.Load(); n != 2 {
		t.Errorf("%d logins were tried, want the shared one and one more", n)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("the shared login: %v", err)
	}
}

// What cannot be told when it ends is ended at once.
func TestOwnLoginThatIsNotToldIsEnded(t *testing.T) {
	s := vaultserver.Shared(t)
	var ended atomic.Pointer[string]
	address := before(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		if token := r.Header.Get("X-Vault-Token"); strings.HasSuffix(r.URL.Path, "/revoke-self") {
			ended.Store(&token)
		}
		if !strings.HasSuffix(r.URL.Path, "/lookup-self") {
			return true
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return false
	})
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything, TokenTTL: time.Hour})
	cfg.Address = address
	c, _ := dial(t, cfg)
	_, err := c.LogIn(t.Context())
	wantClass(t, err, backends.ErrUnavailable)
	token := ended.Load()
	if token == nil {
		t.Fatal("the login was left behind")
	}
	if _, err := s.Client(t).Auth().Token().Lookup(*token); err == nil {
		t.Error("it still works")
	}
}
