package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/httpapi"
)

// porter is an Authenticator that remembers what it was shown, and lets nobody in.
type porter struct{ shown []authn.Credentials }

func (p *porter) Authenticate(_ context.Context, c authn.Credentials) (authn.Principal, error) {
	p.shown = append(p.shown, c)
	return authn.Principal{}, fmt.Errorf("%w: nobody", backends.ErrDenied)
}

func (p *porter) Again(context.Context, authn.Principal) (authn.Principal, error) {
	return authn.Principal{}, fmt.Errorf("%w: nobody", backends.ErrDenied)
}

// FuzzAuthorization: whatever the header is, the token is a part of it without white
// space around, after the word Bearer, or there is none.
func FuzzAuthorization(f *testing.F) {
	for _, seed := range []string{"", "Bearer", "Bearer ", "Bearer x", "bearer x y", "BEARER\tx", " Bearer x", "Basic eDp5", "Bearer  x ", "Bearer Bearer x", "Bearer \x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		p := &porter{}
		h := httpapi.New(httpapi.Config{Broker: newMemory(), Authenticator: p, Logger: hclog.NewNullLogger(), Ready: func(context.Context) []string { return nil }})
		r := httptest.NewRequest(http.MethodGet, "/api/v1/secrets", nil)
		r.Header["Authorization"] = []string{header}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusUnauthorized || len(p.shown) != 1 {
			t.Fatalf("answered %d, after %d looks at credentials", w.Code, len(p.shown))
		}
		token := p.shown[0].Token
		scheme, rest, _ := strings.Cut(header, " ")
		switch {
		case token == "" && strings.EqualFold(scheme, "Bearer") && strings.TrimSpace(rest) != "":
			t.Errorf("no token is found in %q", header)
		case token != "" && (!strings.EqualFold(scheme, "Bearer") || token != strings.TrimSpace(rest)):
			t.Errorf("the token %q is found in %q", token, header)
		case token != "" && strings.Contains(w.Body.String(), token) && len(token) > 8:
			t.Errorf("the answer has the token: %s", w.Body)
		}
	})
}
