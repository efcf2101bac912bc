package faultproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
)

const answer = "the whole answer"

// heard counts what reaches the server.
func target(t *testing.T) (url string, heard *atomic.Int32) {
	heard = &atomic.Int32{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard.Add(1)
		w.Header().Set("X-Host", r.Host)
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s%s", answer, body)
	}))
	t.Cleanup(s.Close)
	return s.URL, heard
}

// ask sends a request that no transport repeats by itself.
func ask(ctx context.Context, t *testing.T, method, url string) (status int, body string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader("?"))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestProxyPassesWhatIsNotSpoilt(t *testing.T) {
	url, heard := target(t)
	p := faultproxy.New(t, url)
	status, body, err := ask(t.Context(), t, http.MethodPost, p.URL)
	if err != nil || status != http.StatusOK || body != answer+"?" || heard.Load() != 1 || p.Requests() != 1 {
		t.Errorf("%d %q, %v", status, body, err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL, nil)
	req.Host = "vault.example"
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("X-Host"); got != "vault.example" {
		t.Errorf("the server was asked for host %q", got)
	}
}

func TestFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		fault  faultproxy.Fault
		status int
		heard  int32
		cause  error // nil: an answer came
	}{
		"reset":       {faultproxy.Reset(), 0, 0, syscall.ECONNRESET},
		"lost answer": {faultproxy.LostAnswer(), 0, 1, syscall.ECONNRESET},
		"half":        {faultproxy.HalfAnswer(), http.StatusOK, 1, io.ErrUnexpectedEOF},
		"503":         {faultproxy.Status(http.StatusServiceUnavailable), http.StatusServiceUnavailable, 0, nil},
		"late":        {faultproxy.Latency(time.Millisecond), http.StatusOK, 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			url, heard := target(t)
			p := faultproxy.New(t, url)
			p.Set(faultproxy.Rule{Fault: tt.fault})
			status, body, err := ask(t.Context(), t, http.MethodPost, p.URL)
			if status != tt.status || !errors.Is(err, tt.cause) || heard.Load() != tt.heard {
				t.Errorf("status %d, %v; the server heard of %d", status, err, heard.Load())
			}
			if tt.cause != nil && len(body) >= len(answer) {
				t.Errorf("the answer came through: %q", body)
			}
			if tt.status == http.StatusOK && tt.cause == nil && body != answer+"?" {
				t.Errorf("the body is %q", body)
			}
			p.Set()
			if status, _, err := ask(t.Context(), t, http.MethodPost, p.URL); status != http.StatusOK || err != nil {
				t.Errorf("without a rule: %d, %v", status, err)
			}
		})
	}
}

// An answer without a body breaks off too.
func TestHalfOfNothing(t *testing.T) {
	url, _ := target(t)
	p := faultproxy.New(t, url)
	p.Set(faultproxy.Rule{Fault: faultproxy.HalfAnswer()})
	if _, _, err := ask(t.Context(), t, http.MethodDelete, p.URL); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	url, _ := target(t)
	p := faultproxy.New(t, url)
	p.Set(faultproxy.Rule{Fault: faultproxy.Status(http.StatusTooManyRequests).After(3 * time.Second)})
	resp, err := http.Get(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Retry-After"); got != "3" {
		t.Errorf("Retry-After: %q", got)
	}
}

// Who gives up waiting is not held, and the server never hears of it.
func TestLateForCallersThatLeave(t *testing.T) {
	url, heard := target(t)
	p := faultproxy.New(t, url)
	p.Set(faultproxy.Rule{Fault: faultproxy.Latency(time.Hour)})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := ask(ctx, t, http.MethodPost, p.URL); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	p.Close() // waits for what is under way
	if heard.Load() != 0 {
		t.Error("the server heard of it")
	}
	if _, _, err := ask(t.Context(), t, http.MethodPost, p.URL); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Close: %v", err)
	}
}

func TestRulesCount(t *testing.T) {
	const fail = http.StatusTeapot
	spoilt := faultproxy.Status(fail)
	for name, tt := range map[string]struct {
		rules []faultproxy.Rule
		want  string // of requests to /a and /b in turn: . passes, x is spoilt
	}{
		"each":         {[]faultproxy.Rule{{Fault: spoilt}}, "xxxxxxxx"},
		"skip":         {[]faultproxy.Rule{{Fault: spoilt, Skip: 3}}, "...xxxxx"},
		"times":        {[]faultproxy.Rule{{Fault: spoilt, Skip: 1, Times: 2}}, ".xx....."},
		"every":        {[]faultproxy.Rule{{Fault: spoilt, Every: 3}}, "..x..x.."},
		"skip, every":  {[]faultproxy.Rule{{Fault: spoilt, Skip: 1, Every: 3, Times: 1}}, "...x...."},
		"match":        {[]faultproxy.Rule{{Fault: spoilt, Match: func(r *http.Request) bool { return r.URL.Path == "/b" }, Skip: 1}}, "...x.x.x"},
		"two in order": {[]faultproxy.Rule{{Fault: spoilt, Times: 1}, {Fault: spoilt, Skip: 2}}, "x..xxxxx"},
	} {
		url, _ := target(t)
		p := faultproxy.New(t, url)
		p.Set(tt.rules...)
		got := ""
		for i := range tt.want {
			status, _, err := ask(t.Context(), t, http.MethodGet, p.URL+[]string{"/a", "/b"}[i%2])
			if err != nil {
				t.Fatal(err)
			}
			got += map[bool]string{true: "x", false: "."}[status == fail]
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}
