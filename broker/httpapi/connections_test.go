package httpapi_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/httpapi"
	"github.com/keybroker/keybroker/broker/ratelimit"
)

// elsewhere is a listener on loopback whose connections say that they come from where
// the test has dialled from. Each time it is told to, it has no more file descriptors.
type elsewhere struct {
	net.Listener
	next chan netip.Addr

	mu   sync.Mutex
	full int
}

type claimed struct {
	net.Conn
	from netip.Addr
}

func (c claimed) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.from, 4711))
}

func (l *elsewhere) Accept() (net.Conn, error) {
	l.mu.Lock()
	full := l.full > 0
	if full {
		l.full--
	}
	l.mu.Unlock()
	if full {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return claimed{c, <-l.next}, nil
}

// hall is a server with limits.
type hall struct {
	t    *testing.T
	door *elsewhere
	open *httpapi.Connections

	mu     sync.Mutex
	closed map[string]int // by limit
}

func newHall(t *testing.T, limits httpapi.ConnectionLimits) *hall {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hall{t: t, door: &elsewhere{Listener: l, next: make(chan netip.Addr, 1)}, closed: map[string]int{}}
	limits.Closed = func(limit string, _ netip.Addr) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.closed[limit]++
	}
	h.open = httpapi.LimitConnections(h.door, limits)
	return h
}

// serve answers every request at once, but those of /slow only when slow is closed.
func (h *hall) serve(slow <-chan struct{}, begun chan<- struct{}) {
	serveOn(h.t, h.open, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- struct{}{}
			<-slow
		}
	}), httpapi.DefaultTimeouts)
}

// guest is a connection.
type guest struct {
	net.Conn
	r *bufio.Reader
}

// enter connects from an address, and says nothing.
func (h *hall) enter(from string) guest {
	h.t.Helper()
	h.door.next <- netip.MustParseAddr(from)
	c := dial(h.t, h.door.Addr().String())
	return guest{c, bufio.NewReader(c)}
}

// asks enters and has a request answered.
func (h *hall) asks(from string) guest {
	h.t.Helper()
	g := h.enter(from)
	if !g.answered() {
		h.t.Fatalf("a new connection from %s is not served", from)
	}
	return g
}

func (g guest) begin(path string) error {
	_, err := io.WriteString(g, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	return err
}

func (g guest) end() bool {
	resp, err := http.ReadResponse(g.r, nil)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.Body.Close() == nil
}

func (g guest) answered() bool { return g.begin("/") == nil && g.end() }

// told waits until Closed was told of n connections by a limit: after they were closed.
func (h *hall) told(limit string, n int) {
	h.t.Helper()
	eventually(h.t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.closed[limit] == n
	})
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestTheLongestSilentOfAnAddressMakesRoom: what is new is served.
func TestTheLongestSilentOfAnAddressMakesRoom(t *testing.T) {
	h := newHall(t, httpapi.ConnectionLimits{Total: 100, PerAddress: 3})
	h.serve(nil, nil)
	var in []guest
	for range 3 {
		in = append(in, h.enter("192.0.2.1"))
	}
	other := h.enter("192.0.2.2")
	if !in[0].answered() {
		t.Fatal("one of the allowed was closed")
	}
	in = append(in, h.asks("192.0.2.1"))
	h.told("address", 1)
	for i, g := range in {
		if want := i != 1; g.answered() != want {
			t.Errorf("connection %d is open: %v", i, !want)
		}
	}
	if !other.answered() {
		t.Error("another address pays for it")
	}
	if n := h.open.Open(); n != 4 {
		t.Errorf("%d are open", n)
	}
}

// TestWhoIsServedIsSpared, however long it takes, while there are connections on which
// nothing is asked.
func TestWhoIsServedIsSpared(t *testing.T) {
	h := newHall(t, httpapi.ConnectionLimits{Total: 2, PerAddress: 100})
	slow, begun := make(chan struct{}), make(chan struct{})
	h.serve(slow, begun)
	busy := h.enter("192.0.2.1")
	if err := busy.begin("/slow"); err != nil {
		t.Fatal(err)
	}
	<-begun
	for range 5 {
		h.enter("192.0.2.1")
	}
	h.told("total", 4)
	close(slow)
	if !busy.end() {
		t.Error("a request was cut off although others were silent")
	}
}

func TestWhoIsServedOverHTTP2IsSpared(t *testing.T) {
	h := newHall(t, httpapi.ConnectionLimits{Total: 2, PerAddress: 100})
	pair := httptest.NewUnstartedServer(nil)
	pair.StartTLS() // for its certificate
	t.Cleanup(pair.Close)
	slow, begun := make(chan struct{}), make(chan struct{})
	serveOn(t, tls.NewListener(h.open, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: pair.TLS.Certificates, NextProtos: []string{"h2"}}),
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			begun <- struct{}{}
			<-slow
		}), httpapi.DefaultTimeouts)
	tr := &http.Transport{TLSClientConfig: pair.Client().Transport.(*http.Transport).TLSClientConfig, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	h.door.next <- netip.MustParseAddr("192.0.2.1")
	answer := make(chan error, 1)
	go func() {
		resp, err := (&http.Client{Transport: tr}).Get("https://" + h.door.Addr().String())
		if err == nil {
			err = resp.Body.Close()
		}
		answer <- err
	}()
	<-begun
	for range 5 {
		h.enter("192.0.2.1")
	}
	h.told("total", 4)
	close(slow)
	if err := <-answer; err != nil {
		t.Errorf("a request was cut off although others were silent: %v", err)
	}
}

// TestNobodyIsKeptOut by whoever has however many connections from however many
// networks, and who has few keeps them.
func TestNobodyIsKeptOut(t *testing.T) {
	for name, test := range map[string]struct {
		network func(i int) string
		limit   string
	}{
		"a site":         {func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i%16) }, "site"},
		"sixteen sites":  {func(i int) string { return fmt.Sprintf("2001:db8:%x::1", i%16) }, "total"},
		"an address":     {func(int) string { return "198.51.100.1" }, "address"},
		"some addresses": {func(i int) string { return fmt.Sprintf("198.51.100.%d", i%16) }, "total"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHall(t, httpapi.ConnectionLimits{Total: 64, PerAddress: 8})
			h.serve(nil, nil)
			few := []guest{h.asks("192.0.2.1"), h.asks("192.0.2.1")}
			for i := range 200 {
				h.enter(test.network(i))
			}
			for i := range 20 {
				h.asks(fmt.Sprintf("203.0.113.%d", i+1))
			}
			for _, g := range few {
				if !g.answered() {
					t.Error("who has few connections has lost one")
				}
			}
			if n := h.open.Open(); n > 64 {
				t.Errorf("%d are open", n)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.closed[test.limit] == 0 {
				t.Errorf("closed by %v", h.closed)
			}
		})
	}
}

func TestASiteHasItsLimit(t *testing.T) {
	h := newHall(t, httpapi.ConnectionLimits{Total: 1000, PerAddress: 2})
	h.serve(nil, nil)
	for i := range 20 {
		h.asks(fmt.Sprintf("2001:db8:0:%x::1", i))
	}
	h.asks("2001:db8:1::1")
	h.told("site", 20-2*ratelimit.NetworksPerSite)
}

// TestAProxyCountsForManyCallers: it may have more than others, and loses connections
// first where it has nearly all.
func TestAProxyCountsForManyCallers(t *testing.T) {
	const proxy = "10.0.0.1"
	h := newHall(t, httpapi.ConnectionLimits{Total: 16, PerAddress: 4, Exempt: func(a netip.Addr) bool { return a == netip.MustParseAddr(proxy) }})
	h.serve(nil, nil)
	var through []guest
	for range 10 {
		through = append(through, h.asks(proxy))
	}
	for range 20 {
		h.enter("198.51.100.1")
		h.enter("198.51.100.2")
	}
	for i, g := range through {
		if !g.answered() {
			t.Errorf("connection %d of the proxy is closed, although others have more than their share", i)
		}
	}
	for range 20 {
		h.asks(proxy)
	}
	if !h.asks("203.0.113.1").answered() {
		t.Error("who is new is kept out by the proxy")
	}
}

// TestNoMoreFiles: where the system allows fewer connections, they make room in the same way.
func TestNoMoreFiles(t *testing.T) {
	h := newHall(t, httpapi.ConnectionLimits{Total: 100, PerAddress: 100})
	h.door.full = 1 // nobody is there who could make room: net/http tries again
	h.serve(nil, nil)
	first, second := h.enter("192.0.2.1"), h.enter("192.0.2.1")
	eventually(t, func() bool { return h.open.Open() == 2 })
	h.door.mu.Lock()
	h.door.full = 1
	h.door.mu.Unlock()
	third, fourth := h.asks("192.0.2.2"), h.asks("192.0.2.3") // one of them is accepted by a call that was waiting before
	h.told("total", 1)
	if first.answered() || !second.answered() || !third.answered() || !fourth.answered() {
		t.Error("another one than the longest silent of who has the most is closed")
	}
}
