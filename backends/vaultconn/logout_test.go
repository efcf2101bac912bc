package vaultconn_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// alive tells whether the server knows a login.
func alive(t *testing.T, s *vaultserver.Server, accessor string) bool {
	t.Helper()
	_, err := s.Client(t).Auth().Token().LookupAccessorWithContext(t.Context(), accessor)
	return err == nil
}

func TestLoginsEndWithTheConnection(t *testing.T) {
	s := vaultserver.Shared(t)
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	file, write := credentialFile(t)
	secretID := cfg.Auth[0].SecretID.Reveal()
	write(secretID)
	cfg.Auth[0].SecretID, cfg.Auth[0].SecretIDFile = "", file
	c, _ := dial(t, cfg)
	first := accessor(t, c)
	write(canary) // logs nobody in
	if accessor(t, c) != first || !alive(t, s, first) {
		t.Error("a login ended that had no other after it")
	}
	write(secretID)
	second := accessor(t, c)
	if second == first {
		t.Fatal("did not log in with another file")
	}
	c.Close()
	if alive(t, s, first) || alive(t, s, second) {
		t.Error("a login outlives the connection that made it")
	}
}

func TestTokenOfTheOperatorOutlivesTheConnection(t *testing.T) {
	s := vaultserver.Shared(t)
	file, write := credentialFile(t)
	token, first := newToken(t, s)
	write(token)
	c, _ := dial(t, vaultconn.Config{Address: s.Addr, Auth: []vaultconn.Auth{{Method: "token", TokenFile: file}}})
	wantAccessor(t, c, first)
	token, second := newToken(t, s)
	write(token)
	wantAccessor(t, c, second)
	c.Close()
	if !alive(t, s, first) || !alive(t, s, second) {
		t.Error("a token that is not ours was revoked")
	}
}

func TestCloseDoesNotWaitForADeafServer(t *testing.T) {
	s := vaultserver.Shared(t)
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	asked := make(chan struct{}, 1)
	cfg.Address = before(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/revoke-self") {
			return true
		}
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		<-r.Context().Done()
		return false
	})
	c, _ := dial(t, cfg)
	accessor(t, c)
	c.Close() // or the test never ends
	select {
	case <-asked:
	default:
		t.Error("the login was not ended")
	}
}
