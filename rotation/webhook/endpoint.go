package webhook

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// Endpoint is where a consumer's deliveries go.
type Endpoint struct {
	URL          string  // may carry a token in userinfo or query: it is never shown whole
	AllowPrivate bool    // loopback and private networks may be reached
	Payload      Payload // how the value is handed over
}

// Check returns what is wrong with the endpoint as ErrInvalid: no absolute http
// or https URL, or a plain payload over http to anywhere but this machine.
func (e Endpoint) Check() error {
	_, err := e.parse()
	return err
}

func (e Endpoint) parse() (*url.URL, error) {
	u, err := url.Parse(e.URL)
	if err != nil { // the error quotes the URL
		return nil, fmt.Errorf("%w: the webhook's url cannot be parsed", backends.ErrInvalid)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%w: the webhook's url must begin with https:// or http://", backends.ErrInvalid)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%w: the webhook's url names no host", backends.ErrInvalid)
	case e.Payload != Plain && e.Payload != Reference:
		return nil, fmt.Errorf("%w: %q is no payload: it is plain or reference", backends.ErrInvalid, string(e.Payload))
	case e.Payload == Plain && u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, fmt.Errorf(`%w: a plain payload goes over https only, except to loopback: use https, or payload = "reference"`, backends.ErrInvalid)
	}
	return u, nil
}

// shown is what errors may say of a URL: neither userinfo nor path nor query.
func shown(u *url.URL) string {
	return u.Scheme + "://" + u.Host
}

// loopback tells whether host is this machine: an address of it or "localhost",
// which resolves to nothing else (RFC 6761).
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
