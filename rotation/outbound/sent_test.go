package outbound_test

import (
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation/outbound"
)

// hangUp counts what it was asked and closes the connection without an answer.
func hangUp(seen *atomic.Int32) http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		seen.Add(1)
		panic(http.ErrAbortHandler)
	})
}

// mute accepts connections, and neither reads from them nor writes to them.
func mute(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// Sent is false only where the server saw no request, and true wherever it did.
func TestSent(t *testing.T) {
	var seen atomic.Int32
	plain := httptest.NewServer(hangUp(&seen))
	defer plain.Close()
	secure := httptest.NewUnstartedServer(hangUp(&seen))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	defer secure.Close()
	works := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) }))
	defer works.Close()
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		<-r.Context().Done()
	}))
	defer slow.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(secure.Certificate())

	for name, tt := range map[string]struct {
		url, pin string
		opts     outbound.Options
		sent     bool
	}{
		"answered":                 {url: works.URL, sent: true},
		"hung up":                  {url: plain.URL, sent: true},
		"hung up over HTTP/2":      {url: secure.URL, opts: outbound.Options{RootCAs: trusted}, sent: true},
		"no answer in time":        {url: slow.URL, opts: outbound.Options{Timeout: 200 * time.Millisecond}, sent: true},
		"refused":                  {url: gone.URL},
		"refused where pinned":     {url: works.URL, pin: gone.Listener.Addr().String()},
		"unknown host":             {url: "http://no-such-host.invalid", opts: outbound.Options{Timeout: 200 * time.Millisecond}},
		"unknown authority":        {url: secure.URL},
		"TLS to a plain server":    {url: strings.Replace(plain.URL, "http:", "https:", 1)},
		"no TLS handshake in time": {url: "https://" + mute(t), opts: outbound.Options{Timeout: 200 * time.Millisecond}},
		"forbidden address":        {url: "http://169.254.169.254"},
	} {
		for _, fresh := range []bool{true, false} {
			tt.opts.AllowPrivate, tt.opts.FreshConnections = true, fresh
			c := client(t, tt.opts)
			if tt.pin != "" {
				c = c.At(tt.pin)
			}
			before := seen.Load()
			resp, err := get(t, c, tt.url)
			if (err == nil) != (name == "answered") {
				t.Errorf("%s: the error is %v", name, err)
			}
			if resp.Sent != tt.sent {
				t.Errorf("%s (fresh %t): sent is %t: %v", name, fresh, resp.Sent, err)
			}
			if got := seen.Load() > before; got != tt.sent {
				t.Errorf("%s (fresh %t): the server saw a request: %t", name, fresh, got)
			}
		}
	}
}

// A large header is on its way before it is written whole.
func TestSentInPart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan int, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			read <- 0
			return
		}
		n, _ := conn.Read(make([]byte, 1))
		read <- n
		_ = conn.Close()
	}()
	c := client(t, outbound.Options{AllowPrivate: true, FreshConnections: true})
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+l.Addr().String(), nil)
	req.Header.Set("X-Large", strings.Repeat("x", 8<<20))
	resp, err := c.Do(req)
	_ = l.Close()
	if n := <-read; err == nil || n == 0 || !resp.Sent {
		t.Errorf("the server read %d byte, sent is %t: %v", n, resp.Sent, err)
	}
}
