package webhook

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Limits of one attempt.
const (
	Timeout       = 15 * time.Second // until the answer has been read
	MaxAnswer     = 64 << 10         // bytes of a body that are read; a longer one says nothing
	MaxRetryAfter = 24 * time.Hour   // no consumer can put its deliveries off for longer
)

// Sender makes attempts at deliveries to one endpoint, under outbound's guard against
// forbidden destinations. Safe for concurrent use; it retries nothing itself.
type Sender struct {
	url    *url.URL
	client *outbound.Client
	now    func() time.Time
}

// NewSender returns the Sender of an endpoint; ErrInvalid if that cannot be used, or its
// certificates cannot be read. Close it.
func NewSender(e Endpoint, now func() time.Time) (*Sender, error) {
	u, err := e.parse()
	if err == nil {
		err = e.TLS.check(u.Scheme)
	}
	if err != nil {
		return nil, err
	}
	client, err := e.client(u)
	if err != nil {
		return nil, err
	}
	return &Sender{url: u, client: client, now: now}, nil
}

// Close closes the connections kept.
func (s *Sender) Close() { s.client.Close() }

// Send makes one attempt at delivering body under id. It blocks for at most the
// endpoint's timeout. When the context ends, Err wraps the context's error and the
// consumer may have received the delivery all the same.
func (s *Sender) Send(ctx context.Context, id string, body []byte, signer *Signer) Outcome {
	if err := checkID(id); err != nil {
		return Outcome{Err: err}
	}
	request, err := s.request(ctx, id, body, signer)
	if err != nil {
		return Outcome{Err: err}
	}
	resp, err := s.client.Do(request)
	if resp.Status == 0 {
		return Outcome{Address: resp.Address, Err: fmt.Errorf("delivering to %s: %w", shown(s.url), err)}
	}
	return s.outcome(resp) // whatever became of the answer's body
}

func (s *Sender) request(ctx context.Context, id string, body []byte, signer *Signer) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url.String(), bytes.NewReader(body))
	if err != nil { // the error may quote the URL
		return nil, fmt.Errorf("%w: the webhook's url makes no request", backends.ErrInvalid)
	}
	r.Header = signer.Sign(id, s.now(), body)
	r.Header.Set("Content-Type", ContentType)
	// Tells net/http, and nobody else, that it may send the request again where a
	// connection kept was closed meanwhile: the id shows a repetition.
	r.Header["Idempotency-Key"] = nil
	if u := s.url.User; u != nil {
		password, _ := u.Password()
		r.SetBasicAuth(u.Username(), password)
	}
	return r, nil
}
