package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Outcome is what came of one attempt.
type Outcome struct {
	Status     int           // of the answer; 0: there was none
	Received   bool          // any 2xx
	Claim      *Claim        // what the consumer says of the delivery; nil: nothing
	Gone       bool          // 410: it wants no more deliveries
	RetryAfter time.Duration // what it asked for, at most MaxRetryAfter; 0: nothing
	Address    string        // "ip:port" that was reached; empty: none
	// Err is nil if and only if Received. Its class is ErrInvalid where another
	// attempt must fail likewise, ErrDenied for a forbidden destination, else
	// ErrUnavailable. It shows neither body nor path nor query nor userinfo.
	Err error
}

// Down tells whether the endpoint seems to be in trouble, and not only with this
// delivery: it did not answer, or with 429 or 5xx. An attempt that the broker itself
// broke off says nothing of it.
func (o Outcome) Down() bool {
	if o.Status == 0 {
		return !errors.Is(o.Err, backends.ErrInvalid) && !errors.Is(o.Err, context.Canceled)
	}
	return o.Status == http.StatusTooManyRequests || o.Status >= 500
}

// Claim is the acknowledgement in an answer's body, which nobody has checked yet:
// {"status":"applied","generation":9,"instance":"web-1","fingerprint":"…"}.
type Claim struct {
	Applied     bool   // status "applied", else "received"
	Generation  int64  // 0: it did not say
	Instance    string // empty: it did not say
	Fingerprint string // as rotation.Fingerprint
}

// outcome judges an answer, of which the body may be missing: a consumer that answered
// 2xx has the message, even where the rest of its answer got lost or is too long.
func (s *Sender) outcome(resp outbound.Response) Outcome {
	o := Outcome{Status: resp.Status, Address: resp.Address, Received: resp.Status >= 200 && resp.Status <= 299}
	if o.Received {
		o.Claim = claimed(resp.Body)
		return o
	}
	o.Gone = resp.Status == http.StatusGone
	o.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), s.now())
	what := ""
	if resp.Status >= 300 && resp.Status <= 399 {
		what = "; redirects are not followed"
	}
	o.Err = fmt.Errorf("%w: delivering to %s: it answered %d%s", backends.ErrUnavailable, shown(s.url), resp.Status, what)
	return o
}

// claimed reads an acknowledgement; nil: it is none. What in it is of a wrong type, or
// no name that can be shown, counts as left out: whoever checks the claim says what is
// missing.
func claimed(body []byte) *Claim {
	var a struct {
		Status      string `json:"status"`
		Generation  int64  `json:"generation"`
		Instance    string `json:"instance"`
		Fingerprint string `json:"fingerprint"`
	}
	var mistyped *json.UnmarshalTypeError
	if err := json.Unmarshal(body, &a); err != nil && !errors.As(err, &mistyped) {
		return nil
	}
	if a.Status != "applied" && a.Status != "received" {
		return nil
	}
	if !rotation.ValidInstance(a.Instance) {
		a.Instance = ""
	}
	return &Claim{Applied: a.Status == "applied", Generation: a.Generation, Instance: a.Instance, Fingerprint: a.Fingerprint}
}

// retryAfter reads the header's two forms (RFC 9110, 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		wait = time.Duration(min(max(seconds, 0), int64(MaxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), MaxRetryAfter)
}
