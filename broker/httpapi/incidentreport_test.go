package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/report"
)

// IncidentReport implements httpapi.Broker.
func (m *memory) IncidentReport(_ context.Context, p authn.Principal, id string) (report.Signed, error) {
	return report.Signed{JSON: []byte(`{"report":{},"signature":{}}`), Markdown: []byte("# Incident " + id + "\n")}, m.serve(p, "report", id)
}

// ReportKey implements httpapi.Broker.
func (m *memory) ReportKey() client.ReportKey {
	return client.ReportKey{Type: "OKP", Curve: "Ed25519", X: "eA", ID: "k1", Use: "sig", Algorithm: "EdDSA"}
}

func TestReportsComeAsAskedFor(t *testing.T) {
	n := start(t, newMemory(), nil)
	for path, want := range map[string]struct{ media, body string }{
		"":                 {"application/json", `{"report":{},"signature":{}}`},
		"?format=json":     {"application/json", `{"report":{},"signature":{}}`},
		"?format=markdown": {"text/markdown; charset=utf-8", "# Incident i1\n"},
		"?format=both":     {"application/json", `{"json":"{\"report\":{},\"signature\":{}}","markdown":"# Incident i1\n"}`},
		"?format=html":     {"application/problem+json", ""},
	} {
		a := n.ask(t, "GET", "/api/v1/incidents/i1/report"+path, goodToken, "")
		if got := a.header.Get("Content-Type"); got != want.media || want.body != "" && a.body != want.body {
			t.Errorf("%s: %d %s %s", path, a.status, got, a.body)
		}
	}
	both, err := n.client(t, goodToken).IncidentReport(t.Context(), "i1")
	if err != nil || both.Markdown != "# Incident i1\n" || !strings.HasPrefix(both.JSON, `{"report"`) {
		t.Errorf("%+v: %v", both, err)
	}
}

func TestTheKeyOfReportsIsPublic(t *testing.T) {
	n := start(t, newMemory(), nil)
	if a := n.ask(t, "GET", "/.well-known/keybroker/report-key", "", ""); a.status != http.StatusOK || !strings.Contains(a.body, `"x":"eA"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if k, err := n.client(t, "").ReportKey(t.Context()); err != nil || k.ID != "k1" {
		t.Errorf("%+v: %v", k, err)
	}
}
