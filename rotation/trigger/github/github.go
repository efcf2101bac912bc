// Package github receives what GitHub's secret scanning finds: as the webhook
// secret_scanning_alert of one's own organisation, and as the feed of the partner program,
// for those whose own tokens GitHub looks for.
package github

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// maxBody is how large GitHub's messages get, in bytes; its own limit is 25 MB, which those
// about secrets never come near.
const maxBody = 5 << 20

// Times for what is asked of GitHub while it waits for an answer: it gives a webhook up
// after 10 s.
const (
	timeout  = 8 * time.Second
	perTry   = 4 * time.Second
	tries    = 3
	firstGap = 200 * time.Millisecond
)

// Receiver is an inbound.Receiver. Close it when it is not needed any more.
type Receiver struct {
	secrets []backends.SecretString // of a webhook
	feed    *keyring                // of the partner feed; nil: it is a webhook
	client  *outbound.Client
	api     *url.URL
	token   backends.SecretString
	now     func() time.Time
}

var (
	_ inbound.Receiver = (*Receiver)(nil)
	_ inbound.Resolver = (*Receiver)(nil)
)

// New makes a receiver, which asks nobody yet; ErrInvalid where the configuration cannot be
// used.
func New(c Config, now func() time.Time) (*Receiver, error) {
	if err := c.Validate(false); err != nil {
		return nil, err
	}
	if c.APIURL == "" {
		c.APIURL = defaultAPI
	}
	r := &Receiver{secrets: inbound.Lines(c.WebhookSecret), token: c.Token, now: now}
	r.api, _ = endpoint(c.APIURL) // Validate has read it
	if c.Partner {
		at := r.api.JoinPath(pathOfKeys)
		if c.KeysURL != "" {
			at, _ = endpoint(c.KeysURL)
		}
		r.feed = newKeyring(at)
	}
	var err error
	r.client, err = outbound.New(outbound.Options{AllowPrivate: c.AllowPrivateNetwork, Timeout: perTry, CAFile: c.CAFile})
	return r, err
}

// Close ends what is kept open.
func (r *Receiver) Close() { r.client.Close() }

// MaxBody is how large a message may be.
func (r *Receiver) MaxBody() int64 { return maxBody }

// Receive implements inbound.Receiver. Of a webhook it asks GitHub for the credential: the
// message does not hold it. Where it is not given now, the event says what is missing: GitHub
// does not repeat a message by itself that it was not thanked for.
func (r *Receiver) Receive(ctx context.Context, header http.Header, body []byte) ([]inbound.Event, inbound.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if r.feed != nil {
		return r.matches(ctx, header, body)
	}
	return r.alert(ctx, header, body)
}
