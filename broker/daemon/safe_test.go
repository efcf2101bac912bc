package daemon_test

import (
	"net/http"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// TestATokenForTheSafeEndsNoRootToken, whatever its role may do: it is locked away, and
// whoever makes it goes on setting up. The first token for use does.
func TestATokenForTheSafeEndsNoRootToken(t *testing.T) {
	t.Parallel()
	n := newSite(t, withConsumer(embedded, nil)+"role \"admin\" {\n  policies = [\"root\"]\n}\n").start()
	made := must(n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "safe", Role: "admin", BreakGlass: true}))(t)
	if _, err := n.Tokens(t.Context(), client.Page{}); err != nil || len(made.EndedRoots) != 0 {
		t.Errorf("after a break-glass token: %v, ended %v", err, made.EndedRoots)
	}
	made = must(n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "admin", Role: "admin"}))(t)
	if _, err := n.Tokens(t.Context(), client.Page{}); client.Status(err) != http.StatusUnauthorized || len(made.EndedRoots) != 1 {
		t.Errorf("after an admin's token: %v, ended %v", err, made.EndedRoots)
	}
}
