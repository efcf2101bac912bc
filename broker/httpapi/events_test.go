package httpapi_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
)

func timeline(m *memory) []client.Event {
	rotation, retirement := m.rotation("line\nbreak"), m.retirement()
	return []client.Event{
		{ID: "10", Type: client.EventRotation, Rotation: &rotation},
		{Type: client.EventRetirement, Retirement: &retirement},
		{Type: client.EventEnd},
	}
}

func TestWatchToTheEnd(t *testing.T) {
	m := newMemory()
	m.timeline = timeline(m)
	var got []client.Event
	for e, err := range start(t, m, nil).client(t, goodToken).WatchRotation(t.Context(), "r1") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if len(got) != 3 || got[0].Rotation.Reason != "line\nbreak" || got[1].Retirement.ID != "t1" || got[2].Type != client.EventEnd {
		t.Fatalf("%+v", got)
	}
	if got[0].ID != "10" || got[1].ID == "" {
		t.Errorf("ids %q, %q", got[0].ID, got[1].ID)
	}
}

func TestWatchRefused(t *testing.T) {
	m := newMemory()
	m.fail = backends.ErrNotFound
	seen := 0
	for _, err := range start(t, m, nil).client(t, goodToken).WatchRotation(t.Context(), "r1") {
		if seen++; client.Status(err) != http.StatusNotFound {
			t.Errorf("%v", err)
		}
	}
	if seen != 1 {
		t.Errorf("%d events", seen)
	}
}

func open(t *testing.T, ctx context.Context, n *node) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", n.url+"/api/v1/rotations/r1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+goodToken)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestHeartbeat(t *testing.T) {
	m := newMemory()
	m.hold = true
	n := start(t, m, func(c *httpapi.Config) { c.Heartbeat = time.Millisecond })
	resp := open(t, t.Context(), n)
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	comments := 0
	for lines := bufio.NewScanner(resp.Body); comments < 3 && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), ":") {
			comments++
		}
	}
	if comments != 3 {
		t.Errorf("%d comments", comments)
	}
}

func TestStreamEndsWithTheServer(t *testing.T) {
	m := newMemory()
	m.hold = true
	stopping := make(chan struct{})
	n := start(t, m, func(c *httpapi.Config) { c.Stopping = stopping })
	resp := open(t, t.Context(), n)
	close(stopping)
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if strings.Contains(lines.Text(), client.EventEnd) {
			t.Error("a stream that was cut short says that the rotation ended")
		}
	}
	if lines.Err() != nil {
		t.Error(lines.Err())
	}
	m.watches.Wait() // the broker was told to stop watching
}

func TestStreamEndsWithItsReader(t *testing.T) {
	m := newMemory()
	m.hold = true
	ctx, cancel := context.WithCancel(t.Context())
	open(t, ctx, start(t, m, nil))
	cancel()
	m.watches.Wait()
}

// A server's own timeouts are for requests and whole answers, not for streams.
func TestStreamOutlivesTheServersTimeouts(t *testing.T) {
	m := newMemory()
	m.timeline = timeline(m)[:1]
	m.hold = true
	n := startWith(t, m, func(c *httpapi.Config) { c.Heartbeat = 20 * time.Millisecond }, func(s *http.Server) {
		s.ReadTimeout, s.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	})
	lines := bufio.NewScanner(open(t, t.Context(), n).Body)
	for began := time.Now(); time.Since(began) < 200*time.Millisecond; {
		if !lines.Scan() {
			t.Fatalf("the stream broke: %v", lines.Err())
		}
	}
}
