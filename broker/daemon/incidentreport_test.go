package daemon_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/report"
)

// reportOf is the report of an incident, verified with the key that the node publishes.
func (n *node) reportOf(t *testing.T, c *client.Client, id string) (client.IncidentReports, report.Report) {
	t.Helper()
	made := must(c.IncidentReport(t.Context(), id))(t)
	text, err := json.Marshal(must(n.ReportKey(t.Context()))(t))
	if err != nil {
		t.Fatal(err)
	}
	key := must(report.ParseKey(string(text)))(t)
	found, err := report.Verify([]byte(made.JSON), key)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := report.Verify([]byte(made.Markdown), key); err != nil || m.Digest != found.Digest || !found.Matches([]byte(made.Markdown)) {
		t.Errorf("the Markdown: %v", err)
	}
	return made, *found.Report
}

func claimsOf(r report.Report, kind string) (out []report.Claim) {
	for _, c := range r.Claims {
		if c.Kind == kind {
			out = append(out, c)
		}
	}
	return out
}

// incidentIn waits until an incident is as far as said.
func (n *node) incidentIn(t *testing.T, id, what string, far func(client.Incident) bool) (i client.Incident) {
	t.Helper()
	eventually(t, what, func() bool {
		var err error
		i, err = n.Incident(t.Context(), id)
		return err == nil && far(i)
	})
	return i
}

// TestTheReportOfAnIncident declares, contains, proves, reports, verifies, and tampers.
func TestTheReportOfAnIncident(t *testing.T) {
	t.Parallel()
	secret := newSigningSecret()
	s := newSite(t, withConsumer(embedded, newConsumer(t, secret)))
	s.env["SIGNING_SECRET"] = secret.Reveal()
	n := s.start()
	n.done(t, "app/key")
	leaked := n.value(t, "app/key")
	reader, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"reader"}})
	must(reader.Value(t.Context(), "app/key", 0))(t)
	at := time.Now().Add(-time.Hour)
	inc := must(n.DeclareIncident(t.Context(), client.IncidentRequest{Reason: "it stood in a log", Selector: client.Selector{Names: []string{"app/key"}}, LeakedAt: at}))(t)
	_, early := n.reportOf(t, n.Client, inc.ID)
	if len(claimsOf(early, report.KindOpen)) == 0 {
		t.Error("nothing is open in the report that was made at once")
	}
	must(n.NoteIncident(t.Context(), inc.ID, client.IncidentNoteRequest{Text: "the log is deleted"}))(t)
	n.incidentIn(t, inc.ID, "everything to be proven dead, and told", func(i client.Incident) bool {
		return !i.ProvenAt.IsZero() && i.Progress.Replaced == 1 && !slices.ContainsFunc(i.Consumers, func(c client.IncidentConsumer) bool { return len(c.Without) > 0 })
	})
	must(n.CloseIncident(t.Context(), inc.ID, client.IncidentActRequest{Reason: "done"}))(t)
	note, err := json.Marshal(must(n.AuditCheckpoint(t.Context()))(t).Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	s.inDatabase("INSERT INTO settings (name, value) VALUES ('audit/checkpoint/another', $1)", note) // as another node keeps its own
	made, r := n.reportOf(t, n.Client, inc.ID)
	if len(r.OtherLogs) != 1 || r.OtherLogs[0].Node != "another" || r.OtherLogs[0].Size == 0 || !strings.Contains(made.Markdown, "node another has an audit log of its own") {
		t.Errorf("the logs of other nodes: %v", r.OtherLogs)
	}
	if acts := claimsOf(r, report.KindAct); len(acts) < 3 { // declared, noted, closed
		t.Errorf("who did what: %v", acts)
	}

	for kind, want := range map[string]int{report.KindLeaked: 1, report.KindDeclared: 1, report.KindContained: 1, report.KindProven: 1, report.KindExposure: 1,
		report.KindReplaced: 1, report.KindDelivered: 1, report.KindNote: 1, report.KindClosed: 1, report.KindTotal: 4} {
		if got := claimsOf(r, kind); len(got) != want {
			t.Errorf("%d claims of kind %s, want %d: %v", len(got), kind, want, got)
		}
	}
	for _, c := range claimsOf(r, report.KindOpen) {
		if !strings.Contains(c.Text, "to be done by people") {
			t.Errorf("still open: %s", c)
		}
	}
	if reads := claimsOf(r, report.KindRead); len(reads) < 2 {
		t.Errorf("who was given it: %v", reads)
	}
	for _, kind := range []string{report.KindDeclared, report.KindContained, report.KindProven, report.KindReplaced, report.KindClosed, report.KindAcknowledged} {
		for _, c := range claimsOf(r, kind) {
			if !slices.ContainsFunc(c.Evidence, func(e string) bool { return strings.HasPrefix(e, "audit:") }) {
				t.Errorf("no line of the audit log is behind: %s", c)
			}
		}
	}
	for _, text := range []string{made.JSON, made.Markdown} {
		for _, value := range leaked.Fields {
			if strings.Contains(text, value) {
				t.Error("the report has the value")
			}
		}
	}
	s.verifyLog(t, n)
	if missing, err := r.Journal.Lacks([]string{filepath.Join(s.dir, "data")}); missing != nil || err != nil {
		t.Errorf("the journal lacks %v: %v", missing, err)
	}
	for _, old := range []string{`"rejected"`, `"contained"`, inc.ID, "it stood in a log"} {
		changed := bytes.Replace([]byte(made.JSON), []byte(old), []byte(strings.ToUpper(old)), 1)
		if bytes.Equal(changed, []byte(made.JSON)) {
			t.Fatalf("the report has no %s", old)
		}
		if _, err := report.Verify(changed, nil); err == nil {
			t.Errorf("%s was changed, and it verifies", old)
		}
	}
}

// TestAReportIsCutToWhatItsReaderSees has readers with less.
func TestAReportIsCutToWhatItsReaderSees(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+`
secret "hidden/key" {
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
}
policy "auditor" {
  path "app/*" {
    capabilities = ["list"]
  }
  path "sys/incidents/*" {
    capabilities = ["read"]
  }
}
`)
	n := s.start()
	n.done(t, "app/key", "hidden/key")
	inc := must(n.DeclareIncident(t.Context(), client.IncidentRequest{Reason: "a laptop was stolen", Selector: client.Selector{All: true}}))(t)
	auditor, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"auditor"}})
	made, r := n.reportOf(t, auditor, inc.ID)
	if len(r.Secrets) != 1 || r.Secrets[0].Name != "app/key" || !r.Partial {
		t.Errorf("secrets %v, partial %v", r.Secrets, r.Partial)
	}
	for _, text := range []string{made.JSON, made.Markdown} {
		if strings.Contains(text, "hidden") {
			t.Error("it tells of a secret that its reader may not see")
		}
	}
	if _, whole := n.reportOf(t, n.Client, inc.ID); len(whole.Secrets) != 2 || whole.Partial {
		t.Errorf("the whole one has %d secrets", len(whole.Secrets))
	}
	reader, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"reader"}})
	if _, err := reader.IncidentReport(t.Context(), inc.ID); client.Status(err) != http.StatusNotFound {
		t.Errorf("somebody who may not see the incident: %v", err)
	}
}
