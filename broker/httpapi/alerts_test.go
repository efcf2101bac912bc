package httpapi_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// What memory answers to those who look after alerts.

func (m *memory) alert() client.Alert {
	return client.Alert{ID: "alt_1", Kind: "drift", Severity: client.Failing, Subject: "us payments/stripe", Text: "out of step", OpenedAt: then, LastAt: then, Count: 1, Notices: []client.Notice{}}
}

func (m *memory) Alerts(_ context.Context, p authn.Principal, q client.AlertQuery) (client.List[client.Alert], error) {
	return client.List[client.Alert]{Items: []client.Alert{m.alert()}}, m.serve(p, "alerts", q.Kind, q.All, q.Limit)
}

func (m *memory) Alert(_ context.Context, p authn.Principal, id string) (client.Alert, error) {
	return m.alert(), m.serve(p, "alert", id)
}

func (m *memory) AcknowledgeAlert(_ context.Context, p authn.Principal, id string, r client.AcknowledgeAlertRequest) (client.Alert, error) {
	return m.alert(), m.serve(p, "ack-alert", id, r.Reason)
}

func (m *memory) TestNotifier(_ context.Context, p authn.Principal, name string) (client.NotifierTest, error) {
	return client.NotifierTest{Notifier: name, OK: true}, m.serve(p, "test-notifier", name)
}

func TestAlertsAreLookedAfter(t *testing.T) {
	m := newMemory()
	n := start(t, m, nil)
	ctx := t.Context()
	for want, call := range map[string]func(c *client.Client) error{
		"alerts  false 0": func(c *client.Client) error { return second(c.Alerts(ctx, client.AlertQuery{})) },
		"alerts drift true 5": func(c *client.Client) error {
			return second(c.Alerts(ctx, client.AlertQuery{Kind: "drift", All: true, Page: client.Page{Limit: 5}}))
		},
		"alert alt_1": func(c *client.Client) error { return second(c.Alert(ctx, "alt_1")) },
		"ack-alert alt_1 mine": func(c *client.Client) error {
			return second(c.AcknowledgeAlert(ctx, "alt_1", client.AcknowledgeAlertRequest{Reason: "mine"}))
		},
		"test-notifier pager": func(c *client.Client) error { return second(c.TestNotifier(ctx, "pager")) },
	} {
		if err := call(n.client(t, goodToken)); err != nil || m.last() != want {
			t.Errorf("%v; the broker was asked %q, want %q", err, m.last(), want)
		}
		if err := call(n.client(t, otherToken)); client.Status(err) != http.StatusForbidden {
			t.Errorf("%s: %v", want, err)
		}
	}
}
