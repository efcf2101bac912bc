package postgresserver

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// Gate stands between a client and a server, sees the conversation where it is not
// encrypted, and spoils what the test tells it to. Its methods are safe for
// concurrent use.
type Gate struct {
	Address string // what the client is given as its server's

	target string
	wg     sync.WaitGroup

	mu    sync.Mutex
	open  map[net.Conn]bool
	mode  gateMode
	lose  bool          // the next answer to a commit does not pass
	freed chan struct{} // closed when it hangs no more
	seen  Seen
}

// Seen is what has passed a Gate so far.
type Seen struct {
	Connections int
	Logins      int // that a password was tried in, by SCRAM
	Marked      int // that said application_name keybroker-probe
}

type gateMode int

const (
	passing gateMode = iota
	hanging
	resetting
	babbling
)

// NewGate stands before the server at target until the test ends.
func NewGate(t testing.TB, target string) *Gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{Address: l.Addr().String(), target: target, open: map[net.Conn]bool{}, freed: make(chan struct{})}
	g.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			g.serve(client)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		g.set(passing, true)
		g.mu.Lock()
		for c := range g.open {
			_ = c.Close()
		}
		g.mu.Unlock()
		g.wg.Wait()
	})
	return g
}

// Hang lets nothing pass, or everything again; what it has taken meanwhile is lost.
func (g *Gate) Hang(on bool) { g.set(hanging, !on) }

// Reset ends each connection at its first message.
func (g *Gate) Reset(on bool) { g.set(resetting, !on) }

// Babble answers each connection in another protocol.
func (g *Gate) Babble(on bool) { g.set(babbling, !on) }

// LoseCommit loses the next answer to a commit: the server has made it.
func (g *Gate) LoseCommit() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lose = true
}

// Seen is what has passed so far.
func (g *Gate) Seen() Seen {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen
}

func (g *Gate) set(mode gateMode, off bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mode == hanging {
		close(g.freed)
		g.freed = make(chan struct{})
	}
	if g.mode = mode; off {
		g.mode = passing
	}
}

func (g *Gate) serve(client net.Conn) {
	server, err := net.Dial("tcp", g.target)
	if err != nil {
		_ = client.Close()
		return
	}
	g.mu.Lock()
	g.open[client], g.open[server] = true, true
	g.seen.Connections++
	g.mu.Unlock()
	g.wg.Go(func() { g.pass(server, client, g.asked) })
	g.wg.Go(func() { g.pass(client, server, g.answered) })
}

// pass copies from one side to the other for as long as look permits it.
func (g *Gate) pass(to, from net.Conn, look func(piece []byte) bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	piece := make([]byte, 64<<10)
	for {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		g.mu.Lock()
		mode, freed := g.mode, g.freed
		good := look(piece[:n])
		g.mu.Unlock()
		switch {
		case mode == hanging:
			<-freed
			return
		case mode == babbling:
			_, _ = from.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			return
		case mode == resetting || !good:
			return
		}
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}

// asked looks at a piece of what a client says. The lock is held.
func (g *Gate) asked(piece []byte) bool {
	if bytes.HasPrefix(piece, []byte("p")) && bytes.Contains(piece, []byte("SCRAM-SHA-256")) {
		g.seen.Logins++
	}
	if bytes.Contains(piece, []byte("application_name\x00keybroker-probe\x00")) {
		g.seen.Marked++
	}
	return true
}

// answered looks at a piece of what a server says. The lock is held.
func (g *Gate) answered(piece []byte) bool {
	if g.lose && bytes.Contains(piece, []byte("COMMIT\x00")) {
		g.lose = false
		return false
	}
	return true
}
