package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

var auditedAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (m *memory) AuditRecords(_ context.Context, p authn.Principal, q client.AuditQuery) (client.List[client.AuditRecord], error) {
	if q.Action != "secret." || !q.Since.Equal(auditedAt) || q.Limit != 2 || q.After != "9" {
		return client.List[client.AuditRecord]{}, m.serve(p, "audit")
	}
	return client.List[client.AuditRecord]{Items: []client.AuditRecord{{Index: 8, Actor: p.ID, Action: "secret.read"}}, Next: "8"}, m.serve(p, "audit")
}

func (m *memory) AuditHash(_ context.Context, p authn.Principal, r client.AuditHashRequest) (client.AuditHash, error) {
	return client.AuditHash{Hash: "hmac-sha256:" + strings.ToUpper(r.Text.Reveal())}, m.serve(p, "audit hash")
}

func (m *memory) AuditCheckpoint(_ context.Context, p authn.Principal) (client.AuditCheckpoint, error) {
	return client.AuditCheckpoint{Origin: "keybroker/audit/n", Size: 8}, m.serve(p, "audit checkpoint")
}

func TestAudit(t *testing.T) {
	n := start(t, newMemory(), nil)
	c, err := client.New(n.url, goodToken, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	found, err := c.Audit(t.Context(), client.AuditQuery{Action: "secret.", Since: auditedAt, Page: client.Page{Limit: 2, After: "9"}})
	if err != nil || len(found.Items) != 1 || found.Items[0].Actor != "id-good" || found.Next != "8" {
		t.Errorf("%+v (%v)", found, err)
	}
	if h, err := c.AuditHash(t.Context(), "canary"); err != nil || h.Hash != "hmac-sha256:CANARY" {
		t.Errorf("%+v (%v)", h, err)
	}
	if k, err := c.AuditCheckpoint(t.Context()); err != nil || k.Size != 8 {
		t.Errorf("%+v (%v)", k, err)
	}
	if a := n.ask(t, "GET", "/api/v1/audit?since=yesterday", goodToken, ""); a.status != http.StatusBadRequest || !strings.Contains(a.body, "since is no time") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if strings.Contains(n.log.String(), "canary") {
		t.Error("the log has what was hashed")
	}
}
