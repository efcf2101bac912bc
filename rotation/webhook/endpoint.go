package webhook

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Endpoint is where a consumer's deliveries go, and how.
type Endpoint struct {
	URL          string // may carry a token in userinfo or query: it is never shown whole
	AllowPrivate bool   // loopback and private networks may be reached
	TLS          TLS
	Timeout      time.Duration // of one attempt, until the answer has been read; 0: Timeout
}

// Check returns what is wrong with the URL, for messages with that payload, as
// ErrInvalid: it is no absolute http or https URL, or a plain payload would go over http
// to anywhere but this machine. What is wrong with TLS, NewSender says.
func (e Endpoint) Check(p Payload) error {
	u, err := e.parse()
	switch {
	case err != nil:
		return err
	case !slices.Contains(Payloads(), p):
		return errPayload(p)
	case p == Plain && u.Scheme != "https" && !local(u):
		return fmt.Errorf(`%w: a plain payload goes over https only, except to loopback: use https, or payload = "sealed"`, backends.ErrInvalid)
	}
	return nil
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
	}
	return u, nil
}

// shown is what errors may say of a URL: neither userinfo nor path nor query.
func shown(u *url.URL) string {
	return u.Scheme + "://" + u.Host
}

// local tells whether a URL is for this machine alone: http, where a plain payload would be
// shown on the way, to an address of it or "localhost". RFC 6761 has that name resolve to
// nothing else, but resolvers ask the hosts file and DNS for it, so a Sender looks at what
// it connects to as well.
func local(u *url.URL) bool {
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	return u.Scheme == "http" && (strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback())
}
