package outbound_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/outbound/outboundtest"
)

// A name that was good when somebody looked, and even when it was used the first time,
// is judged anew by the address of each connection.
func TestNamesThatTurn(t *testing.T) {
	var hits atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		w.Header().Set("Connection", "close")
	}))
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	var now atomic.Pointer[[]string]
	turn := func(to ...string) { now.Store(&to) }
	resolver := outboundtest.Resolver(t, func(host string) []string {
		if host == "hooks.test" {
			return *now.Load()
		}
		return nil
	})
	url := "http://hooks.test:" + port + "/?k=" + canary

	strict := client(t, outbound.Options{Resolver: resolver})
	turn("203.0.113.7") // as somebody who checks before use sees it
	seen, err := resolver.LookupNetIP(t.Context(), "ip", "hooks.test")
	if err != nil || len(seen) != 1 || outbound.CheckAddr(seen[0], false) != nil {
		t.Fatalf("a public address: %v, %v", seen, err)
	}
	turn("127.0.0.1")
	refused(t, strict, url, "127.0.0.1")

	lenient := client(t, outbound.Options{AllowPrivate: true, Resolver: resolver})
	if resp, err := get(t, lenient, url); err != nil || resp.Status != http.StatusOK {
		t.Fatalf("where it may go: %+v, %v", resp, err)
	}
	for _, to := range []string{
		"169.254.169.254",
		"::ffff:169.254.169.254", // IPv4-mapped
		"64:ff9b::a9fe:a9fe",     // NAT64
		"2002:a9fe:a9fe::1",      // 6to4
		"fd00:ec2::254",
		"fe80::1",
	} {
		t.Run(to, func(t *testing.T) {
			if netip.MustParseAddr(to).Unmap().Is6() {
				needsIPv6(t)
			}
			turn(to)
			refused(t, lenient, url, netip.MustParseAddr(to).Unmap().String())
		})
	}
	if n := hits.Load(); n != 1 {
		t.Errorf("%d requests reached the server, want the one that was allowed", n)
	}

	// Several addresses at once: each is judged by itself.
	turn("169.254.169.254", "127.0.0.1")
	if resp, err := get(t, lenient, url); err != nil || resp.Address != srv.Listener.Addr().String() {
		t.Errorf("one of two addresses is allowed: %+v, %v", resp, err)
	}
}

// What is meant for this machine goes nowhere else, whoever answers for the name.
func TestLoopbackOnly(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	var now atomic.Pointer[[]string]
	turn := func(to ...string) { now.Store(&to) }
	resolver := outboundtest.Resolver(t, func(string) []string { return *now.Load() })
	url := "http://here.test:" + port + "/?k=" + canary
	c := client(t, outbound.Options{AllowPrivate: true, LoopbackOnly: true, FreshConnections: true, Resolver: resolver})
	for _, to := range []string{"203.0.113.7", "10.0.0.1", "169.254.169.254", "fd12::1", "64:ff9b::7f00:1"} {
		t.Run(to, func(t *testing.T) {
			if netip.MustParseAddr(to).Is6() {
				needsIPv6(t)
			}
			turn(to)
			refused(t, c, url, to)
		})
	}
	turn("127.0.0.1")
	if resp, err := get(t, c, url); err != nil || resp.Status != http.StatusNotFound {
		t.Errorf("this machine: %+v, %v", resp, err)
	}
	refused(t, client(t, outbound.Options{LoopbackOnly: true, Resolver: resolver}), url, "127.0.0.1") // it gives no leave
}

func refused(t *testing.T, c *outbound.Client, url, addr string) {
	t.Helper()
	resp, err := get(t, c, url)
	var because *outbound.RefusedError
	if !errors.As(err, &because) || !errors.Is(err, backends.ErrDenied) || because.Addr.String() != addr || resp.Sent {
		t.Errorf("got %+v, %v, want a refusal of %s", resp, err, addr)
	} else if strings.Contains(err.Error(), canary) {
		t.Errorf("the URL is in %q", err)
	}
}

// needsIPv6 skips the test where the system has no IPv6 at all: nothing is dialled then.
func needsIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	_ = l.Close()
}

// Where a redirect leads is nobody's business: it is not even resolved.
func TestRedirectToMetadataIsNotFollowed(t *testing.T) {
	var asked atomic.Int32
	resolver := outboundtest.Resolver(t, func(host string) []string {
		if host == "metadata.test" {
			asked.Add(1)
		}
		return []string{"127.0.0.1"}
	})
	for _, to := range []string{"http://169.254.169.254/latest/meta-data/", "http://metadata.test/"} {
		srv := httptest.NewServer(http.RedirectHandler(to, http.StatusTemporaryRedirect))
		_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
		c := client(t, outbound.Options{AllowPrivate: true, Resolver: resolver})
		resp, err := get(t, c, "http://hooks.test:"+port)
		srv.Close()
		if err != nil || resp.Status != http.StatusTemporaryRedirect || resp.Address != srv.Listener.Addr().String() {
			t.Errorf("%s: got %+v, %v", to, resp, err)
		}
	}
	if asked.Load() != 0 {
		t.Error("the redirect's host was resolved")
	}
}
