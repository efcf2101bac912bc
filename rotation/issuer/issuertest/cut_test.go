package issuertest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
)

// talker is an issuer whose Issue asks a server twice for an answer.
type talker struct {
	issuer.Issuer
	ask func(ctx context.Context, what string) (string, error)
}

func (c talker) Issue(ctx context.Context, _ issuer.Request) (issuer.Credential, error) {
	for _, what := range []string{"one", "two"} {
		if got, err := c.ask(ctx, what); err != nil || got != "you said "+what {
			return issuer.Credential{}, fmt.Errorf("%w: %q, %w", backends.ErrUnavailable, got, err)
		}
	}
	return issuer.Credential{}, nil
}

// heard is what a server has heard.
type heard struct {
	mu    sync.Mutex
	lines []string
}

func (h *heard) add(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, line)
}

// server runs a server whose requests are heard, and returns a Cut for it, and what
// ends it and waits for all that it does.
type server func(h *heard) (cut func(int) (issuer.Issuer, func() bool), end func())

// walk issues at every point, each time with a fresh server, and tells what was heard.
func walk(t *testing.T, run server) (each [][]string) {
	t.Helper()
	for n := range 100 {
		var h heard
		cut, end := run(&h)
		is, reached := cut(n)
		_, err := is.Issue(t.Context(), issuer.Request{})
		if reached() == (err == nil) {
			t.Errorf("point %d: reached: %t, error: %v", n, reached(), err)
		}
		done := !reached()
		if _, again := is.Issue(t.Context(), issuer.Request{}); err != nil && again == nil {
			t.Errorf("point %d: it goes on", n)
		}
		end()
		if done {
			return each
		}
		each = append(each, h.lines)
	}
	t.Fatal("there is no end")
	return nil
}

func TestCutHTTP(t *testing.T) {
	each := walk(t, func(h *heard) (func(int) (issuer.Issuer, func() bool), func()) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			h.add(string(b))
			_, _ = fmt.Fprintf(w, "you said %s", b)
		}))
		return issuertest.CutHTTP(t, s.URL, func(url string) issuer.Issuer {
			return talker{ask: func(ctx context.Context, what string) (string, error) { return post(ctx, url, what) }}
		}), s.Close
	})
	want := [][]string{nil, {"one"}, {"one"}, {"one"}, {"one", "two"}, {"one", "two"}}
	if !slices.EqualFunc(each, want, slices.Equal) {
		t.Errorf("heard was %q, want %q", each, want)
	}
}

func post(ctx context.Context, url, what string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(what))
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestCutTCP(t *testing.T) {
	each := walk(t, func(h *heard) (func(int) (issuer.Issuer, func() bool), func()) {
		addr, end := echo(t, h)
		return issuertest.CutTCP(t, addr, func(addr string) issuer.Issuer {
			return talker{ask: func(ctx context.Context, what string) (string, error) { return say(ctx, addr, what) }}
		}), end
	})
	// Two lines and two answers are four pieces. A scanner takes half a line that
	// nothing follows for one, or never sees it: the connection was reset.
	if len(each) != 8 {
		t.Fatalf("there are %d points, want 8: %q", len(each), each)
	}
	for n, want := range map[int][]string{0: nil, 2: {"one"}, 3: {"one"}, 4: {"one"}, 6: {"one", "two"}, 7: {"one", "two"}} {
		if !slices.Equal(each[n], want) {
			t.Errorf("point %d: heard was %q, want %q", n, each[n], want)
		}
	}
}

// echo answers each line.
func echo(t *testing.T, h *heard) (addr string, end func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					h.add(lines.Text())
					_, _ = fmt.Fprintf(conn, "you said %s\n", lines.Text())
				}
			})
		}
	})
	return l.Addr().String(), func() {
		_ = l.Close()
		wg.Wait()
	}
}

func say(ctx context.Context, addr, what string) (string, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "%s\n", what); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}
