package httpapi_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

func (m *memory) MakeOfflineKit(_ context.Context, p authn.Principal) ([]byte, error) {
	return []byte("encrypted"), m.serve(p, "offline-kit")
}

func (m *memory) ReturnOffline(_ context.Context, p authn.Principal, r client.OfflineReturn) (client.Incident, error) {
	return m.incident(), m.serve(p, "offline-return", r.ID, r.Reason, len(r.Versions))
}

func TestOfflineKitIsGivenWhole(t *testing.T) {
	t.Parallel()
	n := start(t, newMemory(), nil)
	a := n.ask(t, "GET", "/api/v1/offline-kit", goodToken, "")
	if a.status != http.StatusOK || a.body != "encrypted" || a.header.Get("Content-Length") != "9" || a.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%+v", a)
	}
	if a := n.ask(t, "GET", "/api/v1/offline-kit?since=1", goodToken, ""); a.status != http.StatusBadRequest {
		t.Errorf("with a parameter: %d", a.status)
	}
	if a := n.ask(t, "POST", "/api/v1/offline-returns", goodToken, `{"id":"i","installation":"x","reason":"leaked","versions":[{"secret":"a","version":1}]}`); a.status != http.StatusAccepted {
		t.Errorf("a return: %d %s", a.status, a.body)
	}
}
