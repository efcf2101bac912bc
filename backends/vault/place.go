package vault

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
)

// Place names the folder that c leads to, as one path in one server: two
// configurations with the same place are about the same secrets, however they are
// written. Empty where it cannot be told.
//
// A namespace and a mount are folders as well: Vault Enterprise takes a namespace in
// a header or before the path, and no mount is within another.
func (c Config) Place() string {
	server := authority(c.Conn.Address)
	if server == "" {
		return ""
	}
	return path.Join(server, strings.Trim(c.Conn.Namespace, "/"), cmp.Or(trim(c.Mount), DefaultMount), trim(c.PathPrefix))
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
