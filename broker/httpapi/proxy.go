package httpapi

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

var errForwarded = &failure{
	status: http.StatusBadRequest,
	detail: "the trusted proxy has sent an X-Forwarded-For whose last entry is no IP address, so that nobody knows where the request comes from",
	hint:   "let the proxy append the address of its peer",
}

// client finds out where a request comes from: the peer, or, where that is one of
// the proxies, the last entry of X-Forwarded-For that is none of them. Entries before
// that may be anything that the client made up, so nothing is read of them. All other
// headers, X-Real-IP and Forwarded among them, are what anybody may send.
func (l *Limits) client(r *http.Request) (netip.Addr, error) {
	peer := address(r)
	if !slices.Contains(l.TrustedProxies, peer) {
		return peer, nil
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if hop = strings.TrimSpace(hop); hop == "" {
			continue // no header, or an empty one: the proxy itself asks
		}
		from, err := parseHop(hop)
		if err != nil {
			return netip.Addr{}, errForwarded
		}
		if peer = from; !slices.Contains(l.TrustedProxies, from) {
			break
		}
	}
	return peer, nil
}

// parseHop reads an address, with or without a port: some proxies add that.
func parseHop(hop string) (netip.Addr, error) {
	if with, err := netip.ParseAddrPort(hop); err == nil {
		return with.Addr().WithZone("").Unmap(), nil
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(hop, "["), "]"))
	return a.WithZone("").Unmap(), err
}
