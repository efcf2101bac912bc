package vaultconn

import (
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
)

// Place names the server and the namespace that c leads to, in one spelling, as a path.
// Empty where it cannot be told. Vault Enterprise takes a namespace in a header or
// before the path, so it is a folder.
func (c Config) Place() string {
	server := authority(c.Address)
	if server == "" {
		return ""
	}
	return path.Join(server, strings.Trim(c.Namespace, "/"))
}

// authority is host:port of a URL, in one spelling; empty where it is none. The scheme
// is left out: a port serves one of the two.
func authority(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	port := u.Port()
	switch {
	case port == "" && u.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	return net.JoinHostPort(host, port)
}
