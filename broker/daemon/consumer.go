package daemon

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// consumer tells one consumer what the engine has for it: by its webhook, or by the inbox
// that it collects from.
type consumer struct {
	config     *config.Consumer
	endpoint   string              // keyed digest of its URL
	sender     *webhook.Sender     // nil: an inbox
	recipients *webhook.Recipients // of a sealed payload
	secrets    *webhook.Signer     // the operator's; nil: the broker has its own keys
	signing    *signing
	source     string // of the events: this broker
	now        func() time.Time
}

// Close ends the connections to the webhook.
func (c *consumer) Close() {
	if c.sender != nil {
		c.sender.Close()
	}
}

// Terms implements engine.Deliverer.
func (c *consumer) Terms() engine.Terms {
	return engine.Terms{Tenant: c.config.Tenant, Events: c.config.Events, Instances: c.config.Instances, Concurrency: c.config.Concurrency,
		NeedsValue: c.config.Payload.CarriesValue(), Inbox: c.config.Inbox, Endpoint: c.endpoint}
}

// Deliver implements engine.Deliverer: it makes one signed attempt.
func (c *consumer) Deliver(ctx context.Context, m engine.Message) engine.Outcome {
	body, err := c.message(m).Body()
	if err != nil {
		return unsent(m, err)
	}
	signer, err := c.signer(ctx)
	if err != nil {
		return unsent(m, err)
	}
	out := c.sender.Send(ctx, m.Delivery.ID, body, signer)
	res := engine.Outcome{Received: out.Received, Gone: out.Gone, Down: out.Down(), Next: nextAttempt(m, out)}
	if out.Claim != nil {
		claim := engine.Claim(*out.Claim)
		res.Claim = &claim
	}
	if out.Err != nil {
		res.Detail = out.Err.Error()
	}
	return res
}

// nextAttempt is how long to wait before the next attempt; negative: there is none.
func nextAttempt(m engine.Message, out webhook.Outcome) time.Duration {
	next, more := out.Next(m.Delivery.Attempts, m.Age, rand.Float64)
	if !more {
		return -1
	}
	return next
}

// unsent is that a message could not be made: it is tried again like one that failed.
func unsent(m engine.Message, err error) engine.Outcome {
	return engine.Outcome{Unsent: true, Next: nextAttempt(m, webhook.Outcome{Err: err}), Detail: err.Error()}
}

// Compose implements engine.Deliverer.
func (c *consumer) Compose(ctx context.Context, m engine.Message) (engine.Envelope, error) {
	body, err := c.message(m).Body()
	if err != nil {
		return engine.Envelope{}, err
	}
	signer, err := c.signer(ctx)
	if err != nil {
		return engine.Envelope{}, err
	}
	header := signer.Sign(m.Delivery.ID, c.now(), body)
	header.Set("Content-Type", webhook.ContentType)
	return engine.Envelope{Header: header, Body: body}, nil
}

// message is what the consumer is told, as its payload says.
func (c *consumer) message(m engine.Message) webhook.Message {
	d := m.Delivery
	msg := webhook.Message{ID: d.ID, Source: c.source, Event: d.Event, Audience: c.config.Name, Ref: d.Ref, Version: d.Version, Generation: d.Generation,
		Trigger: string(d.Trigger), Reason: d.Reason, Time: d.CreatedAt, PublishedAt: m.Published.PublishedAt, DueAt: d.DueAt,
		Payload: c.config.Payload, Value: m.Value, Recipients: c.recipients}
	if m.Previous != nil && !m.Previous.OverlapUntil.IsZero() {
		msg.Previous = &webhook.Previous{Version: m.Previous.Number, Until: m.Previous.OverlapUntil}
	}
	return msg
}

// signer is what signs at this moment.
func (c *consumer) signer(ctx context.Context) (*webhook.Signer, error) {
	if c.secrets != nil {
		return c.secrets, nil
	}
	return c.signing.signer(ctx, store.Consumer{Tenant: c.config.Tenant, Name: c.config.Name})
}
