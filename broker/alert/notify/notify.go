// Package notify has the ways to tell people of alerts: webhook, slack, pagerduty, email and log.
package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

const timeout = 15 * time.Second // of one request with its answer

// Slow is an answer that asks not to be called again for a while.
type Slow struct {
	error
	After time.Duration
}

// RetryAfter is how long; see alert.Notifier.
func (s Slow) RetryAfter() time.Duration { return s.After }

// Unwrap gives the class.
func (s Slow) Unwrap() error { return s.error }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...)
}

// checkURL says what is wrong with an attribute that holds a URL; never the URL
// itself, which may be secret.
func checkURL(attribute, text string, plain bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return invalid("%s cannot be parsed: write the whole URL", attribute)
	case u.Scheme != "https" && (u.Scheme != "http" || !plain):
		if plain {
			return invalid("%s must begin with https:// or http://", attribute)
		}
		return invalid("%s must begin with https://: what is sent there is a secret", attribute)
	case u.Hostname() == "":
		return invalid("%s names no host", attribute)
	}
	return nil
}

// poster sends JSON to one service.
type poster struct {
	client *outbound.Client
	what   string // the service, for errors
}

func newPoster(what, caFile string, allowPrivate bool) (*poster, error) {
	client, err := outbound.New(outbound.Options{Timeout: timeout, CAFile: caFile, AllowPrivate: allowPrivate})
	if err != nil {
		return nil, err
	}
	return &poster{client, what}, nil
}

// Close closes the connections kept.
func (p *poster) Close() { p.client.Close() }

// post sends one document. Whatever the answer says is not repeated: it may quote
// what was sent.
func (p *poster) post(ctx context.Context, to string, document any) error {
	body, err := json.Marshal(document)
	if err != nil {
		return invalid("what is to be told cannot be encoded as JSON")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil { // the error quotes the URL
		return invalid("the url of %s makes no request", p.what)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("telling %s: %w", p.what, err)
	}
	return p.judge(resp)
}

func (p *poster) judge(resp outbound.Response) error {
	if resp.Status >= 200 && resp.Status <= 299 {
		return nil
	}
	class := backends.ErrUnavailable
	switch resp.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		class = backends.ErrDenied // the address or the credential is not, or no longer, good
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		class = backends.ErrInvalid
	}
	err := fmt.Errorf("%w: telling %s: it answered %d", class, p.what, resp.Status)
	if after, bad := strconv.Atoi(resp.Header.Get("Retry-After")); bad == nil && after > 0 {
		return Slow{err, time.Duration(min(after, 24*3600)) * time.Second}
	}
	return err
}

// joined joins mistakes, of which some are nil.
func joined(all ...error) error { return errors.Join(all...) }

// short cuts a text to a number of bytes.
func short(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n-len("…")], "") + "…"
}
