// Package sink sends the audit log to where the operator wants it: files, syslog,
// Splunk, Elasticsearch, anything that takes HTTP, and witnesses of its checkpoints.
package sink

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Config is the configuration of a sink: a struct with hcl tags.
type Config interface {
	// Validate returns every mistake, joined, each a text that begins with the name of
	// the attribute. It opens nothing.
	Validate() error
	// Open makes the sink of the node with that id. What it is sent to need not be up.
	Open(node string) (audit.Sink, error)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", backends.ErrInvalid, fmt.Sprintf(format, args...))
}

// checkURL finds mistakes in an HTTP address. Credentials have attributes of their own.
// Secret: it is sent some, which go unencrypted nowhere but to this host.
func checkURL(attribute, text string, secret bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return invalid(`%s is no address: write "https://HOST/…"`, attribute)
	case u.Scheme == "http" && !loopback(u.Hostname()) && secret:
		return invalid("%s sends credentials, and the log, unencrypted: write https://", attribute)
	case u.User != nil:
		return invalid("%s has a user or password in it: write them in attributes of their own, which are kept secret", attribute)
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func checkFormat(text string, known ...string) error {
	if text == "" {
		return nil
	}
	for _, k := range known {
		if text == k {
			return nil
		}
	}
	return invalid("format is %q: it is one of %s", text, strings.Join(known, ", "))
}

// client makes an HTTP client under the guard of all outbound traffic.
func client(caFile string, private bool, timeout time.Duration) (*outbound.Client, error) {
	return outbound.New(outbound.Options{CAFile: caFile, AllowPrivate: private, Timeout: timeout})
}

// post sends a body and returns the answer of a success.
func post(c *outbound.Client, req *http.Request) (outbound.Response, error) {
	answer, err := c.Do(req)
	if err != nil {
		return answer, err
	}
	if answer.Status/100 == 2 {
		return answer, nil
	}
	return answer, refused(answer.Status, answer.Header)
}

// refused is the error of a status. The body is not quoted: it may have what was sent.
func refused(status int, header http.Header) error {
	class := backends.ErrUnavailable
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		class = backends.ErrDenied
	case status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout:
		class = backends.ErrInvalid
	}
	err := fmt.Errorf("%w: the receiver of the audit log answered %d", class, status)
	if status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusUnprocessableEntity {
		return &audit.RefusedError{Err: err} // it is about what was sent, not about who sends or where to
	}
	if after := retryAfter(header); after > 0 {
		return &audit.RetryError{Err: err, After: after}
	}
	return err
}

// retryAfter reads the header of RFC 9110, section 10.2.3.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return time.Until(at)
	}
	return 0
}

// id names a line for whoever must not take it twice. What the line says is in it: nobody
// can have put another record in its place before, and neither has a journal of before.
func id(node string, ln audit.Line) string {
	if ln.Index < 0 { // the journal does not have it yet: it comes again, with an index
		return ""
	}
	sum := sha256.Sum256(ln.Raw)
	return fmt.Sprintf("%s-%d-%x", node, ln.Index, sum[:8])
}

func atMostOne(attributes map[string]bool) error {
	var set []string
	for name, is := range attributes {
		if is {
			set = append(set, name)
		}
	}
	if len(set) > 1 {
		return errors.Join(invalid("%s are given together: write one of them", strings.Join(set, " and ")))
	}
	return nil
}
