package issuertest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// CutHTTP is a Harness.Cut for a system that answers HTTP at target; open makes an
// issuer that is given another URL in target's place. Each request is three points:
// it does not arrive, its answer is lost, half of its answer comes. Connections are
// reset from then on.
func CutHTTP(t testing.TB, target string, open func(url string) issuer.Issuer) func(n int) (issuer.Issuer, func() bool) {
	faults := []faultproxy.Fault{faultproxy.Reset(), faultproxy.LostAnswer(), faultproxy.HalfAnswer()}
	return func(n int) (issuer.Issuer, func() bool) {
		p := faultproxy.New(t, target)
		at := n / len(faults)
		every := func(*http.Request) bool { return true }
		p.Set(
			faultproxy.Rule{Fault: faults[n%len(faults)], Match: every, Skip: at, Times: 1},
			faultproxy.Rule{Fault: faultproxy.Reset(), Match: every, Skip: at},
		)
		return open(p.URL), func() bool { return p.Requests() > at }
	}
}

// CutTCP is a Harness.Cut for a system with a protocol of its own at target, a host
// and port; open makes an issuer that is given another one in its place. Each piece
// of the conversation, in either direction, is two points: nothing of it arrives,
// half of it does. Connections are reset from then on.
func CutTCP(t testing.TB, target string, open func(addr string) issuer.Issuer) func(n int) (issuer.Issuer, func() bool) {
	return func(n int) (issuer.Issuer, func() bool) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c := &cutter{target: target, listener: l, left: n, open: map[net.Conn]bool{}}
		c.wg.Go(c.serve)
		t.Cleanup(c.close)
		return open(l.Addr().String()), c.reached
	}
}

// cutter passes on the pieces of all connections until its point is reached.
type cutter struct {
	target   string
	listener net.Listener
	wg       sync.WaitGroup

	mu   sync.Mutex
	left int // points that still pass
	cut  bool
	open map[net.Conn]bool
}

func (c *cutter) reached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

func (c *cutter) close() {
	_ = c.listener.Close()
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.wg.Wait()
}

// end resets every connection, now and to come. The lock is held.
func (c *cutter) end() {
	c.cut = true
	for conn := range c.open {
		reset(conn)
	}
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func (c *cutter) serve() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", c.target)
		if err != nil {
			reset(conn)
			continue
		}
		c.mu.Lock()
		c.open[conn], c.open[server] = true, true
		if c.cut {
			c.end()
		}
		c.mu.Unlock()
		c.wg.Go(func() { c.pass(server, conn) })
		c.wg.Go(func() { c.pass(conn, server) })
	}
}

// pass copies what comes from one side to the other.
func (c *cutter) pass(to, from net.Conn) {
	piece := make([]byte, 64<<10)
	for {
		n, err := from.Read(piece)
		if n > 0 && !c.forward(to, piece[:n]) {
			return
		}
		if err != nil {
			if tcp, ok := to.(*net.TCPConn); ok && errors.Is(err, io.EOF) {
				_ = tcp.CloseWrite()
			} else {
				reset(to)
			}
			return
		}
	}
}

// forward passes one piece on, all or half of it, or nothing.
func (c *cutter) forward(to net.Conn, piece []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return false
	}
	if c.left > 1 {
		c.left -= 2
		_, err := to.Write(piece)
		return err == nil
	}
	if c.left == 1 {
		_, _ = to.Write(piece[:len(piece)/2])
		_ = to.Close() // no reset, which could overtake it
	}
	c.end()
	return false
}
