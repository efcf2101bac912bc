// Package outboundtest gives tests host names with the addresses that they need.
package outboundtest

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Names runs a name server until the test ends, and makes this process ask it:
// each host has its addresses, any other host that is not in the hosts file does not
// exist. It replaces net.DefaultResolver, so it is called before what resolves names is
// started, and by no test that runs in parallel with others.
func Names(t testing.TB, hosts map[string][]string) {
	t.Helper()
	resolver := Resolver(t, func(host string) []string { return hosts[host] })
	before := net.DefaultResolver
	net.DefaultResolver = resolver
	t.Cleanup(func() { net.DefaultResolver = before })
}

// Resolver asks a name server that runs until the test ends: lookup gives the addresses
// that a host has at that moment; none: it does not exist. It is called by several
// goroutines.
func Resolver(t testing.TB, lookup func(host string) []string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(conn, lookup)
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

const maxMessage = 512 // bytes of a message over UDP, RFC 1035, 4.2.1

func serve(conn net.PacketConn, lookup func(string) []string) {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if packed, err := reply(buf[:n], lookup); err == nil {
			_, _ = conn.WriteTo(packed, from)
		}
	}
}

func reply(query []byte, lookup func(string) []string) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	addrs := lookup(strings.TrimSuffix(strings.ToLower(q.Name.String()), "."))
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	if len(addrs) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, text := range addrs {
		if body := record(netip.MustParseAddr(text), q.Type); body != nil {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, Body: body})
		}
	}
	return m.Pack()
}

// record is an address as it answers a question of that type; nil: it does not.
func record(a netip.Addr, asked dnsmessage.Type) dnsmessage.ResourceBody {
	switch {
	case asked == dnsmessage.TypeA && a.Is4():
		return &dnsmessage.AResource{A: a.As4()}
	case asked == dnsmessage.TypeAAAA && a.Is6():
		return &dnsmessage.AAAAResource{AAAA: a.As16()}
	}
	return nil
}
