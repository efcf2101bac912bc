package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
	"github.com/keybroker/keybroker/broker/ratelimit"
	"github.com/keybroker/keybroker/policy"
)

func (m *memory) AuthMethods(context.Context) (client.List[client.AuthMethod], error) {
	return client.List[client.AuthMethod]{Items: []client.AuthMethod{
		{Name: "corp", Type: client.AuthPeople, Issuer: "https://login.example.com", ClientID: "keybroker", Scopes: []string{"openid"}},
	}}, nil
}

// LogIn takes the JWT of the role's name.
func (m *memory) LogIn(_ context.Context, shown authn.Credentials, method string, r client.LoginRequest, admit func(authn.Principal) error) (client.Token, error) {
	switch {
	case method != "corp":
		return client.Token{}, fmt.Errorf("%w: there is no auth method %q", backends.ErrDenied, method)
	case r.JWT.Reveal() == "away":
		return client.Token{}, fmt.Errorf("%w: the provider is down", backends.ErrUnavailable)
	case r.JWT.Reveal() != "jwt-of-"+r.Role:
		return client.Token{}, fmt.Errorf("%w: the JWT has expired", backends.ErrDenied)
	}
	if err := admit(authn.Principal{ID: "corp/alice", Lineage: "corp:alice"}); err != nil {
		return client.Token{}, err
	}
	return client.Token{ID: "tok_1", Name: shown.Request, Role: r.Role, Token: "kbt_new"}, nil
}

// TestLoginsOfOneAreCounted, and nobody else's by them.
func TestLoginsOfOneAreCounted(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) {
		c.Limits.Rates = ratelimit.Rates{Identity: policy.Limit{RequestsPerMinute: 1, Burst: 2}}
	})
	c := n.client(t, "")
	made := 0
	for range 5 {
		_, err := c.LogIn(t.Context(), "corp", client.LoginRequest{Role: "on-call", JWT: "jwt-of-on-call"})
		if err == nil {
			made++
		} else if client.Status(err) != http.StatusTooManyRequests {
			t.Error(err)
		}
	}
	if made != 2 {
		t.Errorf("%d logins, and not 2", made)
	}
	if _, err := c.AuthMethods(t.Context()); err != nil {
		t.Errorf("others: %v", err)
	}
}

func TestLogIn(t *testing.T) {
	n := start(t, newMemory(), nil)
	c := n.client(t, "")
	methods, err := c.AuthMethods(t.Context())
	if err != nil || len(methods.Items) != 1 || methods.Items[0].Issuer != "https://login.example.com" {
		t.Errorf("%+v, %v", methods, err)
	}
	token, err := c.LogIn(t.Context(), "corp", client.LoginRequest{Role: "on-call", JWT: "jwt-of-on-call"})
	if err != nil || token.Role != "on-call" || token.Token.Reveal() != "kbt_new" || token.Name == "" {
		t.Errorf("%+v, %v", token, err)
	}
	for jwt, want := range map[client.SecretText]int{"jwt-of-another": http.StatusUnauthorized, "": http.StatusUnauthorized, "away": http.StatusServiceUnavailable} {
		_, err := c.LogIn(t.Context(), "corp", client.LoginRequest{Role: "on-call", JWT: jwt})
		var p *client.Problem
		if client.Status(err) != want || !errors.As(err, &p) || want == http.StatusUnauthorized && !strings.Contains(p.Detail, "the JWT has expired") {
			t.Errorf("%q: %v", jwt.Reveal(), err)
		}
	}
	if _, err := c.LogIn(t.Context(), "other", client.LoginRequest{}); client.Status(err) != http.StatusUnauthorized {
		t.Errorf("an unknown method: %v", err)
	}
	a := n.ask(t, "POST", "/api/v1/auth/corp/login", "", `{"jwt": "x", "token": "y"}`)
	if p := a.problem(t); a.status != http.StatusBadRequest || !strings.Contains(p.Detail, `the field "token" is unknown`) {
		t.Errorf("%+v", p)
	}
}
