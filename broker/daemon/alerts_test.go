package daemon_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// pager is a service that is told of alerts by webhook.
type pager struct {
	*httptest.Server
	secret backends.SecretString
	mu     sync.Mutex
	status int
	told   []string // "raised new_root_token"
	bad    []error
}

func newPager(t *testing.T) *pager {
	p := &pager{secret: webhook.GenerateSecret(), status: http.StatusOK}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = webhook.Verify([]backends.SecretString{p.secret}, r.Header, body, time.Now(), webhook.Tolerance)
		}
		var event struct {
			Data struct {
				Event string
				Alert struct{ Kind string }
			}
		}
		if err == nil {
			err = json.Unmarshal(body, &event)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.bad = append(p.bad, err)
		}
		if p.status == http.StatusOK {
			p.told = append(p.told, strings.TrimSpace(event.Data.Event+" "+event.Data.Alert.Kind))
		}
		w.WriteHeader(p.status)
	}))
	t.Cleanup(func() {
		p.Close()
		if len(p.bad) > 0 {
			t.Errorf("what the pager was told: %v", p.bad)
		}
	})
	return p
}

func (p *pager) was(event string) func() bool {
	return func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return slices.Contains(p.told, event)
	}
}

// forget has what the pager was told so far count no more.
func (p *pager) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = nil
}

func (p *pager) answer(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
}

// alerted is a site that tells a pager.
func alerted(t *testing.T, hcl string, p *pager) *site {
	t.Helper()
	s := newSite(t, hcl+`
notifier "webhook" "pager" {
  url                   = "`+p.URL+`/hook"
  signing_secret        = env("PAGER_SECRET")
  allow_private_network = true
}
notifier "log" "console" {}
alert "security" {
  notifier  = "pager"
  heartbeat = "1s"
}
alert "all" {
  notifier = "console"
  on       = ["new_root_token"]
}
`)
	s.env["PAGER_SECRET"] = p.secret.Reveal()
	s.adjust = func(o *daemon.Options) { o.LookForAlerts(50 * time.Millisecond) }
	return s
}

func (n *node) alerts(t *testing.T, q client.AlertQuery) []client.Alert {
	t.Helper()
	list, err := n.Alerts(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// TestAlertIsToldAcknowledgedAndOver goes from what happens to the people, and back.
func TestAlertIsToldAcknowledgedAndOver(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	s := alerted(t, withConsumer(embedded, nil), p)
	n := s.start()
	ctx := t.Context()
	eventually(t, "a heartbeat", p.was("heartbeat"))
	if all := n.alerts(t, client.AlertQuery{All: true}); len(all) != 0 {
		t.Errorf("alerts of a node that is well: %+v", all)
	}
	n.stop()

	p.answer(http.StatusServiceUnavailable)
	s.newRoot = true
	n = s.start()
	var one client.Alert
	eventually(t, "a pager that is down shows", func() bool {
		open := n.alerts(t, client.AlertQuery{Kind: "new_root_token"})
		if len(open) != 1 {
			return false
		}
		one = open[0]
		return slices.ContainsFunc(one.Notices, func(o client.Notice) bool {
			return o.Notifier == "pager" && strings.Contains(o.Error, "it answered 503")
		})
	})
	if one.Severity != client.Critical || one.Text == "" || one.Tenant != "" {
		t.Errorf("alert %+v", one)
	}
	test, err := n.TestNotifier(ctx, "pager")
	if err != nil || test.OK || !strings.Contains(test.Error, "it answered 503") {
		t.Errorf("a test of a pager that is down: %+v, %v", test, err)
	}
	p.answer(http.StatusOK)
	eventually(t, "it is told", p.was("raised new_root_token"))
	if test, err = n.TestNotifier(ctx, "pager"); err != nil || !test.OK || !p.was("test")() {
		t.Errorf("a test: %+v, %v", test, err)
	}
	if _, err = n.TestNotifier(ctx, "nobody"); client.Status(err) != http.StatusNotFound {
		t.Errorf("a test of nobody: %v", err)
	}
	eventually(t, "it was told", func() bool { return n.alerts(t, client.AlertQuery{})[0].Notices[0].State == client.NoticeSent })

	acked, err := n.AcknowledgeAlert(ctx, one.ID, client.AcknowledgeAlertRequest{Reason: "it was me"})
	if err != nil || acked.AcknowledgedBy == "" || acked.Reason != "it was me" || acked.ResolvedAt.IsZero() {
		t.Errorf("acknowledged: %+v, %v", acked, err)
	}
	again, err := n.AcknowledgeAlert(ctx, one.ID, client.AcknowledgeAlertRequest{Reason: "or me"})
	if err != nil || again.Reason != "it was me" {
		t.Errorf("acknowledged again: %+v, %v", again, err)
	}
	eventually(t, "the log has who acknowledged it, by which request", func() bool {
		events := must(n.Audit(ctx, client.AuditQuery{Action: "alert.acknowledged"}))(t).Items
		asked := must(n.Audit(ctx, client.AuditQuery{Action: "alert.ack"}))(t).Items
		return len(events) == 1 && events[0].Method == "token" && events[0].Request != "" &&
			slices.ContainsFunc(asked, func(r client.AuditRecord) bool {
				return r.Request == events[0].Request && r.Detail["reason"] == "it was me"
			})
	})
	eventually(t, "its end is told", p.was("resolved new_root_token"))
	if open, all := n.alerts(t, client.AlertQuery{}), n.alerts(t, client.AlertQuery{All: true}); len(open) != 0 || len(all) != 1 {
		t.Errorf("open %+v, all %+v", open, all)
	}
	n.stop()
	if strings.Contains(s.log.String(), p.secret.Reveal()) {
		t.Error("the signing secret is in the log")
	}
	if !strings.Contains(s.log.String(), "alert.console: new_root_token:") {
		t.Error("the notifier that is the log was not told")
	}
}

// TestAlertsOfTenants: who is bound to a tenant sees what is of it, and who is told.
func TestAlertsOfTenants(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	s := alerted(t, withConsumer(embedded, nil)+`
policy "watcher" {
  path "sys/alerts" {
    capabilities = ["read", "update"]
  }
}
`, p)
	s.start().stop()
	s.newRoot = true
	n := s.start()
	ctx := t.Context()
	eventually(t, "the alert", func() bool { return len(n.alerts(t, client.AlertQuery{})) == 1 })
	id := n.alerts(t, client.AlertQuery{})[0].ID
	made, err := n.CreateToken(ctx, client.CreateTokenRequest{Name: "watcher", Policies: []string{"watcher"}, Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	acme := &node{Client: s.client(string(made.Token), n.addr)}
	if got := acme.alerts(t, client.AlertQuery{All: true}); len(got) != 0 {
		t.Errorf("a tenant sees %+v", got)
	}
	_, show := acme.Alert(ctx, id)
	_, ack := acme.AcknowledgeAlert(ctx, id, client.AcknowledgeAlertRequest{})
	_, test := acme.TestNotifier(ctx, "pager")
	for what, err := range map[string]error{"show": show, "ack": ack, "test": test} {
		if client.Status(err) != http.StatusNotFound {
			t.Errorf("%s by another tenant: %v", what, err)
		}
	}
	none, err := n.CreateToken(ctx, client.CreateTokenRequest{Name: "reader", Policies: []string{"reader"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client(string(none.Token), n.addr).Alerts(ctx, client.AlertQuery{}); client.Status(err) != http.StatusForbidden {
		t.Errorf("without the capability: %v", err)
	}
}

// TestMissingAcknowledgementIsTold: the overlap does not wait for ever, and people
// are told of what it did not wait for.
func TestMissingAcknowledgementIsTold(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	receives := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(receives.Close)
	hcl := strings.Replace(withConsumer(embedded, &consumer{url: receives.URL}), `overlap = "2s"`, `overlap = "100ms"
  acknowledgement {
    require    = "applied"
    timeout    = "1s"
    on_timeout = "proceed"
  }`, 1)
	s := alerted(t, hcl, p)
	s.env["SIGNING_SECRET"] = newSigningSecret().Reveal()
	n := s.start()
	n.rotate(t, "app/key")
	n.rotate(t, "app/key")
	eventually(t, "it is told", p.was("raised missing_acknowledgement"))
	open := n.alerts(t, client.AlertQuery{Kind: "missing_acknowledgement"})
	if len(open) != 1 || open[0].Tenant != backends.DefaultTenant || open[0].Next != "keybroker secret consumers app/key" {
		t.Fatalf("open %+v", open)
	}
	deliveries, err := n.Deliveries(t.Context(), client.DeliveryQuery{Secret: "app/key", Event: "secret.rotated"})
	if err != nil {
		t.Fatal(err)
	}
	latest := deliveries.Items[0]
	if _, err := n.Acknowledge(t.Context(), latest.ID, n.applied(t, latest)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end is told", p.was("resolved missing_acknowledgement"))
}

// TestWhatTheNodeSeesIsTold: a vault that cannot be reached, as this node sees it.
func TestWhatTheNodeSeesIsTold(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	nobody := httptest.NewServer(http.NotFoundHandler())
	nobody.Close()
	s := alerted(t, withConsumer(embedded, nil)+`
backend "vault" "prod" {
  address = "`+nobody.URL+`"
  mount   = "secret"
  auth "token" {
    token = env("VAULT_TOKEN")
  }
}
`, p)
	const token = "hvs.CANARY-not-a-token"
	s.env["VAULT_TOKEN"] = token
	n := s.start()
	eventually(t, "it is told", p.was("raised backend_down"))
	open := n.alerts(t, client.AlertQuery{Kind: "backend_down"})
	if len(open) != 1 || open[0].Node == "" || open[0].Subject != "prod on "+open[0].Node || open[0].Next != "keybroker drift list --all --backend prod" {
		t.Errorf("open %+v", open)
	}
	if strings.Contains(open[0].Text, token) || strings.Contains(s.log.String(), token) {
		t.Error("the token is in the alert, or in the log")
	}
}

// TestNotifierMistakes: each is at its attribute, and shows no secret.
func TestNotifierMistakes(t *testing.T) {
	s := newSite(t, withConsumer(embedded, nil)+`
notifier "email" "mail" {
  address = "mail.example.com"
  from    = "keybroker@example.com"
  to      = ["nobody"]
}
notifier "slack" "chat" {
  webhook_url = "https://hooks.slack.com/CANARY"
}
notifier "slack" "plain" {
  webhook_url = env("SLACK")
}
notifier "telegram" "x" {}
`)
	s.env["SLACK"] = "http://hooks.slack.com/CANARY"
	_, diags := s.load()
	var text strings.Builder
	if err := diags.WriteText(&text, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Address is no host:port", "To has \"nobody\", which is no address", "A literal where a secret belongs", "Webhook_url must begin with https://", `There is no notifier "telegram"`} {
		if !strings.Contains(strings.ToLower(text.String()), strings.ToLower(want)) {
			t.Errorf("%q is not said", want)
		}
	}
	if strings.Contains(text.String(), "CANARY") || t.Failed() {
		t.Errorf("the mistakes:\n%s", text.String())
	}
}
