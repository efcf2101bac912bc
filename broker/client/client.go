// Package client is the typed Go client of keybroker's native API, with its wire types.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// DefaultTimeout bounds one call whose Options name no other.
	DefaultTimeout = 30 * time.Second
	// maxAnswer bounds the bytes of one answer, far above what the server sends.
	maxAnswer = 64 << 20
)

// Options are what a client may be told besides address and token.
type Options struct {
	CAFile    string            // PEM certificates to trust instead of the system's
	CertFile  string            // PEM certificate, and those it is signed by, to show to the server; read at each connection
	KeyFile   string            // its PEM key
	Role      string            // that is meant by the certificate, where several are bound to it
	Timeout   time.Duration     // of one call, not of an event stream; 0 = DefaultTimeout
	UserAgent string            // empty: "keybroker"
	Transport http.RoundTripper // instead of the default one; then the files must be empty
}

// Client calls one keybroker server. It is safe for concurrent use, follows no
// redirect (which could carry the token elsewhere) and repeats nothing but the
// opening of an event stream. Its errors are *Problem where the server answered
// with one.
type Client struct {
	base      string
	http      *http.Client
	timeout   time.Duration
	userAgent string
	// authorize sets the token. It is a closure so that printing a Client cannot
	// print it.
	authorize func(http.Header)
}

// New makes a client of the server at addr, e.g. "https://keybroker.example:8400".
// An empty token is sent as none.
func New(addr, token string, o Options) (*Client, error) {
	base, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	transport, err := o.transport()
	if err != nil {
		return nil, err
	}
	c := &Client{
		base: base,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		timeout:   o.Timeout,
		userAgent: o.UserAgent,
		authorize: func(http.Header) {},
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if c.userAgent == "" {
		c.userAgent = "keybroker"
	}
	if o.Role != "" {
		c.authorize = func(h http.Header) { h.Set(RoleHeader, o.Role) }
	}
	if token != "" {
		if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, errors.New("the token contains white space or other characters that no token has")
		}
		c.authorize = func(h http.Header) { h.Set("Authorization", "Bearer "+token) }
	}
	return c, nil
}

func parseAddress(addr string) (string, error) {
	u, err := url.Parse(addr)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		return "", errors.New("the address is no URL such as http://127.0.0.1:8400")
	case u.User != nil:
		return "", errors.New("the address carries a user name or password; give the token separately")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("the address carries a query or fragment")
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

func (o Options) transport() (http.RoundTripper, error) {
	if o.Transport != nil {
		if o.CAFile != "" || o.CertFile != "" || o.KeyFile != "" {
			return nil, errors.New("both a transport and files of certificates are given")
		}
		return o.Transport, nil
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if err := o.certificate(t.TLSClientConfig); err != nil {
		return nil, err
	}
	if o.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading CA file: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading CA file: %s holds no PEM certificate", o.CAFile)
	}
	return t, nil
}

// certificate has cfg show the caller's certificate, as it is in its files when a
// connection is made: what renews it needs to tell nobody.
func (o Options) certificate(cfg *tls.Config) error {
	if o.CertFile == "" && o.KeyFile == "" {
		return nil
	}
	if o.CertFile == "" || o.KeyFile == "" {
		return errors.New("a client certificate and its key are given together")
	}
	load := func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate: %w", err)
		}
		return &cert, nil
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	_, err := load()
	return err
}

// Close closes the connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call is one request: the segments of its path below the root, each escaped as
// a whole, so that the slashes in a secret's name do not split it.
type call struct {
	method string
	path   []string
	query  url.Values
	body   any // nil: none
	header http.Header
}

func api(method string, path ...string) call {
	return call{method: method, path: append([]string{"api", "v1"}, path...)}
}

func (k call) with(query url.Values) call { k.query = query; return k }
func (k call) send(body any) call         { k.body = body; return k }

func (c *Client) request(ctx context.Context, k call) (*http.Request, error) {
	target := c.base
	for _, s := range k.path {
		if s == "" || s == "." || s == ".." {
			return nil, fmt.Errorf("%q is neither a name nor an id", s)
		}
		target += "/" + url.PathEscape(s)
	}
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	var body io.Reader
	if k.body != nil {
		b, err := json.Marshal(k.body)
		if err != nil {
			return nil, fmt.Errorf("encoding request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("making request: %w", err)
	}
	for name, values := range k.header {
		req.Header[name] = values
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", c.userAgent)
	c.authorize(req.Header)
	return req, nil
}

// open sends k and returns the answer, whose body the caller closes, if it is a
// success or 304; otherwise the error.
func (c *Client) open(ctx context.Context, k call) (*http.Response, error) {
	req, err := c.request(ctx, k)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("calling keybroker: %w", err)
	}
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotModified {
		defer resp.Body.Close()
		return nil, asProblem(resp)
	}
	return resp, nil
}

// do sends k and decodes the answer.
func do[T any](ctx context.Context, c *Client, k call) (T, error) {
	var answer T
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.open(ctx, k)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	return answer, decode(resp, &answer)
}

func decode(resp *http.Response, into any) error {
	// The decoder's own errors may quote what it read, which may be a secret.
	switch err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("reading the answer: %w", err)
	case err != nil:
		return errors.New("the server's answer is not what keybroker answers; is the address right?")
	}
	return nil
}

// All walks through the pages of a list, which fetch gets one by one.
func All[T any](fetch func(after string) (List[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for after := ""; ; {
			page, err := fetch(after)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.Next == "" || page.Next == after {
				return
			}
			after = page.Next
		}
	}
}
