package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Limits of one attempt.
const (
	Timeout       = 15 * time.Second // until the answer has been read
	MaxAnswer     = 64 << 10         // bytes of a body that are looked at; a longer one says nothing
	MaxRetryAfter = 24 * time.Hour   // no consumer can put its deliveries off for longer
)

// Client sends one request and reads the answer, under its own guard against
// forbidden destinations; outbound.Client is one. It follows no redirects and its
// errors show nothing of the request.
type Client interface {
	Do(req *http.Request) (outbound.Response, error)
}

// Sender makes attempts at deliveries. Safe for concurrent use; it retries
// nothing itself.
type Sender struct {
	public, private Client
	now             func() time.Time
}

// NewSender returns a Sender which uses private for endpoints with AllowPrivate
// and public for all others.
func NewSender(public, private Client, now func() time.Time) *Sender {
	return &Sender{public: public, private: private, now: now}
}

// Outcome is what came of one attempt.
type Outcome struct {
	Status     int           // of the answer; 0: there was none
	Received   bool          // any 2xx
	Applied    bool          // the consumer says that it uses the new version
	Gone       bool          // 410: it wants no more deliveries
	RetryAfter time.Duration // what it asked for, at most MaxRetryAfter; 0: nothing
	Address    string        // "ip:port" that was reached; empty: none
	// Err is nil if and only if Received. Its class is ErrInvalid where another
	// attempt must fail likewise, ErrDenied for a forbidden destination, else
	// ErrUnavailable. It shows neither body nor path nor query nor userinfo.
	Err error
}

// answer is the body by which a consumer acknowledges.
type answer struct {
	Status string `json:"status"`
}

// Send makes one attempt at delivering body under id. It blocks for at most
// Timeout. When the context ends, Err wraps the context's error and the consumer
// may have received the delivery all the same.
func (s *Sender) Send(ctx context.Context, e Endpoint, id string, body []byte, signer *Signer) Outcome {
	u, err := e.parse()
	if err == nil {
		err = checkID(id)
	}
	if err != nil {
		return Outcome{Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	client := s.public
	if e.AllowPrivate {
		client = s.private
	}
	request, err := s.request(ctx, u, id, body, signer)
	if err != nil {
		return Outcome{Err: err}
	}
	resp, err := client.Do(request)
	if err != nil {
		return Outcome{Address: resp.Address, Err: fmt.Errorf("delivering to %s: %w", shown(u), err)}
	}
	return s.outcome(u, resp)
}

func (s *Sender) request(ctx context.Context, u *url.URL, id string, body []byte, signer *Signer) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil { // the error may quote the URL
		return nil, fmt.Errorf("%w: the webhook's url makes no request", backends.ErrInvalid)
	}
	r.Header = signer.Sign(id, s.now(), body)
	r.Header.Set("Content-Type", ContentType)
	if u.User != nil {
		password, _ := u.User.Password()
		r.SetBasicAuth(u.User.Username(), password)
	}
	return r, nil
}

func (s *Sender) outcome(u *url.URL, resp outbound.Response) Outcome {
	o := Outcome{Status: resp.Status, Address: resp.Address, Received: resp.Status >= 200 && resp.Status <= 299}
	if o.Received {
		var a answer
		if len(resp.Body) <= MaxAnswer && json.Unmarshal(resp.Body, &a) == nil {
			o.Applied = a.Status == "applied"
		}
		return o
	}
	o.Gone = resp.Status == http.StatusGone
	o.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), s.now())
	what := ""
	if resp.Status >= 300 && resp.Status <= 399 {
		what = "; redirects are not followed"
	}
	o.Err = fmt.Errorf("%w: delivering to %s: it answered %d%s", backends.ErrUnavailable, shown(u), resp.Status, what)
	return o
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
