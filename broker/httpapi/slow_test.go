package httpapi_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keybroker/keybroker/broker/httpapi"
)

// serve starts h on loopback with timeouts, and gives its URL.
func serve(t *testing.T, h http.Handler, timeouts httpapi.Timeouts) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, h, timeouts)
	return "http://" + l.Addr().String()
}

func serveOn(t *testing.T, l net.Listener, h http.Handler, timeouts httpapi.Timeouts) {
	t.Helper()
	srv := httpapi.NewServer(h, timeouts, log.New(io.Discard, "", 0))
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// impatient are timeouts that a test can wait for, far from those that make no
// difference to it.
var impatient = httpapi.Timeouts{Header: 200 * time.Millisecond, Body: 400 * time.Millisecond, Answer: time.Minute, Idle: time.Minute}

func dial(t *testing.T, url string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// What is begun and not ended is cut off, and nobody else waits meanwhile.
func TestSlowRequestsAreCutOff(t *testing.T) {
	m := newMemory()
	n := &node{memory: m, url: serve(t, httpapi.New(configOf(m)), impatient)}
	for name, test := range map[string]struct{ begin, answer string }{
		"nothing":  {"", ""},
		"a header": {"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", ""},
		"a body": {"POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + goodToken +
			"\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", "HTTP/1.1 408 "},
	} {
		t.Run(name, func(t *testing.T) {
			var conns []net.Conn
			for range 20 {
				c := dial(t, n.url)
				if _, err := io.WriteString(c, test.begin); err != nil {
					t.Fatal(err)
				}
				conns = append(conns, c)
			}
			if a := n.ask(t, "GET", "/api/v1/secrets", goodToken, ""); a.status != 200 {
				t.Errorf("who is not slow: %d", a.status)
			}
			for _, c := range conns {
				got, err := io.ReadAll(c)
				if err != nil && !isReset(err) {
					t.Fatalf("it was not cut off: %v", err)
				}
				if !strings.HasPrefix(string(got), test.answer) {
					t.Errorf("answered with %q", got)
				}
			}
		})
	}
	if m.count() != 3 {
		t.Errorf("%d calls reached the broker, want the 3 of who was not slow", m.count())
	}
}

func isReset(err error) bool {
	_, timeout := errors.AsType[net.Error](err)
	return !timeout || !err.(net.Error).Timeout()
}

// drip sends a byte of a header now and then: the whole of it has one deadline.
func TestDrippingHeaderIsCutOff(t *testing.T) {
	m := newMemory()
	c := dial(t, serve(t, httpapi.New(configOf(m)), impatient))
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		closed <- err
	}()
	drip := time.NewTicker(20 * time.Millisecond)
	defer drip.Stop()
	for {
		select {
		case err := <-closed:
			if err != nil && !isReset(err) {
				t.Errorf("it was not cut off: %v", err)
			}
			return
		case <-drip.C:
			_, _ = io.WriteString(c, "x") // until it is closed
		}
	}
}

func TestLargeHeader(t *testing.T) {
	m := newMemory()
	n := &node{memory: m, url: serve(t, httpapi.New(configOf(m)), httpapi.DefaultTimeouts)}
	if a := n.ask(t, "GET", "/healthz", "", "", "X-Large", strings.Repeat("x", 32<<10)); a.status != 200 {
		t.Errorf("a header of 32 KiB: %d", a.status)
	}
	if a := n.ask(t, "GET", "/healthz", "", "", "X-Large", strings.Repeat("x", 128<<10)); a.status != 431 {
		t.Errorf("a header of 128 KiB: %d", a.status)
	}
}

// secure starts m over TLS with HTTP/2, and gives its address and what a client needs.
func secure(t *testing.T, m *memory, timeouts httpapi.Timeouts) (string, *tls.Config) {
	t.Helper()
	pair := httptest.NewUnstartedServer(nil)
	pair.StartTLS() // for its certificate
	t.Cleanup(pair.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: pair.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}}),
		httpapi.New(configOf(m)), timeouts)
	return l.Addr().String(), pair.Client().Transport.(*http.Transport).TLSClientConfig
}

func TestHSTS(t *testing.T) {
	m := newMemory()
	addr, trust := secure(t, m, httpapi.DefaultTimeouts)
	for _, h2 := range []bool{true, false} {
		cfg := trust.Clone()
		if cfg.NextProtos = []string{"http/1.1"}; h2 {
			cfg.NextProtos = []string{"h2"}
		}
		tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: h2}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get("https://" + addr + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.ProtoMajor == 2 != h2 {
			t.Errorf("answered in %s", resp.Proto)
		}
		if got := resp.Header.Get("Strict-Transport-Security"); got != "max-age=31536000" {
			t.Errorf("%s: %q", resp.Proto, got)
		}
	}
	plain := &node{memory: m, url: serve(t, httpapi.New(configOf(m)), httpapi.DefaultTimeouts)}
	if got := plain.ask(t, "GET", "/healthz", "", "").header.Get("Strict-Transport-Security"); got != "" {
		t.Errorf("over plain HTTP: %q", got)
	}
}

// rawHTTP2 speaks frames.
func rawHTTP2(t *testing.T, addr string, trust *tls.Config) (net.Conn, *http2.Framer) {
	t.Helper()
	cfg := trust.Clone()
	cfg.NextProtos, cfg.ServerName = []string{"h2"}, "127.0.0.1"
	c, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, bufio.NewReader(c))
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c, f
}

func headers(t *testing.T, fields ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		if err := e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// A body over HTTP/2 that does not come is cut off like one over HTTP/1.1, and the
// other requests of the same connection are answered.
func TestSlowBodyOverHTTP2(t *testing.T) {
	m := newMemory()
	addr, trust := secure(t, m, impatient)
	_, f := rawHTTP2(t, addr, trust)
	post := headers(t, ":method", "POST", ":scheme", "https", ":authority", addr, ":path", "/api/v1/tokens",
		"authorization", "Bearer "+goodToken, "content-type", "application/json")
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: post, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	get := headers(t, ":method", "GET", ":scheme", "https", ":authority", addr, ":path", "/healthz")
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: get, EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
	status := map[uint32]string{}
	for status[1] == "" {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%v, after %v", err, status)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			status[frame.StreamID] = frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			status[frame.StreamID] += "reset"
		}
	}
	if status[3] != "200" || status[1] != "408" {
		t.Errorf("the other request: %s, the slow one: %s", status[3], status[1])
	}
	if m.count() != 0 {
		t.Error("the slow request reached the broker")
	}
}

func TestStreamsOfAConnectionAreLimited(t *testing.T) {
	addr, trust := secure(t, newMemory(), impatient)
	_, f := rawHTTP2(t, addr, trust)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := frame.(*http2.SettingsFrame); ok {
			if n, ok := s.Value(http2.SettingMaxConcurrentStreams); !ok || n > 250 {
				t.Errorf("%d streams at a time", n)
			}
			return
		}
	}
}

// A header over HTTP/2 that does not end has the time that a connection may be idle:
// no request has begun.
func TestSlowHeaderOverHTTP2(t *testing.T) {
	short := impatient
	short.Idle = 300 * time.Millisecond
	m := newMemory()
	addr, trust := secure(t, m, short)
	c, f := rawHTTP2(t, addr, trust)
	block := headers(t, ":method", "GET", ":scheme", "https", ":authority", addr, ":path", "/api/v1/secrets", "authorization", "Bearer "+goodToken)
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true}); err != nil { // CONTINUATION is to follow
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil && !isReset(err) {
		t.Errorf("it was not cut off: %v", err)
	}
	if m.count() != 0 {
		t.Error("it reached the broker")
	}
}
