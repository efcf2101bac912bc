package outbound

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const dialTimeout = 10 * time.Second

// RefusedError says that a connection was not made because of where it would
// have gone. Its class is backends.ErrDenied; nothing was sent.
type RefusedError struct {
	Addr    netip.Addr
	Kind    string // what the address is: "loopback", "a cloud metadata service"
	Private bool   // allowing private networks would permit it
}

func (e *RefusedError) Error() string {
	if e.Private {
		return fmt.Sprintf("connecting to %s is refused: it is %s; set allow_private_network = true if that is meant", e.Addr, e.Kind)
	}
	return fmt.Sprintf("connecting to %s is refused: it is %s", e.Addr, e.Kind)
}

// Unwrap gives the class.
func (e *RefusedError) Unwrap() error { return backends.ErrDenied }

type network struct {
	prefix netip.Prefix
	kind   string
}

func networks(kind string, prefixes ...string) []network {
	list := make([]network, len(prefixes))
	for i, p := range prefixes {
		list[i] = network{netip.MustParsePrefix(p), kind}
	}
	return list
}

// never lists the destinations that no option permits. The cloud metadata
// services hand out credentials to whoever can reach them; what they use outside
// of link-local ranges is listed by address.
var never = concat(
	networks("a cloud metadata service",
		"169.254.169.254/32", // AWS, GCP, Azure, OpenStack, …
		"169.254.170.0/24",   // AWS ECS and EKS credentials
		"fd00:ec2::/32",      // AWS over IPv6
		"fd20:ce::254/128",   // GCP over IPv6
		"100.100.100.200/32", // Alibaba Cloud
		"168.63.129.16/32",   // Azure WireServer
		"192.0.0.192/32",     // Oracle Cloud
	),
	networks("link-local", "169.254.0.0/16", "fe80::/10"),
	networks("unspecified", "0.0.0.0/8", "::/128"),
	networks("multicast", "224.0.0.0/4", "ff00::/8"),
	networks("reserved", "240.0.0.0/4", "192.0.0.0/24", "100::/64"),
	// Which IPv4 address these lead to cannot be told from outside.
	networks("a tunnel to IPv4", "2001::/32", "64:ff9b:1::/48"),
)

// private lists the destinations that AllowPrivate permits.
var private = concat(
	networks("loopback", "127.0.0.0/8", "::1/128"),
	networks("a private network",
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
		"fc00::/7", "fec0::/10"),
)

func concat(lists ...[]network) []network {
	var all []network
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// CheckAddr returns a *RefusedError if addr is no destination for outbound
// traffic. An IPv6 address that carries an IPv4 one (mapped, compatible, NAT64,
// 6to4) is judged by that one as well.
func CheckAddr(addr netip.Addr, allowPrivate bool) error {
	addr = addr.WithZone("").Unmap()
	for _, a := range append([]netip.Addr{addr}, embedded(addr)...) {
		if kind, ok := find(never, a); ok {
			return &RefusedError{Addr: addr, Kind: kind}
		}
		if allowPrivate {
			continue
		}
		if kind, ok := find(private, a); ok {
			return &RefusedError{Addr: addr, Kind: kind, Private: true}
		}
	}
	return nil
}

func find(list []network, a netip.Addr) (string, bool) {
	for _, n := range list {
		if n.prefix.Contains(a) {
			return n.kind, true
		}
	}
	return "", false
}

var (
	compatible = netip.MustParsePrefix("::/96")        // RFC 4291, 2.5.5.1
	nat64      = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour  = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// embedded returns the IPv4 address that an IPv6 address carries.
func embedded(a netip.Addr) []netip.Addr {
	if !a.Is6() || a == netip.IPv6Loopback() {
		return nil
	}
	b := a.As16()
	switch {
	case compatible.Contains(a), nat64.Contains(a):
		return []netip.Addr{netip.AddrFrom4([4]byte(b[12:16]))}
	case sixToFour.Contains(a):
		return []netip.Addr{netip.AddrFrom4([4]byte(b[2:6]))}
	}
	return nil
}

// Dialer returns a dialer that checks the address of each connection when the
// socket is about to connect, after name resolution: a name that resolves to
// something else the second time (DNS rebinding) gains nothing.
func Dialer(allowPrivate bool) *net.Dialer { return dialer(allowPrivate, false) }

func dialer(allowPrivate, loopbackOnly bool) *net.Dialer {
	return &net.Dialer{
		Timeout: dialTimeout,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: the destination is no IP address", backends.ErrDenied)
			}
			if err := CheckAddr(ap.Addr(), allowPrivate); err != nil {
				return err
			}
			if a := ap.Addr().WithZone("").Unmap(); loopbackOnly && !a.IsLoopback() {
				return &RefusedError{Addr: a, Kind: "not this machine, which alone may be reached here"}
			}
			return nil
		},
	}
}

// Resolve returns every address that host has now, as "ip:port" in a fixed
// order; ErrUnavailable if there is none or the resolver does not answer. It
// does not check them: the dialer does.
func Resolve(ctx context.Context, host, port string) ([]string, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("%w: resolving %s: %s", backends.ErrUnavailable, host, cmp.Or(Describe(err), "the resolver fails"))
	}
	return endpoints(addrs, port), nil
}
