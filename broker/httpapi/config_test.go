package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

func (m *memory) Reload(_ context.Context, p authn.Principal, r client.ReloadRequest) (client.Reload, error) {
	return client.Reload{DryRun: r.DryRun, At: then}, m.serve(p, "reload", r.DryRun)
}

func (m *memory) Configuration(_ context.Context, p authn.Principal) (client.Configuration, error) {
	return client.Configuration{LoadedAt: then}, m.serve(p, "configuration")
}

// TestARefusedReloadHasAllItsReasons: in the problem document, for programs and
// for people.
func TestARefusedReloadHasAllItsReasons(t *testing.T) {
	m := newMemory()
	want := []client.ConfigFinding{
		{What: `rotation r1 needs issuer "mailer"`, Remedy: "keybroker rotation cancel r1"},
		{What: "There is no attribute", File: "config.hcl", Line: 7},
	}
	m.fail = broker.RefuseConfig(backends.ErrConflict, want...)
	n := start(t, m, nil)
	raw := n.ask(t, "POST", "/api/v1/sys/reload", goodToken, `{"dry_run": true}`)
	p := raw.problem(t)
	if raw.status != http.StatusConflict || !slices.Equal(p.Problems, want) || !strings.Contains(p.Detail, "and 1 more") || p.Hint == "" {
		t.Errorf("%d %+v", raw.status, p)
	}
	_, err := n.client(t, goodToken).Reload(t.Context(), client.ReloadRequest{})
	if got, ok := errors.AsType[*client.Problem](err); !ok || !slices.Equal(got.Problems, want) {
		t.Errorf("the client has %v", err)
	}
	m.fail = nil
	if raw := n.ask(t, "GET", "/api/v1/sys/config", goodToken, ""); raw.status != http.StatusOK || !strings.Contains(raw.body, `"loaded_at":"2026-01-02T03:04:05Z"`) {
		t.Errorf("%d %s", raw.status, raw.body)
	}
	if raw := n.ask(t, "POST", "/api/v1/sys/reload", otherToken, ""); raw.status != http.StatusForbidden || len(raw.problem(t).Problems) > 0 {
		t.Errorf("another's: %d %s", raw.status, raw.body)
	}
}
