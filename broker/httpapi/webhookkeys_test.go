package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// WebhookKeys implements httpapi.Broker.
func (m *memory) WebhookKeys(_ context.Context, consumer string) (client.WebhookKeys, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil || consumer != "app" {
		return client.WebhookKeys{Keys: []client.WebhookKey{}}, m.fail
	}
	return client.WebhookKeys{Keys: []client.WebhookKey{{Type: "OKP", Curve: "Ed25519", X: "eA", ID: "sgk_1", Use: "sig", Algorithm: "EdDSA", StandardWebhooks: "whpk_eA=="}}}, nil
}

// TestWebhookKeysArePublic: nobody is asked who they are, every consumer has the same kind
// of answer, and only the answer may be kept for a while.
func TestWebhookKeysArePublic(t *testing.T) {
	m := newMemory()
	n := start(t, m, nil)
	const at = "/.well-known/keybroker/webhook-keys/"
	for path, want := range map[string]string{
		at + "app":      `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"eA","kid":"sgk_1","use":"sig","alg":"EdDSA","standard_webhooks":"whpk_eA=="}]}`,
		at + "nobody":   `{"keys":[]}`,
		at + "a%2Fb":    `{"keys":[]}`,
		at + "app?x=1":  "", // no parameter is taken
		at:              "",
		at + "app/more": "",
	} {
		a := n.ask(t, "GET", path, "", "")
		kept := a.header.Get("Cache-Control")
		switch {
		case want != "" && (a.status != http.StatusOK || strings.TrimSpace(a.body) != want || kept != "max-age=300"):
			t.Errorf("%s: %d %s, kept %s", path, a.status, a.body, kept)
		case want == "" && (a.status/100 != 4 || kept != "no-store"):
			t.Errorf("%s: %d, kept %s", path, a.status, kept)
		}
	}
	keys, err := n.client(t, "").WebhookKeys(t.Context(), "app")
	if err != nil || len(keys.Keys) != 1 || keys.Keys[0].ID != "sgk_1" {
		t.Errorf("%+v: %v", keys, err)
	}
	m.mu.Lock()
	m.fail = errors.New(canary)
	m.mu.Unlock()
	if a := n.ask(t, "GET", at+"app", "", ""); a.status != http.StatusInternalServerError || a.header.Get("Cache-Control") != "no-store" || strings.Contains(a.body, canary) {
		t.Errorf("after a failure: %d %s, kept %s", a.status, a.body, a.header.Get("Cache-Control"))
	}
}
