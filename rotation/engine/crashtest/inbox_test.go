package crashtest_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// poller is a consumer without a listening port: it collects its messages, fetches
// what they refer to and acknowledges each, as often as the daemon lets it.
type poller struct {
	*application
	site *site
	stop context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex
	client *client.Client // with the token of its role; nil: it has none yet
}

func newPoller(s *site) *poller {
	p := &poller{application: newApplication(inboxConsumer), site: s}
	p.keys = func() ([]ed25519.PublicKey, error) { return s.publishedKeys(inboxConsumer) }
	p.open = p.fetch
	p.violation = s.violation
	return p
}

// start begins to poll, until end.
func (p *poller) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.done.Go(func() { p.run(ctx) })
}

func (p *poller) end() {
	p.stop()
	p.done.Wait()
}

// logIn gets the poller a token of its role, unless it has one.
func (p *poller) logIn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil {
		return
	}
	_ = p.site.ask(func(ctx context.Context) error { // the next start tries again
		token, err := p.site.client.CreateToken(ctx, client.CreateTokenRequest{Name: p.name, Role: p.name})
		if err == nil {
			p.client, err = p.site.caller(token.Token.Reveal())
		}
		return err
	})
}

func (p *poller) caller() *client.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.client
}

// run polls until the end. Between two polls that came to nothing it waits a little:
// the daemon is dead most of that time.
func (p *poller) run(ctx context.Context) {
	for ctx.Err() == nil {
		if c := p.caller(); c != nil && p.poll(ctx, c) == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *poller) poll(ctx context.Context, c *client.Client) error {
	items, err := c.Inbox(ctx, inboxConsumer, client.InboxQuery{Wait: time.Second})
	if err != nil {
		return err
	}
	for _, item := range items {
		said, err := p.take(item.Header(), []byte(item.Body.Reveal()), nil)
		if err == nil {
			_, err = c.Acknowledge(ctx, item.Delivery, client.AcknowledgeRequest{Status: said.Status, Generation: said.Generation, Instance: said.Instance, Fingerprint: said.Fingerprint})
		}
		if err != nil && !p.refused(err) {
			return err
		}
	}
	return nil
}

// refused: a newer generation has superseded the delivery.
func (p *poller) refused(err error) bool {
	var problem *client.Problem
	return errors.As(err, &problem) && problem.Status == http.StatusConflict
}

// fetch reads the version that a message refers to, if it is the current one.
func (p *poller) fetch(d data) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, err := p.caller().Value(ctx, d.Secret, 0)
	if err != nil {
		return nil, err
	}
	switch {
	case v.Generation < d.Generation:
		return nil, errUnusable
	case v.Generation > d.Generation:
		return nil, nil
	}
	return v.Fields, nil
}
