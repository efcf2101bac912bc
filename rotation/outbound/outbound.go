// Package outbound makes every connection that leaves the broker (to consumers,
// issuers and probed endpoints) under one guard against reaching what it must not.
package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// User agents, so that the other side can tell our traffic and our probing apart.
const (
	UserAgent      = "keybroker/1"
	ProbeUserAgent = "keybroker-probe/1"
)

const (
	defaultTimeout = 30 * time.Second
	defaultMaxBody = 1 << 20
	maxHeaderBytes = 64 << 10
	maxIdlePerHost = 4
	idleTimeout    = 90 * time.Second
)

// Options describes a client. The zero value reaches public addresses only.
type Options struct {
	AllowPrivate     bool          // loopback and private networks too
	LoopbackOnly     bool          // of what is allowed, this machine alone, whatever a name resolves to
	Timeout          time.Duration // of a whole request with its answer's body; 0 = 30 s
	CAFile           string        // PEM certificates trusted instead of the system's
	RootCAs          *x509.CertPool
	FreshConnections bool          // a new connection for each request, none kept
	MaxBody          int64         // bytes of an answer's body; 0 = 1 MiB
	UserAgent        string        // empty: UserAgent
	MinVersion       uint16        // of TLS, as tls.VersionTLS13; 0 = TLS 1.2
	Resolver         *net.Resolver // of names; nil: net.DefaultResolver
	// VerifyConnection, if set, is asked at each handshake after the usual
	// verification of the server's certificate (for pins). The text of its error, and
	// of ClientCertificate's, is shown: it must hold no secret.
	VerifyConnection func(tls.ConnectionState) error
	// ClientCertificate, if set, gives the certificate to show, at each handshake in
	// which the server asks for one.
	ClientCertificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
}

// Client sends single requests: no redirect is followed, no proxy is taken from
// the environment, no cookie kept. Safe for concurrent use.
type Client struct {
	opts    Options
	tls     *tls.Config
	pin     string          // ip:port to dial whatever the URL says; empty: none
	fresh   bool            // a transport of its own for each request
	keeping *http.Transport // unless fresh
}

// Response is an answer, read whole.
type Response struct {
	Status  int
	Header  http.Header
	Body    []byte
	Address string // "ip:port" of the connection; empty if none was made
	Sent    bool   // false: the other side certainly got no part of the request
}

// New returns a client; ErrInvalid if the CA file cannot be used. Close it when
// it keeps connections.
func New(opts Options) (*Client, error) {
	if opts.Timeout == 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.MaxBody == 0 {
		opts.MaxBody = defaultMaxBody
	}
	if opts.UserAgent == "" {
		opts.UserAgent = UserAgent
	}
	if opts.CAFile != "" {
		pool, err := readCertificates(opts.CAFile)
		if err != nil {
			return nil, err
		}
		opts.RootCAs = pool
	}
	c := &Client{opts: opts, fresh: opts.FreshConnections, tls: handshake(opts)}
	if !c.fresh {
		c.keeping = c.transport()
	}
	return c, nil
}

func readCertificates(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: reading certificates: %w", backends.ErrInvalid, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: %s holds no PEM certificate", backends.ErrInvalid, file)
	}
	return pool, nil
}

// At returns a client that connects to address ("ip:port") whatever a URL's host
// resolves to; the host still is what TLS verifies and the Host header says. It
// uses a fresh connection for each request.
func (c *Client) At(address string) *Client {
	pinned := *c
	pinned.pin, pinned.fresh, pinned.keeping = address, true, nil
	return &pinned
}

// Close closes the connections kept.
func (c *Client) Close() {
	if c.keeping != nil {
		c.keeping.CloseIdleConnections()
	}
}

func (c *Client) transport() *http.Transport {
	dialer := dialer(c.opts.AllowPrivate, c.opts.LoopbackOnly)
	dialer.Resolver = c.opts.Resolver
	return &http.Transport{
		Proxy: nil, // a proxy would connect on our behalf, past the guard
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if c.pin != "" {
				address = c.pin
			}
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig:        c.tls.Clone(),
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		DisableKeepAlives:      c.fresh,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
}

// Do sends req under its own context and the client's timeout and reads the
// answer, whatever its status. The error is a *RefusedError, or ErrUnavailable
// with a text that names neither URL nor anything the other side sent (both may
// carry a credential). With it the response has no body, and its Status and Header
// only if they came before it failed; the request may have had its effect if it was
// sent.
func (c *Client) Do(req *http.Request) (Response, error) {
	ctx, cancel := context.WithTimeout(req.Context(), c.opts.Timeout)
	defer cancel()
	var address atomic.Value // written by the goroutine that dials
	address.Store("")
	var sent, noHandshake atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectDone: func(_, addr string, err error) {
			if err == nil {
				address.Store(addr)
			}
		},
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) { noHandshake.Store(err != nil) },
		// A transport writes only to a connection that it has got, its TLS handshake
		// included. Asking for what was written would miss what a buffer passed on.
		GotConn: func(info httptrace.GotConnInfo) {
			sent.Store(true)
			address.Store(info.Conn.RemoteAddr().String())
		},
	})
	req = req.Clone(ctx)
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", c.opts.UserAgent)
	}
	transport := c.keeping
	if c.fresh {
		transport = c.transport()
		defer transport.CloseIdleConnections()
	}
	resp, err := c.exchange(transport, req)
	if err != nil {
		err = failure(ctx, err, noHandshake.Load())
	}
	resp.Address, resp.Sent = address.Load().(string), sent.Load()
	return resp, err
}

func (c *Client) exchange(transport *http.Transport, req *http.Request) (Response, error) {
	answer, err := transport.RoundTrip(req)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = answer.Body.Close() }()
	resp := Response{Status: answer.StatusCode, Header: answer.Header}
	body, err := io.ReadAll(io.LimitReader(answer.Body, c.opts.MaxBody+1))
	switch {
	case err != nil:
		return resp, err
	case int64(len(body)) > c.opts.MaxBody:
		return resp, errTooLarge
	}
	resp.Body = body
	return resp, nil
}

var errTooLarge = errors.New("the answer is too large")

// failure turns an error of the transport into one that is safe to show.
func failure(ctx context.Context, err error, noHandshake bool) error {
	var refused *RefusedError
	var own ownError
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &own):
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, own.error)
	case errors.Is(context.Cause(ctx), context.Canceled):
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, context.DeadlineExceeded)
	}
	text := Describe(err)
	switch {
	case text == "" && noHandshake:
		text = "TLS: the handshake failed"
	case text == "":
		text = "no valid HTTP answer"
	}
	return fmt.Errorf("%w: %s", backends.ErrUnavailable, text)
}

func endpoints(addrs []netip.Addr, port string) []string {
	var list []string
	for _, a := range addrs {
		list = append(list, net.JoinHostPort(a.Unmap().String(), port))
	}
	slices.Sort(list)
	return slices.Compact(list)
}
