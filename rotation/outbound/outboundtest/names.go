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
// each host has its IPv4 addresses, any other host that is not in the hosts file
// does not exist. It replaces net.DefaultResolver, so it is called before what
// resolves names is started, and by no test that runs in parallel with others.
func Names(t testing.TB, hosts map[string][]string) {
	t.Helper()
	records := map[string][]netip.Addr{}
	for host, ips := range hosts {
		for _, ip := range ips {
			records[host+"."] = append(records[host+"."], netip.MustParseAddr(ip))
		}
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(conn, records)
	}()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		_ = conn.Close()
		<-done
	})
}

const maxMessage = 512 // bytes of a message over UDP, RFC 1035, 4.2.1

func serve(conn net.PacketConn, records map[string][]netip.Addr) {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if packed, err := reply(buf[:n], records); err == nil {
			_, _ = conn.WriteTo(packed, from)
		}
	}
}

func reply(query []byte, records map[string][]netip.Addr) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	addrs, known := records[strings.ToLower(q.Name.String())]
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	if q.Type == dnsmessage.TypeA {
		for _, a := range addrs {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	return m.Pack()
}
