package httpapi

import (
	"container/heap"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keybroker/keybroker/broker/ratelimit"
)

// How many connections a node keeps at a time.
const (
	MaxConnections           = 16384
	MaxConnectionsPerAddress = 1024
)

// ConnectionLimits are how many connections a listener keeps at a time, all together
// and of one address: of IPv6 of one network, and ratelimit.NetworksPerSite times as
// many of one site.
type ConnectionLimits struct {
	Total, PerAddress int
	// Exempt addresses count for the total alone: behind a proxy there are many callers.
	// Nil: none are.
	Exempt func(netip.Addr) bool
	// Closed is told of each connection that was closed for another one, by which of the
	// limits ("address", "site", "total") and of whom. Nil: nobody is.
	Closed func(limit string, from netip.Addr)
}

// Connections is a listener that keeps to limits. Whoever opens many connections and
// says nothing keeps nobody away: there is room for every new one, for which the
// connection of the longest silence is closed, of who has the most. It is served by a
// server of NewServer, which tells it who is silent.
type Connections struct {
	net.Listener
	limits ConnectionLimits
	began  time.Time

	mu   sync.Mutex
	open int
	of   map[origin]*group
	most groups // of the same, the largest first
}

// LimitConnections makes Connections of a listener.
func LimitConnections(l net.Listener, limits ConnectionLimits) *Connections {
	return &Connections{Listener: l, limits: limits, began: time.Now(), of: map[origin]*group{}}
}

// Open is how many connections there are.
func (l *Connections) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// Accept implements net.Listener.
func (l *Connections) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if errors.Is(err, syscall.EMFILE) && l.makeRoom() { // the system allows fewer than we do
			continue
		}
		if err != nil {
			return nil, err
		}
		var peer netip.Addr
		if at, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			peer = at.AddrPort().Addr().Unmap()
		}
		return l.enter(c, peer), nil
	}
}

// enter counts a new connection, and closes another one if there are too many.
func (l *Connections) enter(c net.Conn, peer netip.Addr) *connection {
	exempt := l.limits.Exempt != nil && l.limits.Exempt(peer)
	from := origin{ratelimit.Site(peer), exempt}
	if exempt {
		from.site = peer
	}
	l.mu.Lock()
	g := l.of[from]
	if g == nil {
		g = &group{origin: from, all: map[*connection]struct{}{}, networks: map[netip.Addr]int{}, weight: 1}
		if exempt { // its share of what it may have is as large as others' of what they may have
			g.weight = float64(l.limits.PerAddress) / float64(l.limits.Total)
		}
	}
	n := &connection{Conn: c, owner: l, group: g, network: ratelimit.Network(peer)}
	n.is(http.StateNew)
	limit, closed := l.beyond(n)
	l.add(n)
	l.mu.Unlock()
	l.end(limit, closed)
	return n
}

// beyond takes the connection out that has to make room for n, and tells why.
func (l *Connections) beyond(n *connection) (limit string, out *connection) {
	g := n.group
	switch {
	case !g.exempt && g.networks[n.network] >= l.limits.PerAddress:
		limit, out = "address", g.silent(func(c *connection) bool { return c.network == n.network })
	case !g.exempt && len(g.all) >= l.limits.PerAddress*ratelimit.NetworksPerSite:
		limit, out = "site", g.silent(func(*connection) bool { return true })
	case l.open >= l.limits.Total && len(l.most) > 0:
		limit, out = "total", l.most[0].silent(func(*connection) bool { return true })
	}
	if out != nil {
		l.remove(out)
	}
	return limit, out
}

// makeRoom closes the connection that can be spared most, if there is one.
func (l *Connections) makeRoom() bool {
	l.mu.Lock()
	if len(l.most) == 0 {
		l.mu.Unlock()
		return false
	}
	out := l.most[0].silent(func(*connection) bool { return true })
	l.remove(out)
	l.mu.Unlock()
	l.end("total", out)
	return true
}

func (l *Connections) end(limit string, c *connection) {
	if c == nil {
		return
	}
	_ = c.Conn.Close() // of somebody who may be gone
	if l.limits.Closed != nil {
		l.limits.Closed(limit, c.network)
	}
}

// add and remove count; whoever calls them holds mu.
func (l *Connections) add(c *connection) {
	g := c.group
	l.open++
	g.networks[c.network]++
	g.all[c] = struct{}{}
	if len(g.all) > 1 {
		heap.Fix(&l.most, g.at)
		return
	}
	l.of[g.origin] = g
	heap.Push(&l.most, g)
}

func (l *Connections) remove(c *connection) {
	g := c.group
	if _, there := g.all[c]; !there {
		return // it was closed before
	}
	l.open--
	delete(g.all, c)
	if g.networks[c.network]--; g.networks[c.network] == 0 {
		delete(g.networks, c.network)
	}
	if len(g.all) > 0 {
		heap.Fix(&l.most, g.at)
		return
	}
	delete(l.of, g.origin)
	heap.Remove(&l.most, g.at)
}

// origin is whose connections are told apart from those of others.
type origin struct {
	site   netip.Addr
	exempt bool
}

// group are the connections of one origin.
type group struct {
	origin
	all      map[*connection]struct{}
	networks map[netip.Addr]int
	weight   float64 // of each
	at       int     // in the heap
}

func (g *group) size() float64 { return float64(len(g.all)) * g.weight }

// silent is the connection that nothing was asked on for the longest time; one on
// which a request is served only if there is no other.
func (g *group) silent(of func(*connection) bool) (found *connection) {
	for c := range g.all {
		if of(c) && (found == nil || c.spared.Load() < found.spared.Load()) {
			found = c
		}
	}
	return found
}

// groups is a heap.Interface, the largest first.
type groups []*group

func (s groups) Len() int           { return len(s) }
func (s groups) Less(i, j int) bool { return s[i].size() > s[j].size() }
func (s groups) Swap(i, j int)      { s[i], s[j] = s[j], s[i]; s[i].at, s[j].at = i, j }
func (s *groups) Push(x any)        { g := x.(*group); g.at = len(*s); *s = append(*s, g) }
func (s *groups) Pop() any {
	last := (*s)[len(*s)-1]
	(*s)[len(*s)-1] = nil
	*s = (*s)[:len(*s)-1]
	return last
}

// connection is one that counts until it is closed.
type connection struct {
	net.Conn
	owner   *Connections
	group   *group
	network netip.Addr

	spared atomic.Int64 // whose is less is closed first
}

// withRequest is more than any time since a node began, in nanoseconds.
const withRequest = 1 << 62

func (c *connection) is(state http.ConnState) {
	order := int64(time.Since(c.owner.began))
	if state == http.StateActive {
		order += withRequest
	}
	c.spared.Store(order)
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.owner.mu.Lock()
	c.owner.remove(c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets net/http end a connection so that its last answer is still read.
func (c *connection) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// observe is the http.Server.ConnState of what Connections has accepted, with TLS or
// without.
func observe(c net.Conn, state http.ConnState) {
	if over, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = over.NetConn()
	}
	if counted, ok := c.(*connection); ok {
		counted.is(state)
	}
}
