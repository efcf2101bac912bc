package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
	"github.com/keybroker/keybroker/rotation"
)

func (m *memory) Quarantines(_ context.Context, p authn.Principal) (client.List[client.Quarantine], error) {
	return client.List[client.Quarantine]{}, m.serve(p, "quarantines")
}

func (m *memory) Quarantine(_ context.Context, p authn.Principal, r client.QuarantineRequest) (client.QuarantineIntervention, error) {
	return client.QuarantineIntervention{Quarantine: client.Quarantine{Kind: r.Kind, Name: r.Name}}, m.serve(p, "quarantine", r.Kind, r.Name, r.IncidentID, fmt.Sprint(r.Force), r.Reason, fmt.Sprint(r.DryRun))
}

func (m *memory) LiftQuarantine(_ context.Context, p authn.Principal, r client.QuarantineRequest) (client.QuarantineIntervention, error) {
	return client.QuarantineIntervention{}, m.serve(p, "lift", r.Kind, r.Name, r.Reason)
}

// quarantineCalls are all calls about quarantines, by how the broker is asked.
func quarantineCalls(ctx context.Context) map[string]func(*client.Client) error {
	of := client.QuarantineRequest{Kind: client.QuarantineRole, Name: "ci", IncidentID: "i1", Force: true}
	of.Reason, of.DryRun = "why", true
	return map[string]func(*client.Client) error{
		"quarantines":                         func(c *client.Client) error { return second(c.Quarantines(ctx)) },
		"quarantine role ci i1 true why true": func(c *client.Client) error { return second(c.Quarantine(ctx, of)) },
		"lift role ci why":                    func(c *client.Client) error { return second(c.LiftQuarantine(ctx, of)) },
	}
}

// barrier is an Authenticator that knows everybody, and lets nobody in.
type barrier struct{}

func (barrier) Authenticate(context.Context, authn.Credentials) (authn.Principal, error) {
	return authn.Principal{}, &authn.KeptOut{Quarantine: rotation.Quarantine{Kind: rotation.KeptRole, Name: "ci", IncidentID: "i1", At: time.Unix(0, 0)}}
}

func (b barrier) Again(ctx context.Context, _ authn.Principal) (authn.Principal, error) {
	return b.Authenticate(ctx, authn.Credentials{})
}

// TestWhoIsKeptOutIsTold: who calls is known, so it is no 401.
func TestWhoIsKeptOutIsTold(t *testing.T) {
	h := httpapi.New(httpapi.Config{Broker: newMemory(), Authenticator: barrier{}, Logger: hclog.NewNullLogger(), Ready: func(context.Context) []string { return nil }})
	r := httptest.NewRequest(http.MethodGet, "/api/v1/secrets", nil)
	r.Header.Set("Authorization", "Bearer x")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `the role \"ci\" is in quarantine since 1970-01-01T00:00:00Z (incident i1)`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if err := (&authn.KeptOut{}); !errors.Is(err, backends.ErrDenied) {
		t.Error("it has another class")
	}
}

func TestQuarantinesAreReached(t *testing.T) {
	n := start(t, newMemory(), nil)
	for want, call := range quarantineCalls(t.Context()) {
		if err := call(n.client(t, goodToken)); err != nil || n.last() != want {
			t.Errorf("the broker was asked %q, want %q: %v", n.last(), want, err)
		}
		if err := call(n.client(t, otherToken)); client.Status(err) != http.StatusForbidden {
			t.Errorf("%s, by who may not: %v", want, err)
		}
	}
}
