package daemon_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/client"
)

const hookToken = "hook-CANARY-5f2b8c1d9e7a"

// hooked is a site with some secrets and a trigger of each action, which knows its sender
// by a token.
func hooked(secrets, maxSecrets int, cooldown string) string {
	var b strings.Builder
	b.WriteString(withConsumer(embedded, nil))
	for action, name := range map[string]string{"emergency": "leaks", "rotate": "siem"} {
		fmt.Fprintf(&b, `
trigger "webhook" %q {
  bearer_token = env("HOOK_TOKEN")
  action       = %q
  secrets      = ["app/*"]
  max_secrets  = %d
  cooldown     = %q
}
`, name, action, maxSecrets, cooldown)
	}
	for i := range secrets {
		fmt.Fprintf(&b, "secret \"app/s%d\" {\n  backend = \"embedded\"\n  probe   = \"internal\"\n  issuer \"internal\" {}\n}\n", i)
	}
	b.WriteString("secret \"beyond/key\" {\n  backend = \"embedded\"\n  probe   = \"internal\"\n  issuer \"internal\" {}\n}\n")
	return b.String()
}

func startHooked(t *testing.T, hcl string) (*site, *node) {
	t.Helper()
	s := newSite(t, hcl)
	s.env["HOOK_TOKEN"] = hookToken
	s.adjust = nil
	return s, s.start()
}

// report is what a system outside sends.
type leakReport struct {
	ID   string `json:"id"`
	Test bool   `json:"test,omitempty"`
	Data struct {
		Secrets []string `json:"secrets,omitempty"`
		Values  []string `json:"values,omitempty"`
		Reason  string   `json:"reason,omitempty"`
	} `json:"data"`
}

func leak(id string, names []string, values ...string) leakReport {
	r := leakReport{ID: id}
	r.Data.Secrets, r.Data.Values, r.Data.Reason = names, values, "found on a paste site"
	return r
}

// send posts a report, and returns the status and what came of it.
func (n *node) send(t testing.TB, c *http.Client, trigger, token string, r leakReport) (int, client.EventAccepted) {
	t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, n.addr+"/api/v1/hooks/"+trigger, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var receipt client.EventReceipt
	if resp.StatusCode == http.StatusAccepted {
		if err := json.Unmarshal(text, &receipt); err != nil || len(receipt.Events) != 1 {
			t.Fatalf("the answer is %s: %v", text, err)
		}
		return resp.StatusCode, receipt.Events[0]
	}
	return resp.StatusCode, client.EventAccepted{}
}

// reported posts a report that is taken, and shows what came of it.
func (n *node) reported(t *testing.T, trigger string, r leakReport) client.InboundEvent {
	t.Helper()
	status, one := n.send(t, http.DefaultClient, trigger, hookToken, r)
	if status != http.StatusAccepted {
		t.Fatalf("the report %s was answered with %d", r.ID, status)
	}
	ev := must(n.InboundEvent(t.Context(), one.ID))(t)
	if one.Outcome != ev.Outcome && one.Outcome != client.OutcomeRepeated {
		t.Errorf("the report %s: its sender was told %s, it is %s", r.ID, one.Outcome, ev.Outcome)
	}
	return ev
}

// TestALeakThatIsReportedIsContained goes from a value on a paste site to its proven death,
// and wants that nothing more comes of the same value.
func TestALeakThatIsReportedIsContained(t *testing.T) {
	t.Parallel()
	s, n := startHooked(t, hooked(0, 5, "1s"))
	ctx := t.Context()
	n.done(t, "app/key")
	leaked := n.value(t, "app/key").Fields["key"]

	if status, _ := n.send(t, http.DefaultClient, "leaks", "wrong-token-123456", leak("e0", nil, leaked)); status != http.StatusUnauthorized {
		t.Errorf("a wrong token: %d", status)
	}
	if status, _ := n.send(t, http.DefaultClient, "scanner", hookToken, leak("e0", nil, leaked)); status != http.StatusUnauthorized {
		t.Errorf("a trigger that takes no requests: %d", status)
	}
	tried := leak("e1", []string{"app/key"}, leaked)
	tried.Test = true
	for name, tt := range map[string]struct {
		report  leakReport
		outcome string
	}{
		"a value of nobody": {leak("n1", nil, "sk_live_nobody_has_this"), client.OutcomeNothingMatched},
		"no such secret":    {leak("n2", []string{"app/nosuch"}), client.OutcomeNothingMatched},
		"beyond its border": {leak("n3", []string{"beyond/key"}), client.OutcomeNothingMatched},
	} {
		if ev := n.reported(t, "leaks", tt.report); ev.Outcome != tt.outcome || len(ev.Matches) > 0 {
			t.Errorf("%s: %s %+v", name, ev.Outcome, ev.Matches)
		}
	}

	ev := n.reported(t, "leaks", leak("e2", nil, "STRIPE_KEY="+leaked))
	if ev.Outcome != client.OutcomeActed || len(ev.Matches) != 1 || ev.Matches[0].By != "value" || fmt.Sprint(ev.Matches[0].Versions) != "[1]" || ev.IncidentID == "" || ev.Values != 1 {
		t.Fatalf("the event is %+v", ev)
	}
	rot, retirements := n.follow(t, ev.Matches[0].RotationID)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead || rot.Reason != "found on a paste site" {
		t.Fatalf("the emergency is %s (%s), version 1 is %s", rot.State, rot.Error, retirements[1].State)
	}
	replaced := n.value(t, "app/key")
	if replaced.Version != 2 {
		t.Errorf("the replacement is version %d", replaced.Version)
	}
	if again := n.reported(t, "leaks", leak("e2", nil, leaked)); again.ID != ev.ID || again.Repeats != 1 {
		t.Errorf("the same event came again: %+v", again)
	}
	eventually(t, "the cooldown to be over", func() bool { return must(n.Trigger(ctx, "leaks"))(t).ActedLately == 0 })
	dead := n.reported(t, "leaks", leak("e3", nil, leaked))
	if dead.Outcome != client.OutcomeActed || dead.IncidentID != "" || dead.Matches[0].RotationID != "" || !strings.Contains(dead.Matches[0].Error, "dead already") {
		t.Errorf("the value of the dead version: %+v", dead)
	}
	if now := n.value(t, "app/key"); now.Version != replaced.Version || now.Generation != replaced.Generation {
		t.Errorf("version %d, generation %d is current after the dead value was reported", now.Version, now.Generation)
	}
	if named := n.reported(t, "siem", leak("r1", nil, leaked)); named.Matches[0].RotationID != "" || n.value(t, "app/key").Version != 2 {
		t.Errorf("a dead value has something rotated: %+v", named)
	}
	if strings.Contains(s.log.String(), leaked) || strings.Contains(s.log.String(), hookToken) {
		t.Error("the value or the token is in the log")
	}
	hash := must(n.AuditHash(ctx, client.SecretText(leaked)))(t).Hash
	eventually(t, "the audit log to have the events, and by its hash those with the value", func() bool {
		all := must(n.Audit(ctx, client.AuditQuery{Action: "event.taken"}))(t)
		of := must(n.Audit(ctx, client.AuditQuery{Action: "event.taken", Hash: hash}))(t)
		return len(all.Items) == 6 && len(of.Items) == 2
	})
	for _, name := range []string{"leaks", "siem"} {
		if one := must(n.Trigger(ctx, name))(t); one.Held != 0 || one.LastAt.IsZero() {
			t.Errorf("the trigger is %+v", one)
		}
	}
}

// TestEventsBeyondWhatATriggerMayDoWaitForPeople, who are told once, with the command.
func TestEventsBeyondWhatATriggerMayDoWaitForPeople(t *testing.T) {
	t.Parallel()
	_, n := startHooked(t, hooked(4, 2, "1h"))
	ctx := t.Context()
	for i := range 4 {
		n.done(t, fmt.Sprintf("app/s%d", i))
	}
	names := []string{"app/s0", "app/s1", "app/s2"}

	ev := n.reported(t, "siem", leak("r1", names))
	if ev.Outcome != client.OutcomeHeld || ev.Matches[0].Outcome != client.OutcomeActed || ev.Matches[1].Outcome != client.OutcomeActed || ev.Matches[2].Outcome != client.OutcomeHeld {
		t.Fatalf("the event is %+v", ev)
	}
	alert := exceeded(t, n, "siem")
	if want := "keybroker event apply " + ev.ID; alert.Next != want || alert.Severity != client.Critical || !strings.Contains(alert.Text, "app/s2") {
		t.Errorf("people are told %q, next %q", alert.Text, alert.Next)
	}
	applied := must(n.ApplyEvent(ctx, ev.ID, client.ApplyEventRequest{Reason: "it is real"}))(t)
	if applied.Outcome != client.OutcomeActed || applied.AppliedBy == "" || applied.Matches[2].RotationID == "" {
		t.Errorf("applied it is %+v", applied)
	}
	if rot := must(n.Rotation(ctx, applied.Matches[2].RotationID))(t); rot.Secret != "app/s2" || rot.Reason != "it is real" || rot.Trigger != "event" {
		t.Errorf("the rotation is %+v", rot)
	}
	if _, err := n.ApplyEvent(ctx, ev.ID, client.ApplyEventRequest{}); client.Status(err) != http.StatusConflict {
		t.Errorf("applied once more: %v", err)
	}

	held := n.reported(t, "leaks", leak("e1", append(names, "app/s3")))
	if held.Outcome != client.OutcomeHeld || held.IncidentID == "" {
		t.Fatalf("the event is %+v", held)
	}
	alert = exceeded(t, n, "leaks")
	one := must(n.Trigger(ctx, "leaks"))(t)
	if want := "keybroker incident approve " + one.IncidentID; alert.Next != want || one.Held != 1 || one.ActedLately != 2 {
		t.Errorf("people are told to %q; the trigger is %+v", alert.Next, one)
	}
	proposed := must(n.Incident(ctx, one.IncidentID))(t)
	if proposed.State != client.IncidentProposed || proposed.Cause != "event" || proposed.Trigger != "leaks" || len(proposed.Targets) != 2 {
		t.Errorf("proposed is %+v", proposed)
	}
	for _, name := range []string{"app/s2", "app/s3"} { // nothing is done for them
		if s := must(n.Secret(ctx, name))(t); s.State == "rotating" && name == "app/s3" {
			t.Errorf("%s is %s", name, s.State)
		}
	}
	must(n.ApproveIncident(ctx, one.IncidentID, client.IncidentActRequest{}))(t)
	eventually(t, "the incident to be contained", func() bool { return !must(n.Incident(ctx, one.IncidentID))(t).ContainedAt.IsZero() })
}

// exceeded returns the one alert that there is of a trigger.
func exceeded(t *testing.T, n *node, trigger string) client.Alert {
	t.Helper()
	var found []client.Alert
	for _, a := range n.alerts(t, client.AlertQuery{Kind: "trigger_exceeded"}) {
		if a.Subject == trigger {
			found = append(found, a)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d alerts of trigger %s", len(found), trigger)
	}
	return found[0]
}

// TestThresholdStartsATrigger: what is asked of a secret more often than usual is an event.
func TestThresholdStartsATrigger(t *testing.T) {
	t.Parallel()
	_, n := startHooked(t, hooked(0, 5, "1h")+`
trigger "internal" "busy" {
  action  = "rotate"
  secrets = ["app/*"]
  threshold {
    reads_per_minute = 3
  }
}
`)
	n.done(t, "app/key")
	n.done(t, "beyond/key")
	eventually(t, "an event", func() bool {
		n.value(t, "app/key")
		n.value(t, "beyond/key")
		return len(must(n.InboundEvents(t.Context(), client.InboundEventQuery{Trigger: "busy"}))(t).Items) > 0
	})
	ev := must(n.InboundEvents(t.Context(), client.InboundEventQuery{Trigger: "busy"}))(t).Items[0]
	eventually(t, "a rotation", func() bool {
		ev = must(n.InboundEvent(t.Context(), ev.ID))(t)
		return ev.Outcome == client.OutcomeActed
	})
	if ev.Matches[0].Secret != "app/key" || !strings.Contains(ev.Reason, "reads of app/key within a minute") {
		t.Errorf("the event is %+v", ev)
	}
}

// TestAlertsStartATrigger, once each.
func TestAlertsStartATrigger(t *testing.T) {
	t.Parallel()
	hcl := strings.Replace(hooked(0, 5, "1h"), "  verify {\n    successes = 2\n    interval  = \"50ms\"", "  verify {\n    successes = 2\n    interval  = \"50ms\"\n    timeout   = \"1s\"", 1) + `
trigger "internal" "failing" {
  action  = "emergency"
  secrets = ["app/*"]
  on      = ["rotation_failed"]
}
`
	s, unsure := gatedSite(t, hcl)
	s.env["HOOK_TOKEN"] = hookToken
	n := s.start()
	n.done(t, "app/key")
	unsure.Store(1_000_000)
	n.begin(t, "app/key", client.RotationFailed)
	unsure.Store(0)
	var ev client.InboundEvent
	eventually(t, "an event", func() bool {
		list := must(n.InboundEvents(t.Context(), client.InboundEventQuery{Trigger: "failing"}))(t)
		if len(list.Items) == 1 {
			ev = list.Items[0]
		}
		return ev.Outcome == client.OutcomeActed
	})
	if ev.Matches[0].Secret != "app/key" || ev.Actor != "trigger/failing" || ev.EventID == "" {
		t.Errorf("the event is %+v", ev)
	}
}

// TestTwoNodesActAsOftenAsOne: the guard is of the trigger, not of the node.
func TestTwoNodesActAsOftenAsOne(t *testing.T) {
	t.Parallel()
	url, shared := postgresserver.Start(t).URL, filepath.Join(t.TempDir(), "seal.key")
	const secrets, most = 12, 3
	hcl := onPostgres(hooked(secrets, most, "1h"), shared)
	var nodes []*node
	var token string
	for range 2 {
		s := newSite(t, hcl)
		s.env = map[string]string{"DATABASE_URL": url, "HOOK_TOKEN": hookToken}
		s.token = token
		nodes = append(nodes, s.start())
		token = s.rootToken()
	}
	for i := range secrets {
		nodes[0].done(t, fmt.Sprintf("app/s%d", i))
	}
	var wg sync.WaitGroup
	for i := range secrets {
		for k, n := range nodes {
			wg.Go(func() {
				status, _ := n.send(t, http.DefaultClient, "leaks", hookToken, leak(fmt.Sprintf("e%d", i), []string{fmt.Sprintf("app/s%d", (i+k)%secrets)}))
				if status != http.StatusAccepted {
					t.Errorf("answered with %d", status)
				}
			})
		}
	}
	wg.Wait()
	one := must(nodes[1].Trigger(t.Context(), "leaks"))(t)
	touched := touchedBy(t, nodes[0], secrets)
	if one.ActedLately != most || len(touched) != most || one.Events != secrets {
		t.Errorf("%d secrets were touched by %+v", len(touched), one)
	}
}

// touchedBy are the secrets for which an emergency was declared.
func touchedBy(t *testing.T, n *node, secrets int) []string {
	t.Helper()
	var touched []string
	for i := range secrets {
		name := fmt.Sprintf("app/s%d", i)
		for _, r := range must(n.Rotations(t.Context(), client.RotationQuery{Secret: name}))(t).Items {
			if r.Trigger != "manual" {
				touched = append(touched, name)
				break
			}
		}
	}
	return touched
}

// TestAnEventThatWasLeftUnfinishedIsGoneOnWith: its node died after it was recorded.
func TestAnEventThatWasLeftUnfinishedIsGoneOnWith(t *testing.T) {
	t.Parallel()
	s, n := startHooked(t, hooked(0, 5, "1h"))
	n.done(t, "app/key")
	ev := n.reported(t, "leaks", leak("e1", []string{"app/nosuch"}))
	secret := must(n.Rotations(t.Context(), client.RotationQuery{Secret: "app/key"}))(t).Items[0].Secret
	n.stop()

	db, err := sql.Open("sqlite", filepath.Join(s.dir, "data", "keybroker.db"))
	if err != nil {
		t.Fatal(err)
	}
	var secretID, record string
	err = db.QueryRow("SELECT s.id, e.record FROM secrets s, events e WHERE s.name = ? AND e.id = ?", secret, ev.ID).Scan(&secretID, &record)
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]any{}
	if err := json.Unmarshal([]byte(record), &left); err != nil {
		t.Fatal(err)
	}
	left["outcome"] = client.OutcomeReceiving
	left["matches"] = []map[string]any{{"secret_id": secretID, "ref": map[string]string{"Tenant": "default", "Name": "app/key"}, "by": "name"}}
	text, err := json.Marshal(left)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("UPDATE events SET outcome = 'receiving', received_at = received_at - 60000000, record = ? WHERE id = ?", string(text), ev.ID); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	n = s.start()
	eventually(t, "the event to be acted on", func() bool {
		ev = must(n.InboundEvent(t.Context(), ev.ID))(t)
		return ev.Outcome == client.OutcomeActed
	})
	rot, retirements := n.follow(t, ev.Matches[0].RotationID)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead || ev.IncidentID == "" {
		t.Errorf("the emergency is %s, version 1 %s; the event is %+v", rot.State, retirements[1].State, ev)
	}
}

// TestTheSameReportLaterOnIsAnotherEvent: what has no id is known by what it says, and a
// secret can leak twice.
func TestTheSameReportLaterOnIsAnotherEvent(t *testing.T) {
	t.Parallel()
	_, n := startHooked(t, hooked(0, 5, "1s"))
	n.done(t, "app/key")
	first := n.reported(t, "leaks", leak("", []string{"app/key"}))
	if first.Outcome != client.OutcomeActed || first.Reason != "found on a paste site" {
		t.Fatalf("the first is %+v", first)
	}
	n.follow(t, first.Matches[0].RotationID)
	eventually(t, "the cooldown to be over", func() bool { return must(n.Trigger(t.Context(), "leaks"))(t).ActedLately == 0 })
	again := n.reported(t, "leaks", leak("", []string{"app/key"}))
	if again.ID == first.ID || again.Outcome != client.OutcomeActed {
		t.Errorf("the second is %+v", again)
	}
}
