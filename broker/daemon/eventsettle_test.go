package daemon_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// openOf are the open alerts of a kind about a subject.
func (n *node) openOf(t *testing.T, kind, subject string) int {
	t.Helper()
	open := 0
	for _, a := range n.openAlerts(t, kind) {
		if a.Subject == subject {
			open++
		}
	}
	return open
}

// TestWhatIsDecidedSettlesWhatWasHeld: once people have approved what a trigger proposes, or
// refused it, nothing waits for them any more.
func TestWhatIsDecidedSettlesWhatWasHeld(t *testing.T) {
	t.Parallel()
	_, n := startHooked(t, hooked(4, 1, "1h"))
	ctx := t.Context()
	for i := range 4 {
		n.done(t, fmt.Sprintf("app/s%d", i))
	}
	n.reported(t, "leaks", leak("e0", []string{"app/s0"}))
	first, second := n.reported(t, "leaks", leak("e1", []string{"app/s1"})), n.reported(t, "leaks", leak("e2", []string{"app/s2"}))
	proposed := must(n.Incident(ctx, first.IncidentID))(t)
	if second.IncidentID != proposed.ID || proposed.Tenant != "default" || fmt.Sprint(proposed.Selector.Names) != "[app/s1 app/s2]" || !strings.Contains(proposed.Reason, "trigger leaks: 2 events") {
		t.Errorf("proposed is %+v", proposed)
	}
	if must(n.Trigger(ctx, "leaks"))(t).Held != 2 || n.openOf(t, "trigger_exceeded", "leaks") != 1 {
		t.Error("nobody is asked about two events")
	}
	must(n.ApproveIncident(ctx, proposed.ID, client.IncidentActRequest{}))(t)
	eventually(t, "nothing to wait for people", func() bool { return must(n.Trigger(ctx, "leaks"))(t).Held == 0 })
	for _, ev := range []client.InboundEvent{first, second} {
		if now := must(n.InboundEvent(ctx, ev.ID))(t); now.Outcome != client.OutcomeActed || now.AppliedBy == "" || now.Matches[0].IncidentID != proposed.ID {
			t.Errorf("what was approved is %+v", now)
		}
	}
	if n.openOf(t, "trigger_exceeded", "leaks") != 0 {
		t.Error("people are still asked")
	}

	refused := n.reported(t, "leaks", leak("e3", []string{"app/s3"}))
	if refused.Outcome != client.OutcomeHeld || refused.IncidentID == proposed.ID || n.openOf(t, "trigger_exceeded", "leaks") != 1 {
		t.Fatalf("the third is %+v", refused)
	}
	must(n.RejectIncident(ctx, refused.IncidentID, client.IncidentActRequest{Reason: "a drill"}))(t)
	eventually(t, "nothing to wait for people", func() bool { return must(n.Trigger(ctx, "leaks"))(t).Held == 0 })
	if again := n.reported(t, "leaks", leak("e3", []string{"app/s3"})); again.Outcome != client.OutcomeRefused || !strings.Contains(again.Matches[0].Error, "a drill") {
		t.Errorf("what was refused, and comes again, is %+v", again)
	}
	if n.openOf(t, "trigger_exceeded", "leaks") != 0 {
		t.Error("people are still asked")
	}
}

// TestALeakThatCannotBeFetchedIsNotForgotten: GitHub says that something is out and does not
// give it, people are told, the node dies, and what is out is contained once GitHub gives it.
func TestALeakThatCannotBeFetchedIsNotForgotten(t *testing.T) {
	t.Parallel()
	var leaked atomic.Pointer[string]
	github := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if value := leaked.Load(); value != nil {
			_ = json.NewEncoder(w).Encode(map[string]any{"number": 42, "secret": *value})
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(github.Close)
	s := newSite(t, withConsumer(embedded, nil)+strings.ReplaceAll(outsideTriggers, "GITHUB", github.URL))
	s.env["HUB_SECRET"], s.env["API_TOKEN"] = hubSecret, apiToken
	n := s.start()
	n.done(t, "app/key")
	value := n.value(t, "app/key").Fields["key"]
	body := []byte(`{"action":"created","alert":{"number":42,"secret_type":"ours"},"repository":{"full_name":"octo-org/octo-repo"}}`)
	mac := hmac.New(sha256.New, []byte(hubSecret))
	mac.Write(body)
	header := http.Header{"Content-Type": {"application/json"}, "X-Github-Event": {"secret_scanning_alert"}, "X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(mac.Sum(nil))}}
	if status, text := n.post(t, "leaks", header, body); status != http.StatusAccepted || !strings.Contains(text, `"unresolved"`) {
		t.Fatalf("the alert: %d %s", status, text)
	}
	ev := n.lastOf(t, "leaks")
	if ev.Outcome != client.OutcomeUnresolved || !strings.Contains(ev.Error, "there is no such alert") || ev.RetryAt.IsZero() {
		t.Errorf("the event is %+v", ev)
	}
	if n.openOf(t, "event_unresolved", "leaks") != 1 {
		t.Error("nobody was told")
	}
	n.stop()
	n = s.start()
	if n.openOf(t, "event_unresolved", "leaks") != 1 {
		t.Error("nobody is told any more")
	}
	leaked.Store(&value)
	eventually(t, "the event to be acted on", func() bool {
		ev = must(n.InboundEvent(t.Context(), ev.ID))(t)
		return ev.Outcome == client.OutcomeActed
	})
	if len(ev.Matches) != 1 || ev.Matches[0].Secret != "app/key" || fmt.Sprint(ev.Matches[0].Versions) != "[1]" || ev.IncidentID == "" || ev.Error != "" || ev.Values != 1 {
		t.Errorf("the event is %+v", ev)
	}
	if inc := must(n.Incident(t.Context(), ev.IncidentID))(t); inc.Tenant != "default" {
		t.Errorf("the incident is of the tenant %q", inc.Tenant)
	}
	if n.openOf(t, "event_unresolved", "leaks") != 0 {
		t.Error("people are still told")
	}
	if log := s.log.String(); strings.Contains(log, value) || strings.Contains(log, apiToken) || strings.Contains(log, hubSecret) {
		t.Error("a secret is in the log")
	}
}
