package notify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/alert/notify"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// canary stands for everything secret.
const canary = "CANARY-5f2d9c"

var at = time.Date(2031, 3, 9, 1, 59, 58, 0, time.UTC)

func resurrected(e alert.Event) alert.Notification {
	n := alert.Notification{ID: "ntc_1-1", Event: e, At: at, Source: "https://broker:8400", Rule: "security",
		Alert: store.Alert{ID: "alt_1", Count: 1, OpenedAt: at.Add(-time.Hour), LastAt: at, Raise: store.Raise{Kind: alert.Resurrected, Tenant: "acme", Subject: "ret_1",
			Text: "version 3 of acme:mail/sender was proven dead & is accepted again <!>", Next: "keybroker retirement show ret_1"}}}
	if e == alert.Resolved {
		n.Alert.ResolvedAt = at
	}
	return n
}

var (
	heartbeat = alert.Notification{ID: "ntc_2-7", Event: alert.Heartbeat, At: at, Source: "https://broker:8400", Rule: "security", Open: 2}
	test      = alert.Notification{ID: "tst_1", Event: alert.Test, At: at, Source: "https://broker:8400", By: "me"}
)

// got is one request.
type got struct {
	path   string
	header http.Header
	body   []byte
}

// service is an HTTP server that keeps what it is sent.
type service struct {
	*httptest.Server
	mu     sync.Mutex
	got    []got
	status int
	header http.Header
}

func newService(t *testing.T) *service {
	s := &service{status: http.StatusAccepted, header: http.Header{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got = append(s.got, got{r.URL.Path, r.Header, body})
		for k, v := range s.header {
			w.Header()[k] = v
		}
		w.WriteHeader(s.status)
		_, _ = fmt.Fprintf(w, "no: %s %s", r.URL, body) // servers quote what they got
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) answer(status int, header http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.header = status, header
}

// last decodes the body of the n-th request from the end.
func (s *service) last(t *testing.T, n int, into any) got {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.got) <= n {
		t.Fatalf("%d requests", len(s.got))
	}
	g := s.got[len(s.got)-1-n]
	if err := json.Unmarshal(g.body, into); err != nil {
		t.Fatalf("%v: %s", err, g.body)
	}
	return g
}

func made(t *testing.T, n alert.Notifier, err error) alert.Notifier {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := n.(interface{ Close() }); ok {
		t.Cleanup(c.Close)
	}
	return n
}

func tell(t *testing.T, to alert.Notifier, n alert.Notification) {
	t.Helper()
	if err := to.Notify(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func TestWebhookIsASignedCloudEvent(t *testing.T) {
	s := newService(t)
	secret := webhook.GenerateSecret()
	n, err := notify.NewWebhook(notify.Webhook{URL: s.URL + "/hooks", AllowPrivateNetwork: true}, secret, time.Now)
	to := made(t, n, err)
	var event struct {
		SpecVersion, ID, Source, Type, Subject string
		Time                                   time.Time
		DataContentType                        string
		Data                                   struct {
			Event, Rule, Severity, Title string
			By                           string `json:"requested_by"`
			Alert                        struct {
				ID, Kind, Tenant, Subject, Text, Next string
				Opened                                time.Time `json:"opened_at"`
				Resolved                              time.Time `json:"resolved_at"`
			}
			Open *int
		}
	}
	tell(t, to, resurrected(alert.Resolved))
	g := s.last(t, 0, &event)
	if err := webhook.Verify([]backends.SecretString{secret}, g.header, g.body, time.Now(), webhook.Tolerance); err != nil {
		t.Error(err)
	}
	if g.path != "/hooks" || g.header.Get(webhook.HeaderID) != event.ID || g.header.Get("Content-Type") != webhook.ContentType {
		t.Errorf("path %s, header %v", g.path, g.header)
	}
	d := event.Data
	if event.SpecVersion != "1.0" || event.ID != "ntc_1-1" || event.Type != notify.EventType || event.Subject != "alt_1" || event.Source != "https://broker:8400" || !event.Time.Equal(at) {
		t.Errorf("event %+v", event)
	}
	if d.Event != "resolved" || d.Severity != "critical" || d.Alert.Kind != alert.Resurrected || d.Alert.Tenant != "acme" || !d.Alert.Resolved.Equal(at) || d.Open != nil {
		t.Errorf("data %+v", d)
	}
	tell(t, to, heartbeat)
	event.Data.Alert.ID = ""
	s.last(t, 0, &event)
	if event.Data.Event != "heartbeat" || event.Data.Rule != "security" || event.Data.Alert.ID != "" || event.Data.Open == nil || *event.Data.Open != 2 {
		t.Errorf("heartbeat %+v", event.Data)
	}
	tell(t, to, test)
	event.Data.Rule = ""
	if s.last(t, 0, &event); event.Data.Event != "test" || event.Data.Rule != "" || event.Data.By != "me" {
		t.Errorf("test %+v", event.Data)
	}
}

func TestSlack(t *testing.T) {
	s := newService(t)
	n, err := notify.NewSlack(notify.Slack{WebhookURL: backends.SecretString(s.URL + "/services/" + canary), AllowPrivateNetwork: true})
	to := made(t, n, err)
	var message struct{ Text string }
	tell(t, to, resurrected(alert.Raised))
	if g := s.last(t, 0, &message); g.path != "/services/"+canary {
		t.Errorf("posted to %s", g.path)
	}
	const start = ":rotating_light: *keybroker: resurrected*\n```\nresurrected: version 3 of acme:mail/sender was proven dead &amp; is accepted again &lt;!&gt;\n"
	if !strings.HasPrefix(message.Text, start) || !strings.Contains(message.Text, "\nnext: keybroker retirement show ret_1\n") || !strings.HasSuffix(message.Text, "\n```") {
		t.Errorf("posted %s", message.Text)
	}
	tell(t, to, resurrected(alert.Resolved))
	s.last(t, 0, &message)
	if !strings.HasPrefix(message.Text, ":white_check_mark: *keybroker: resurrected resolved*\n```\nover: resurrected: ") || strings.Contains(message.Text, "next:") {
		t.Errorf("posted %s", message.Text)
	}
}

// TestNobodyWritesInTheChannel: what others have named or answered is text, whatever
// it looks like to Slack or in Markdown, and however long it is.
func TestNobodyWritesInTheChannel(t *testing.T) {
	s := newService(t)
	n, err := notify.NewSlack(notify.Slack{WebhookURL: backends.SecretString(s.URL), AllowPrivateNetwork: true})
	to := made(t, n, err)
	for _, text := range []string{"[ack here](https://evil)", "@channel", "<!channel>", "*b* _i_ ~s~", "```\n[ack here](https://evil) @channel", "`x", strings.Repeat("<", 5000)} {
		var message struct{ Text string }
		evil := resurrected(alert.Raised)
		evil.Alert.Kind, evil.Alert.Text, evil.Alert.Next = alert.BreakGlass, text, text
		tell(t, to, evil)
		s.last(t, 0, &message)
		head, block, _ := strings.Cut(message.Text, "\n```\n")
		inside, ended := strings.CutSuffix(block, "\n```")
		if head != ":rotating_light: *keybroker: break_glass*" || !ended || strings.ContainsAny(inside, "`<>") || len(message.Text) > 3000 {
			t.Errorf("posted %s", message.Text)
		}
	}
}

func TestPagerDuty(t *testing.T) {
	s := newService(t)
	n, err := notify.NewPagerDuty(notify.PagerDuty{RoutingKey: canary + "\n", URL: s.URL, AllowPrivateNetwork: true})
	to := made(t, n, err)
	type pd struct {
		Key     string `json:"routing_key"`
		Action  string `json:"event_action"`
		Dedup   string `json:"dedup_key"`
		Payload *struct {
			Summary, Source, Severity, Class, Component, Group string
			Details                                            map[string]string `json:"custom_details"`
		}
	}
	var opened, over, change, paged pd
	tell(t, to, resurrected(alert.Raised))
	if g := s.last(t, 0, &opened); g.path != "/v2/enqueue" {
		t.Errorf("posted to %s", g.path)
	}
	if opened.Key != canary || opened.Action != "trigger" || opened.Dedup != "alt_1" || opened.Payload.Severity != "critical" ||
		opened.Payload.Class != "resurrected" || opened.Payload.Group != "acme" || opened.Payload.Details["next"] != "keybroker retirement show ret_1" {
		t.Errorf("sent %+v %+v", opened, opened.Payload)
	}
	tell(t, to, resurrected(alert.Resolved))
	s.last(t, 0, &over)
	if over.Action != "resolve" || over.Dedup != opened.Dedup || over.Payload != nil {
		t.Errorf("sent %+v", over)
	}
	tell(t, to, heartbeat)
	if g := s.last(t, 0, &change); g.path != "/v2/change/enqueue" || change.Action != "" || change.Payload.Summary != "keybroker works; 2 alerts are open" {
		t.Errorf("a heartbeat pages: %s %+v", g.path, change)
	}
	tell(t, to, test)
	s.last(t, 1, &paged)
	s.last(t, 0, &over)
	if paged.Action != "trigger" || over.Action != "resolve" || over.Dedup != paged.Dedup || paged.Payload.Severity != "info" {
		t.Errorf("a test sent %+v and %+v", paged, over)
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	to := notify.NewLog(hclog.New(&hclog.LoggerOptions{Output: &out}))
	tell(t, to, resurrected(alert.Raised))
	tell(t, to, heartbeat)
	for _, want := range []string{"[ERROR] resurrected: version 3", "alert=alt_1", "[INFO]  keybroker works; 2 alerts are open"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, out.String())
		}
	}
}

// TestAnswers: each answer has the class that the runner goes by, and says nothing
// of what was sent.
func TestAnswers(t *testing.T) {
	s := newService(t)
	secret := backends.SecretString(canary)
	for name, make := range map[string]func() (alert.Notifier, error){
		"slack": func() (alert.Notifier, error) {
			return notify.NewSlack(notify.Slack{WebhookURL: backends.SecretString(s.URL + "/" + canary), AllowPrivateNetwork: true})
		},
		"pagerduty": func() (alert.Notifier, error) {
			return notify.NewPagerDuty(notify.PagerDuty{RoutingKey: secret, URL: s.URL, AllowPrivateNetwork: true})
		},
	} {
		n, err := make()
		to := made(t, n, err)
		for status, class := range map[int]error{
			http.StatusBadRequest: backends.ErrInvalid, http.StatusForbidden: backends.ErrDenied, http.StatusNotFound: backends.ErrDenied,
			http.StatusTooManyRequests: backends.ErrUnavailable, http.StatusInternalServerError: backends.ErrUnavailable, http.StatusFound: backends.ErrUnavailable,
		} {
			s.answer(status, http.Header{"Retry-After": {"30"}})
			err := to.Notify(t.Context(), resurrected(alert.Raised))
			if !errors.Is(err, class) || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
				t.Errorf("%s, %d: %v", name, status, err)
			}
			slow, ok := errors.AsType[notify.Slow](err)
			if !ok || slow.RetryAfter() != 30*time.Second {
				t.Errorf("%s, %d: Retry-After is not heeded: %v", name, status, err)
			}
		}
	}
	n, err := notify.NewWebhook(notify.Webhook{URL: s.URL + "/" + canary, AllowPrivateNetwork: true}, webhook.GenerateSecret(), time.Now)
	to := made(t, n, err)
	err = to.Notify(t.Context(), heartbeat)
	if _, ok := errors.AsType[notify.Slow](err); !ok || !errors.Is(err, backends.ErrUnavailable) || strings.Contains(err.Error(), canary) {
		t.Errorf("webhook: %v", err)
	}
}

// TestNobodyThere: refused, forbidden and cut off, without a word of the secret.
func TestNobodyThere(t *testing.T) {
	s := newService(t)
	private := s.URL
	s.Close()
	hooks := func(allow bool) map[string]alert.Notifier {
		slack, err := notify.NewSlack(notify.Slack{WebhookURL: backends.SecretString(private + "/" + canary), AllowPrivateNetwork: allow})
		pd, err2 := notify.NewPagerDuty(notify.PagerDuty{RoutingKey: canary, URL: private, AllowPrivateNetwork: allow})
		wh, err3 := notify.NewWebhook(notify.Webhook{URL: private + "/" + canary, AllowPrivateNetwork: allow}, webhook.GenerateSecret(), time.Now)
		mail, err4 := notify.NewEmail(notify.Email{Address: strings.TrimPrefix(private, "http://"), From: "k@example.com", To: []string{"a@example.com"},
			Username: "u", Password: canary, AllowPrivateNetwork: allow})
		if err := errors.Join(err, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		return map[string]alert.Notifier{"slack": slack, "pagerduty": pd, "webhook": wh, "email": mail}
	}
	for allow, class := range map[bool]error{true: backends.ErrUnavailable, false: backends.ErrDenied} {
		for name, to := range hooks(allow) {
			err := to.Notify(t.Context(), resurrected(alert.Raised))
			if !errors.Is(err, class) || strings.Contains(err.Error(), canary) {
				t.Errorf("%s, private networks allowed %t: %v", name, allow, err)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := to.Notify(ended, heartbeat); err == nil || backends.Class(err) == nil || strings.Contains(err.Error(), canary) {
				t.Errorf("%s, cut off: %v", name, err)
			}
		}
	}
}

func TestMistakes(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  interface{ Check(offline bool) error }
		want string // of each mistake, in order; empty: none
	}{
		"webhook":        {notify.Webhook{URL: "https://x.example"}, ""},
		"webhook, url":   {notify.Webhook{URL: "x.example", SigningSecret: canary}, "invalid: url must begin with https:// or http://\ninvalid: signing_secret cannot be used"},
		"a CA for http":  {notify.Webhook{URL: "http://x", CAFile: "ca.pem"}, "invalid: ca_file means nothing over http"},
		"two secrets":    {notify.Webhook{URL: "https://x", SigningSecret: webhook.GenerateSecret(), SigningSecretFile: "f"}, "invalid: signing_secret_file is a second signing secret"},
		"slack":          {notify.Slack{WebhookURL: "https://hooks.slack.com/" + canary}, ""},
		"slack, plain":   {notify.Slack{WebhookURL: "http://hooks.slack.com/" + canary}, "invalid: webhook_url must begin with https://"},
		"slack, no host": {notify.Slack{WebhookURL: "https:///" + canary}, "invalid: webhook_url names no host"},
		"pagerduty":      {notify.PagerDuty{RoutingKey: canary}, ""},
		"pagerduty, key": {notify.PagerDuty{RoutingKey: " ", URL: "http://x"}, "invalid: routing_key is empty: it is the integration key of a service\ninvalid: url must begin with https://"},
		"email":          {notify.Email{Address: "mail.example.com:587", From: "K <k@example.com>", To: []string{"a@example.com"}}, ""},
		"email, all":     {notify.Email{Address: "mail", From: "k", To: []string{"b@"}, Username: "u", TLS: "ssl"}, "invalid: address is no host:port: write for instance mail.example.com:587\ninvalid: from is no address"},
		"email, nobody":  {notify.Email{Address: "m:1", From: "k@x.example", TLS: "none"}, "invalid: to names nobody: write at least one address\ninvalid: tls = \"none\" is for loopback only"},
		"log":            {notify.Log{}, ""},
	} {
		err := tt.cfg.Check(false)
		text := fmt.Sprint(err)
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, backends.ErrInvalid) || !strings.HasPrefix(text, tt.want)) || strings.Contains(text, canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
