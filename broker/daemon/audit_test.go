package daemon_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/client"
)

// verifyLog verifies a site's log with the key that its node gives.
func (s *site) verifyLog(t *testing.T, n *node) audit.Verdict {
	t.Helper()
	k := must(n.AuditCheckpoint(t.Context()))(t)
	v, err := audit.Verify(audit.Verification{Paths: []string{filepath.Join(s.dir, "data")}, Key: k.Key, Checkpoints: []string{k.Checkpoint}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestAnEmergencyWhileTheDiskIsFull has a node whose log cannot be written any more:
// reads are refused, an emergency is not, and the log has it once it can be written.
func TestAnEmergencyWhileTheDiskIsFull(t *testing.T) {
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key")
	old := n.value(t, "app/key").Fields["key"]
	path := filepath.Join(s.dir, "data", "audit.jsonl")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a read to be refused", func() bool {
		_, err := n.Value(t.Context(), "app/key", 0)
		return client.Status(err) == http.StatusServiceUnavailable
	})
	if status, body := s.get("GET", "/readyz", ""); status != http.StatusServiceUnavailable || !strings.Contains(body, "the audit log cannot be written") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if _, err := n.Rotate(t.Context(), "app/key", client.RotateRequest{}); client.Status(err) != http.StatusServiceUnavailable {
		t.Errorf("a rotation that is no emergency: %v", err)
	}
	if _, err := n.Emergency(t.Context(), "app/key", client.EmergencyRequest{Reason: "it leaked"}); err != nil {
		t.Fatalf("the emergency waits for the log: %v", err)
	}
	i, err := n.DeclareIncident(t.Context(), client.IncidentRequest{Reason: "it leaked", Selector: client.Selector{Names: []string{"app/key"}}})
	if err != nil {
		t.Fatalf("the incident waits for the log: %v", err)
	}
	if last := n.watchIncident(t, i.ID); !last.Progress.AllProven() {
		t.Errorf("%+v", last)
	}
	if list, err := n.Incidents(t.Context(), client.IncidentQuery{}); err != nil || len(list.Items) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := n.NoteIncident(t.Context(), i.ID, client.IncidentNoteRequest{Text: "the disk is full, too"}); err != nil {
		t.Errorf("a note waits for the log: %v", err)
	}
	eventually(t, "the leaked key to be dead", func() bool {
		c, err := n.CheckKey(t.Context(), client.SecretText(old))
		return err == nil && !c.Active
	})
	if strings.Contains(s.read("data/audit.jsonl.away"), "it leaked") {
		t.Error("the disk was not full")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log to have it", func() bool {
		text := s.read("data/audit.jsonl")
		return strings.Contains(text, "it leaked") && strings.Contains(text, "retirement.contain")
	})
	if n.value(t, "app/key").Fields["key"] == old {
		t.Error("the key is the one that leaked")
	}
	found := must(n.Audit(t.Context(), client.AuditQuery{Secret: "app/key", Action: "retirement."}))(t)
	if len(found.Items) == 0 {
		t.Error("the query finds none of it")
	}
	if v := s.verifyLog(t, n); v.Fault != nil {
		t.Errorf("%s", v.Fault)
	}
}

// TestSinksOfANode sends the log to receivers, one of which is down at first, over a
// reload, and finds by its hash who was given a value.
func TestSinksOfANode(t *testing.T) {
	var mu sync.Mutex
	down := true
	var got strings.Builder
	receive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got.Write(body)
	}))
	t.Cleanup(receive.Close)
	s := newSite(t, withConsumer(embedded, nil))
	plain := s.hcl
	copied := filepath.Join(s.dir, "copy.jsonl")
	s.hcl += `
audit "http" "siem" {
  url                   = "` + receive.URL + `"
  allow_private_network = true
}
audit "file" {
  path = "` + copied + `"
}
`
	n := s.start()
	n.done(t, "app/key")
	key := n.value(t, "app/key").Fields["key"]
	eventually(t, "the copy", func() bool {
		text, err := os.ReadFile(copied)
		return err == nil && strings.Contains(string(text), "secret.read")
	})
	mu.Lock()
	down = false
	mu.Unlock()
	eventually(t, "the receiver", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(got.String(), "secret.read")
	})
	hash := must(n.AuditHash(t.Context(), client.SecretText(key)))(t).Hash
	who := must(n.Audit(t.Context(), client.AuditQuery{Hash: hash}))(t)
	if !slices.ContainsFunc(who.Items, func(r client.AuditRecord) bool { return r.Action == "secret.read" }) {
		t.Errorf("%+v", who)
	}
	s.hcl = plain
	must(n.Reload(t.Context(), client.ReloadRequest{}))(t)
	n.stop()
	n = s.start()
	k := must(n.AuditCheckpoint(t.Context()))(t)
	v, err := audit.Verify(audit.Verification{Paths: []string{copied}, Key: k.Key})
	if err != nil || v.Fault != nil || v.Proven == 0 {
		t.Errorf("the copy: %+v %+v (%v)", v, v.Fault, err)
	}
	if v := s.verifyLog(t, n); v.Fault != nil {
		t.Errorf("%s", v.Fault)
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Contains(got.String()+s.read("data/audit.jsonl")+s.log.String(), key) {
		t.Error("the value is in the audit log, or in what the node logs")
	}
}
