package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// collectAgain is how long what was handed out is not handed out again.
const collectAgain = 30 * time.Second

// collectTakes is how long an answer that hands something out is on its way at most: so
// long nothing else of the same secret is handed out, which would overtake it.
const collectTakes = 5 * time.Second

// Collected is a message that was handed out.
type Collected struct {
	Delivery rotation.Delivery
	Envelope
}

// Collector is who collects, for one consumer or one instance of it.
type Collector struct {
	Instance string // as it calls itself when it acknowledges; empty: it is the only one
	// May tells whether a message may be given to who collects.
	May   func(context.Context, rotation.Delivery) (bool, error)
	Asked Asked
}

// Collect hands out what waits for a consumer that collects its messages, the oldest
// first, at most limit of them and one of each secret: what comes after it waits until it
// is acknowledged, or has arrived for sure. What is not acknowledged within 30 s is handed out again, and what not
// all instances of the consumer have acknowledged, to the others. What it may not have is
// left alone, and holds nothing else up; nor does what cannot be handed out now, which is
// the error where nothing else is there. ErrConflict if the consumer does not collect,
// ErrUnavailable while everything is held.
func (e *Engine) Collect(ctx context.Context, consumer string, limit int, by Collector) ([]Collected, error) {
	c, err := e.consumer(consumer)
	if err != nil {
		return nil, err
	}
	if !c.Terms().Inbox {
		return nil, fmt.Errorf("%w: consumer %q has a webhook: nothing waits in its inbox", backends.ErrConflict, consumer)
	}
	var out []Collected
	var failed error
	for last := (rotation.Delivery{}); ; {
		var waiting []rotation.Delivery
		err = e.Store.View(ctx, func(tx Tx) (err error) {
			waiting, err = tx.PendingTo(ctx, consumer, by.Instance, e.Now(), last, refillBy)
			return err
		})
		if err != nil {
			return out, err
		}
		for _, d := range waiting {
			got, err := e.collectIfMay(ctx, c, d, by)
			switch {
			case isConflict(err): // somebody else was at it
			case ctx.Err() != nil:
				return out, ctx.Err()
			case err != nil:
				e.Logger.Warn("a message cannot be handed out", "consumer", consumer, "delivery", d.ID, "error", err)
				failed = err
			case got != nil:
				out = append(out, *got)
			}
			if len(out) == limit {
				return out, nil
			}
			last = d
		}
		if len(waiting) < refillBy {
			break
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, failed
}

func (e *Engine) collectIfMay(ctx context.Context, c Deliverer, d rotation.Delivery, by Collector) (*Collected, error) {
	if ok, err := by.May(ctx, d); err != nil || !ok {
		return nil, err
	}
	return e.collect(ctx, c, d.ID, by)
}

// collect hands out one delivery, or nothing if there is nothing to hand out any more. It
// is handed out only once that is written down: an outcome that nobody hears of counts.
func (e *Engine) collect(ctx context.Context, c Deliverer, id string, by Collector) (*Collected, error) {
	if e.heldBack(ctx, deliveryJob{ID: id}) {
		return nil, nil
	}
	now := e.Now()
	var x *delivering
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		x, err = e.loadDelivery(ctx, tx, id, now.Add(collectAgain-collectTakes))
		return err
	})
	if err != nil {
		return nil, err
	}
	d := &x.Delivery
	switch {
	case d.State != rotation.DeliveryPending || now.Before(d.Lease) || x.busy || x.kept:
		return nil, nil
	case x.over(now):
		return nil, e.settleDelivery(ctx, x)
	}
	sent, err := e.valueFor(ctx, c, &x.Message)
	if err != nil {
		return nil, err
	}
	d.Attempts++
	d.Lease, d.NextAttemptAt = now.Add(collectAgain), zeroTime
	envelope, err := c.Compose(ctx, x.Message)
	if err != nil {
		return nil, err
	}
	before := *d
	err = e.Store.Update(ctx, func(tx Tx) error {
		*d = before
		if err := tx.SaveDelivery(ctx, d); err != nil {
			return err
		}
		return e.auditCollected(ctx, tx, *d, by, sent)
	})
	if err != nil {
		return nil, err
	}
	return &Collected{*d, envelope}, nil
}

// auditCollected lets the audit log tell who was given what: sent are the hashes of what
// it carried.
func (e *Engine) auditCollected(ctx context.Context, tx Tx, d rotation.Delivery, by Collector, sent map[string]string) error {
	ev := rotation.AuditEvent{At: e.Now(), Tenant: d.Ref.Tenant, Actor: by.Asked.By, Role: by.Asked.Role, Method: by.Asked.Method, Identity: by.Asked.Identity,
		Address: by.Asked.Address, Action: "delivery.collect", Path: consumerPath(d.Consumer), Outcome: "ok", Hashes: sent, Detail: map[string]string{
			"delivery": d.ID, "consumer": d.Consumer, "event": string(d.Event),
			"detail": fmt.Sprintf("%s collected %s (for the %s time)", d.Consumer, subjectOf(d), ordinal(d.Attempts))}}
	if by.Instance != "" {
		ev.Detail["instance"] = by.Instance
	}
	if d.SecretID != "" {
		ev.Path, ev.Secret, ev.Version = d.Ref.Name, d.Ref.String(), d.Version
		ev.Detail["version"], ev.Detail["generation"] = fmt.Sprint(d.Version), fmt.Sprint(d.Generation)
	}
	return tx.AddAudit(ctx, ev)
}

func ordinal(n int) string {
	if n == 1 {
		return "first"
	}
	return fmt.Sprintf("%d.", n)
}
