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

// Collected is a message that was handed out.
type Collected struct {
	Delivery rotation.Delivery
	Envelope
}

// Collect hands out what waits for a consumer that collects its messages, the oldest
// first, at most limit of them and one of each secret: what comes after it waits until it
// is acknowledged. What is not acknowledged within 30 s is handed out again. What may
// refuses is left alone, and holds nothing else up; nor does what cannot be handed out
// now, which is the error where nothing else is there. ErrConflict if the consumer does
// not collect, ErrUnavailable while everything is held.
func (e *Engine) Collect(ctx context.Context, consumer string, limit int, may func(context.Context, rotation.Delivery) (bool, error)) ([]Collected, error) {
	c, err := e.consumer(consumer)
	if err != nil {
		return nil, err
	}
	if !c.Terms().Inbox {
		return nil, fmt.Errorf("%w: consumer %q has a webhook: nothing waits in its inbox", backends.ErrConflict, consumer)
	}
	var waiting []rotation.Delivery
	err = e.Store.View(ctx, func(tx Tx) (err error) {
		waiting, err = tx.PendingTo(ctx, consumer, e.Now(), refillBy)
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []Collected
	var failed error
	for _, d := range waiting {
		if len(out) == limit {
			break
		}
		ok, err := may(ctx, d)
		var got *Collected
		if err == nil && ok {
			got, err = e.collect(ctx, c, d.ID)
		}
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
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, failed
}

// collect hands out one delivery, or nothing if there is nothing to hand out any more. It
// is handed out only once that is written down: an outcome that nobody hears of counts.
func (e *Engine) collect(ctx context.Context, c Deliverer, id string) (*Collected, error) {
	if e.heldBack(ctx, deliveryJob{ID: id}) {
		return nil, nil
	}
	now := e.Now()
	var x *delivering
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		x, err = e.loadDelivery(ctx, tx, id, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	d := &x.Delivery
	switch {
	case d.State != rotation.DeliveryPending || now.Before(d.Lease) || x.busy:
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
		return e.auditDelivery(ctx, tx, *d, "delivery.collect", "ok", fmt.Sprintf("%s collected %s (for the %s time)", d.Consumer, subjectOf(*d), ordinal(d.Attempts)), sent)
	})
	if err != nil {
		return nil, err
	}
	return &Collected{*d, envelope}, nil
}

func ordinal(n int) string {
	if n == 1 {
		return "first"
	}
	return fmt.Sprintf("%d.", n)
}
