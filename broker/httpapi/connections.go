package httpapi

import (
	"net"
	"net/netip"
	"sync"

	"github.com/keybroker/keybroker/broker/ratelimit"
)

// How many connections a node keeps at a time.
const (
	MaxConnections           = 16384
	MaxConnectionsPerAddress = 1024
)

// LimitConnections is a listener that closes the connections beyond what is allowed
// at once, all together and from one address, so that nobody who opens many and says
// nothing keeps others away. Those that exempt is true of count for the total alone:
// behind a proxy there are many callers.
func LimitConnections(l net.Listener, total, perAddress int, exempt func(netip.Addr) bool) net.Listener {
	return &limited{Listener: l, total: total, perAddress: perAddress, exempt: exempt, from: map[netip.Addr]int{}}
}

type limited struct {
	net.Listener
	total, perAddress int
	exempt            func(netip.Addr) bool

	mu   sync.Mutex
	open int
	from map[netip.Addr]int
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var peer netip.Addr
		if at, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			peer = at.AddrPort().Addr().Unmap()
		}
		if whose := ratelimit.Network(peer); l.enter(whose, l.exempt(peer)) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { l.leave(whose) })}, nil
		}
		_ = c.Close() // whoever it is has too many
	}
}

func (l *limited) enter(whose netip.Addr, exempt bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.total || !exempt && l.from[whose] >= l.perAddress {
		return false
	}
	l.open++
	l.from[whose]++
	return true
}

func (l *limited) leave(whose netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.from[whose]--; l.from[whose] == 0 {
		delete(l.from, whose)
	}
}

// counted is a connection that counts until it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// CloseWrite lets net/http end a connection so that its last answer is still read.
func (c *counted) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
