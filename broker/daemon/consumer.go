package daemon

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// webhookConsumer delivers the engine's messages to one consumer's webhook.
type webhookConsumer struct {
	endpoint webhook.Endpoint
	signer   *webhook.Signer
	sender   *webhook.Sender
	source   string // of the events: this broker
}

// NeedsValue tells whether the payload is plain.
func (c *webhookConsumer) NeedsValue() bool { return c.endpoint.Payload == webhook.Plain }

// Deliver makes one signed attempt.
func (c *webhookConsumer) Deliver(ctx context.Context, m engine.Message) engine.Outcome {
	msg := webhook.Message{ID: m.Delivery.ID, Source: c.source, Ref: m.Delivery.Ref, Version: m.Delivery.Version,
		Generation: m.Delivery.Generation, Trigger: string(m.Delivery.Trigger), Reason: m.Delivery.Reason,
		PublishedAt: m.Published.PublishedAt, Payload: c.endpoint.Payload, Value: m.Value}
	if m.Previous != nil && !m.Previous.OverlapUntil.IsZero() {
		msg.Previous = &webhook.Previous{Version: m.Previous.Number, Until: m.Previous.OverlapUntil}
	}
	body, err := msg.Body()
	if err != nil {
		return engine.Outcome{Next: time.Minute, Detail: err.Error()}
	}
	out := c.sender.Send(ctx, c.endpoint, msg.ID, body, c.signer)
	next, more := out.Next(m.Delivery.Attempts, rand.Float64)
	if !more {
		next = -1
	}
	res := engine.Outcome{Received: out.Received, Applied: out.Applied, Gone: out.Gone, Next: next}
	if out.Err != nil {
		res.Detail = out.Err.Error()
	}
	return res
}
