package main

import (
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// TestAlertOfNotifiersThatFail: whoever looks sees that nobody was told, and why.
func TestAlertOfNotifiersThatFail(t *testing.T) {
	one := client.Alert{ID: "alt_1", Kind: "drift", Severity: client.Failing, Tenant: "acme", Subject: "us a/b", Text: "backend us does not hold it", Next: "keybroker drift list",
		Count: 3, OpenedAt: time.Now().Add(-time.Hour), LastAt: time.Now(), Notices: []client.Notice{
			{Rule: "security", Notifier: "pager", Event: "reminder", State: client.NoticePending, Told: 1, Attempts: 7, Error: "it answered 503"},
			{Rule: "security", Notifier: "log", Event: "raised", State: client.NoticeSent, Told: 1},
		}}
	s := serve(t, map[string]any{
		"GET /api/v1/alerts":                client.List[client.Alert]{Items: []client.Alert{one}},
		"GET /api/v1/alerts/alt_1":          one,
		"POST /api/v1/alerts/alt_1/ack":     func() client.Alert { a := one; a.AcknowledgedBy = "tok_1"; return a }(),
		"POST /api/v1/notifiers/pager/test": client.NotifierTest{Notifier: "pager", Error: "it answered 503"},
	})
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"alert list", 0, "pager failed 7 times, log sent"},
		{"alert list --all --kind drift", 0, "backend us does not hold it"},
		{"alert show alt_1", 0, "it answered 503"},
		{"alert show alt_1", 0, "keybroker drift list"},
		{"alert ack alt_1", 0, "alert alt_1 is acknowledged by tok_1; it stays open until it is over"},
		{"alert ack alt_1 --reason mine", 0, "alert alt_1 was acknowledged before, by tok_1 at "},
		{"alert ack alt_1 --format json", 0, `"acknowledged_by": "tok_1"`},
		{"alert test pager", 1, "the notifier pager could not tell: it answered 503"},
		{"alert test pager --format json", 1, `"ok": false`},
		{"alert test", 2, "NOTIFIER is missing"},
	} {
		r := s.keybroker(strings.Fields(test.args)...)
		if r.code != test.code || !strings.Contains(r.out+r.err, test.want) {
			t.Errorf("%s: exit %d, out %s, err %s", test.args, r.code, r.out, r.err)
		}
	}
	if !s.has("GET /api/v1/alerts?all=true&kind=drift") {
		t.Errorf("asked %v", s.asked)
	}
}
