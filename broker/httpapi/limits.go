package httpapi

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/ratelimit"
)

// DefaultMaxRequestSize is the limit of a request's body in bytes.
const DefaultMaxRequestSize = 1 << 20

// Limits are what callers are held to, and whom the node believes where they call
// from. They are never changed once a Handler has them.
type Limits struct {
	MaxRequestSize int64           // bytes of a body; 0: DefaultMaxRequestSize
	TrustedProxies []netip.Addr    // whose X-Forwarded-For is believed
	Rates          ratelimit.Rates // of requests
}

// Timeouts are how long a connection may keep the server waiting. Whoever is slower
// is cut off.
type Timeouts struct {
	Header time.Duration // for the header of a request, and for the TLS handshake
	Body   time.Duration // for all of a request
	Answer time.Duration // for an answer, from the end of the header on; event streams and snapshots have deadlines of their own
	Idle   time.Duration // between two requests
}

// DefaultTimeouts are those of a node. No answer may take longer than a reload does,
// which has two minutes.
var DefaultTimeouts = Timeouts{Header: 10 * time.Second, Body: 30 * time.Second, Answer: 3 * time.Minute, Idle: 2 * time.Minute}

const (
	maxHeader     = 64 << 10 // bytes
	maxStreams    = 100      // requests at a time on one HTTP/2 connection
	pingAfter     = 30 * time.Second
	pingTimeout   = 15 * time.Second
	maxFrame      = 16 << 10 // the least that the protocol allows
	connWindow    = 1 << 20  // bytes of bodies that one connection may have under way
	requestWindow = 256 << 10
)

// NewServer makes the server of a handler, with limits to all that a client can make
// it wait for or keep.
func NewServer(h http.Handler, t Timeouts, errors *log.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: t.Header,
		ReadTimeout:       t.Body,
		WriteTimeout:      t.Answer,
		IdleTimeout:       t.Idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          errors,
		ConnState:         observe,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerConnection: connWindow,
			MaxReceiveBufferPerStream:     requestWindow,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
			WriteByteTimeout:              t.Body, // who reads nothing at all
		},
	}
}

// SetLimits replaces the limits, for requests that begin from now on.
func (h *Handler) SetLimits(l Limits) { h.s.setLimits(l) }

func (s *server) setLimits(l Limits) {
	if l.MaxRequestSize <= 0 {
		l.MaxRequestSize = DefaultMaxRequestSize
	}
	s.rates.SetRates(l.Rates)
	s.limits.Store(&l)
}

// fromAddress counts a request from where it comes. What contains is counted of its
// caller alone, who must be known for it: whatever others send from the same address
// does not stop it.
func (s *server) fromAddress(c ratelimit.Class, r *http.Request) []ratelimit.Quota {
	if c == ratelimit.Unlimited || c == ratelimit.Containing {
		return nil
	}
	return s.rates.Address(c, address(r))
}

// unknown is the answer to a caller who was not authenticated: why, or that there were
// too many of those from the same address, where that was not counted before.
func (s *server) unknown(h http.Header, c ratelimit.Class, r *http.Request, why error) error {
	if _, refused := errors.AsType[*failure](why); !refused || c != ratelimit.Containing {
		return why
	}
	if over := admit(h, s.rates.Address(c, address(r))...); over != nil {
		return over
	}
	return why
}

// ofCaller counts a request of who is known by now.
func (s *server) ofCaller(c ratelimit.Class, p authn.Principal) []ratelimit.Quota {
	if c == ratelimit.Unlimited {
		return nil
	}
	identity := p.Lineage // whatever tokens one makes for oneself
	if identity == "" {
		identity = p.ID
	}
	// The authorities of one tenant can call somebody as those of another do.
	return s.rates.Caller(c, p.Tenant+"/"+identity, p.Tenant, p.Limit)
}

// admit tells h of the quotas, the last of which may be refused.
func admit(h http.Header, quotas ...ratelimit.Quota) error {
	ratelimit.Headers(h, quotas...)
	if len(quotas) == 0 {
		return nil
	}
	last := quotas[len(quotas)-1]
	if !last.Refused() {
		return nil
	}
	whose := map[string]string{"address": "from this address", "site": "from this network", "identity": "of this caller", "tenant": "of this tenant"}[last.Policy]
	f := tooMany(last.Retry)
	f.detail = fmt.Sprintf("there are too many requests %s: %d a minute are allowed", whose, last.PerMinute)
	return f
}

// tooMany is the answer to who has to wait.
func tooMany(wait time.Duration) *failure {
	seconds := strconv.FormatInt(max(1, ratelimit.WholeSeconds(wait)), 10)
	return &failure{
		status: http.StatusTooManyRequests,
		hint:   "try again in " + seconds + " s",
		header: http.Header{"Retry-After": {seconds}},
	}
}
