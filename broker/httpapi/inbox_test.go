package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
)

// message is one in which everything is that JSON and server-sent events could change.
var message = client.InboxItem{Delivery: "d1", Headers: map[string]string{"webhook-id": "d1", "webhook-signature": "v1a,x= v1,y="},
	Body: "{\"a\":\"<&>\u2028é\"}\n\ndata: " + canary}

func (m *memory) Inbox(ctx context.Context, p authn.Principal, consumer string, q client.InboxQuery) (client.List[client.InboxItem], error) {
	if err := m.serve(p, "inbox", consumer, q.Wait, q.Limit, q.Instance); err != nil {
		return client.List[client.InboxItem]{}, err
	}
	if m.hold {
		<-ctx.Done()
		return client.List[client.InboxItem]{Items: []client.InboxItem{}}, nil
	}
	return client.List[client.InboxItem]{Items: []client.InboxItem{message}}, nil
}

func (m *memory) FollowInbox(ctx context.Context, p authn.Principal, consumer, instance string) (<-chan client.InboxItem, error) {
	if err := m.serve(p, "follow-inbox", consumer, instance); err != nil {
		return nil, err
	}
	items := make(chan client.InboxItem)
	m.watches.Go(func() {
		defer close(items)
		select {
		case items <- message:
		case <-ctx.Done():
			return
		}
		if m.hold {
			<-ctx.Done()
		}
	})
	return items, nil
}

func sameMessage(t *testing.T, got client.InboxItem) {
	t.Helper()
	if got.Delivery != message.Delivery || got.Body.Reveal() != message.Body.Reveal() || got.Header().Get("Webhook-Signature") != "v1a,x= v1,y=" {
		t.Errorf("%q, %q, %v", got.Delivery, got.Body.Reveal(), got.Headers)
	}
	if text := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(text, canary) {
		t.Errorf("printed: %s", text)
	}
}

func TestInbox(t *testing.T) {
	n := start(t, newMemory(), nil)
	c := n.client(t, goodToken)
	got, err := c.Inbox(t.Context(), "shop", client.InboxQuery{Wait: 2 * time.Second, Limit: 3, Instance: "web 1"})
	if err != nil || len(got) != 1 || n.last() != "inbox shop 2s 3 web 1" {
		t.Fatalf("%v, %v, %q", got, err, n.last())
	}
	sameMessage(t, got[0])
	for query, want := range map[string]string{"": "inbox shop 30s 10", "?wait=0": "inbox shop 0s 10", "?wait=1m&limit=100": "inbox shop 1m0s 100"} {
		if a := n.ask(t, "GET", "/api/v1/consumers/shop/inbox"+query, goodToken, ""); a.status != http.StatusOK || n.last() != want {
			t.Errorf("%q: %d, %q", query, a.status, n.last())
		}
	}
	for _, query := range []string{"?wait=61s", "?wait=-1s", "?wait=10", "?wait=soon", "?limit=101", "?limit=0", "?after=x"} {
		before := n.count()
		if a := n.ask(t, "GET", "/api/v1/consumers/shop/inbox"+query, goodToken, ""); a.status != http.StatusBadRequest || n.count() != before {
			t.Errorf("%q: %d %s", query, a.status, a.body)
		}
	}
}

// To HEAD nothing is handed out: nobody would get it.
func TestInboxToHead(t *testing.T) {
	n := start(t, newMemory(), nil)
	for _, accept := range []string{"*/*", "text/event-stream"} {
		if a := n.ask(t, "HEAD", "/api/v1/consumers/shop/inbox?wait=0s", goodToken, "", "Accept", accept); a.status != http.StatusOK || n.last() != "inbox shop 0s 0" {
			t.Errorf("%s: %d, %q", accept, a.status, n.last())
		}
	}
}

func TestInboxRefused(t *testing.T) {
	m := newMemory()
	n := start(t, m, nil)
	for _, c := range []struct {
		fail   error
		status int
	}{{backends.ErrNotFound, 404}, {backends.ErrDenied, 401}, {backends.ErrUnavailable, 503}, {&authn.Slowed{}, 429}} {
		m.fail = fmt.Errorf("%w: %s", c.fail, canary)
		a := n.ask(t, "GET", "/api/v1/consumers/shop/inbox", goodToken, "")
		if a.status != c.status {
			t.Errorf("%v: %d %s", c.fail, a.status, a.body)
		}
		if c.status == http.StatusUnauthorized && strings.Contains(a.body, canary) {
			t.Errorf("who is nobody any more is told why: %s", a.body)
		}
	}
}

func TestInboxWaitsAsLongAsTheServer(t *testing.T) {
	m := newMemory()
	m.hold = true
	stopping := make(chan struct{})
	n := start(t, m, func(c *httpapi.Config) { c.Stopping = stopping })
	go func() {
		for n.count() == 0 {
			time.Sleep(time.Millisecond)
		}
		close(stopping)
	}()
	if a := n.ask(t, "GET", "/api/v1/consumers/shop/inbox?wait=1m", goodToken, ""); a.status != http.StatusOK || a.body != `{"items":[]}` {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// Whoever waits is not taken for slow.
func TestInboxOutlivesTheServersTimeouts(t *testing.T) {
	m := newMemory()
	m.hold = true
	stopping := make(chan struct{})
	n := startWith(t, m, func(c *httpapi.Config) { c.Stopping = stopping }, func(s *http.Server) {
		s.ReadTimeout, s.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	})
	time.AfterFunc(200*time.Millisecond, func() { close(stopping) })
	began := time.Now()
	a := n.ask(t, "GET", "/api/v1/consumers/shop/inbox?wait=1m", goodToken, "")
	if took := time.Since(began); a.status != http.StatusOK || took < 150*time.Millisecond {
		t.Errorf("%d after %s: %s", a.status, took, a.body)
	}
}

func TestInboxAsAStream(t *testing.T) {
	m := newMemory()
	m.hold = true
	n := start(t, m, func(c *httpapi.Config) { c.Heartbeat = time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for item, err := range n.client(t, goodToken).FollowInbox(ctx, "shop", "web-1", func(error) { t.Error("interrupted") }) {
		if errors.Is(err, context.Canceled) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		sameMessage(t, item)
		if n.last() != "follow-inbox shop web-1" {
			t.Errorf("%q", n.last())
		}
		cancel()
	}
	m.watches.Wait() // the broker was told to stop

	req, err := http.NewRequestWithContext(t.Context(), "GET", n.url+"/api/v1/consumers/shop/inbox", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + goodToken}, "Accept": {"application/json;q=0.1, text/event-stream; charset=utf-8"}}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var seen []string
	for lines := bufio.NewScanner(resp.Body); len(seen) < 3 && lines.Scan(); {
		if text := lines.Text(); text != "" && !strings.HasPrefix(text, ":") {
			seen = append(seen, text)
		}
	}
	data, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(seen, "\n"), "id: d1\nevent: message\ndata: "+string(data); got != want {
		t.Errorf("%s\nis not\n%s", got, want)
	}
}

// Parameters are for one answer: a stream takes none.
func TestInboxAsAStreamTakesNoParameters(t *testing.T) {
	n := start(t, newMemory(), nil)
	if a := n.ask(t, "GET", "/api/v1/consumers/shop/inbox?limit=3", goodToken, "", "Accept", "text/event-stream"); a.status != http.StatusBadRequest {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// A stream that breaks is opened again; a server that refuses ends it.
func TestFollowInboxGoesOn(t *testing.T) {
	m := newMemory()
	n := start(t, m, nil)
	var interruptions int
	var last error
	seen := 0
	for item, err := range n.client(t, goodToken).FollowInbox(t.Context(), "shop", "", func(error) {
		if interruptions++; interruptions == 2 {
			m.mu.Lock()
			m.fail = backends.ErrNotFound
			m.mu.Unlock()
		}
	}) {
		if last = err; err == nil {
			seen++
			sameMessage(t, item)
		}
	}
	if seen != 2 || interruptions != 2 || client.Status(last) != http.StatusNotFound {
		t.Errorf("%d messages, %d interruptions, %v", seen, interruptions, last)
	}
}
