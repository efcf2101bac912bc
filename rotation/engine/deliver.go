package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Message is what a consumer is told: the delivery, the version that it is
// about, and the one that was replaced, for as long as that is still valid.
type Message struct {
	Delivery  rotation.Delivery
	Value     backends.Value // zero unless the consumer's payload carries it
	Published rotation.Version
	Previous  *rotation.Version
}

// Outcome is what came of one attempt.
type Outcome struct {
	Received bool          // the consumer answered 2xx
	Applied  bool          // and said that it uses the new version
	Gone     bool          // it wants no more deliveries
	Next     time.Duration // wait before the next attempt; negative: there is none
	Detail   string        // for people: "status 503"; never a secret
}

// Deliverer sends messages to one consumer.
type Deliverer interface {
	// Deliver makes one attempt (the attempt's number is m.Delivery.Attempts) and
	// blocks until it is answered or ctx ends. What went wrong is in the outcome.
	Deliver(ctx context.Context, m Message) Outcome
	// NeedsValue tells whether the message carries the value itself.
	NeedsValue() bool
}

const deliveryLease = 60 * time.Second

// stepDelivery makes one attempt at a delivery whose time has come.
func (e *Engine) stepDelivery(ctx context.Context, id string) (stepResult, error) {
	now := e.Now()
	var m Message
	var busy, revoking, outdated bool
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		if m.Delivery, err = tx.Delivery(ctx, id); err != nil || m.Delivery.State != rotation.DeliveryPending {
			return err
		}
		if m.Published, err = tx.Version(ctx, m.Delivery.SecretID, m.Delivery.Version); err != nil {
			return err
		}
		if outdated, err = newerToldOf(ctx, tx, m.Delivery); err != nil {
			return err
		}
		m.Previous, err = previousOf(ctx, tx, m.Delivery)
		if err != nil {
			return err
		}
		t, err := tx.RetirementOf(ctx, m.Delivery.SecretID, m.Delivery.Version)
		if err != nil && !notFound(err) {
			return err
		}
		revoking = err == nil && !t.RevokeBegunAt.IsZero()
		busy, err = tx.InFlight(ctx, m.Delivery, now)
		return err
	})
	if err != nil {
		return stepResult{}, fmt.Errorf("reading delivery %s: %w", id, err)
	}
	d := &m.Delivery
	job := deliveryJob{id}
	if d.State == rotation.DeliveryPending && revoking && !now.Before(d.Lease) {
		out := Outcome{Gone: true, Detail: fmt.Sprintf("version %d is being revoked: it is given to nobody any more", d.Version)}
		return stepResult{}, e.delivered(ctx, m, out, nil)
	}
	if d.State == rotation.DeliveryPending && outdated && !now.Before(d.Lease) {
		d.State, d.NextAttemptAt = rotation.DeliverySuperseded, time.Time{}
		return stepResult{}, e.saveDelivery(ctx, d)
	}
	switch {
	case d.State != rotation.DeliveryPending:
		return stepResult{}, nil
	case now.Before(d.NextAttemptAt):
		return stepResult{until: d.NextAttemptAt, job: job}, nil
	case now.Before(d.Lease):
		return stepResult{until: d.Lease, job: job}, nil
	case busy: // an older generation is on its way: never let it arrive after this one
		return stepResult{until: now.Add(time.Second), job: job}, nil
	}
	d.Attempts++
	d.Lease = now.Add(deliveryLease)
	if err := e.saveDelivery(ctx, d); err != nil {
		return stepResult{}, err
	}
	out, sent := e.attempt(ctx, m)
	if ctx.Err() != nil {
		return stepResult{}, ctx.Err()
	}
	return stepResult{again: true}, e.delivered(ctx, m, out, sent)
}

// newerToldOf tells whether the consumer has a delivery of the newest generation,
// which is another one.
func newerToldOf(ctx context.Context, tx Tx, d rotation.Delivery) (bool, error) {
	s, err := tx.Secret(ctx, d.SecretID)
	if err != nil || d.Generation >= s.Generation {
		return false, err
	}
	newest, err := tx.Deliveries(ctx, s.ID, s.Generation)
	return slices.ContainsFunc(newest, func(o rotation.Delivery) bool { return o.Consumer == d.Consumer }), err
}

// previousOf finds the version that is in its overlap beside the delivered one.
func previousOf(ctx context.Context, tx Tx, d rotation.Delivery) (*rotation.Version, error) {
	versions, err := tx.Versions(ctx, d.SecretID)
	if err != nil {
		return nil, err
	}
	for i := range versions {
		if versions[i].Stage == rotation.StagePrevious && versions[i].Number != d.Version {
			return &versions[i], nil
		}
	}
	return nil, nil
}

func (e *Engine) saveDelivery(ctx context.Context, d *rotation.Delivery) error {
	before := *d
	return e.Store.Update(ctx, func(tx Tx) error {
		*d = before
		return tx.SaveDelivery(ctx, d)
	})
}

// later puts a delivery off that could not even be attempted, and gives it up
// in the end, after about a day.
func later(d rotation.Delivery, err error) Outcome {
	const most = 36
	out := Outcome{Next: rotation.Backoff(d.Attempts, time.Hour), Detail: err.Error()}
	if d.Attempts >= most {
		out.Next = -1
	}
	return out
}

// attempt delivers once, and returns the hashes of what was sent of a value, whether
// or not it arrived.
func (e *Engine) attempt(ctx context.Context, m Message) (out Outcome, sent map[string]string) {
	c, err := e.consumer(m.Delivery.Consumer)
	if err != nil {
		return later(m.Delivery, err), nil
	}
	if c.NeedsValue() {
		if m.Value, err = e.Open(ctx, m.Published); err != nil {
			return later(m.Delivery, err), nil
		}
		sent = e.hashes(m.Value)
	}
	if e.Now().Add(deliveryLease / 2).After(m.Delivery.Lease) { // somebody else may be at it by now, or at a newer one
		return Outcome{Next: time.Second, Detail: "the attempt was held up for too long to be made"}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, deliveryLease/2)
	defer cancel()
	return c.Deliver(ctx, m), sent
}

// delivered commits the outcome of an attempt.
func (e *Engine) delivered(ctx context.Context, m Message, out Outcome, sent map[string]string) error {
	err := e.keep(ctx, func(ctx context.Context, tx Tx) error {
		d, err := tx.Delivery(ctx, m.Delivery.ID) // a newer generation may have superseded it meanwhile
		if err != nil {
			return err
		}
		now := e.Now()
		d.Lease = time.Time{}
		applyOutcome(&d, out, now)
		if err := tx.SaveDelivery(ctx, &d); err != nil {
			return err
		}
		return e.reportDelivery(ctx, tx, d, m.Published.RotationID, out, sent, now)
	})
	if err == nil && e.Observer != nil {
		e.Observer.DeliveryAttempted(outcomeName(out))
	}
	return err
}

func applyOutcome(d *rotation.Delivery, out Outcome, now time.Time) {
	d.Error = ""
	if !out.Received {
		d.Error = out.Detail
	}
	switch {
	case out.Received:
		d.ReceivedAt = now
		if d.State == rotation.DeliveryPending {
			d.State = rotation.DeliveryReceived
		}
		if out.Applied {
			d.AppliedAt = now
			if d.State == rotation.DeliveryReceived {
				d.State = rotation.DeliveryApplied
			}
		}
	case d.State != rotation.DeliveryPending:
	case out.Gone || out.Next < 0:
		d.State = rotation.DeliveryDead
	default:
		d.NextAttemptAt = now.Add(out.Next)
	}
}

func outcomeName(out Outcome) string {
	switch {
	case out.Applied:
		return "applied"
	case out.Received:
		return "received"
	}
	return "failed"
}

func (e *Engine) reportDelivery(ctx context.Context, tx Tx, d rotation.Delivery, rotationID string, out Outcome, sent map[string]string, now time.Time) error {
	outcome, detail := "ok", fmt.Sprintf("%s received version %d (attempt %d)", d.Consumer, d.Version, d.Attempts)
	switch {
	case out.Received:
	case d.State == rotation.DeliveryDead:
		outcome, detail = "failed", fmt.Sprintf("%s: given up after %d attempts: %s", d.Consumer, d.Attempts, out.Detail)
		e.Logger.Error("a delivery was given up", "consumer", d.Consumer, "secret", d.Ref, "delivery", d.ID, "error", out.Detail)
	default:
		outcome, detail = "retry", fmt.Sprintf("%s: %s", d.Consumer, out.Detail)
	}
	if outcome != "retry" || d.Attempts == 1 {
		if err := tx.EndStep(ctx, rotationID, "push", outcome, detail, now); err != nil {
			return err
		}
	}
	came := outcome
	if outcome == "retry" {
		came = "failed"
	}
	err := e.auditValue(ctx, tx, d.Ref, "delivery.attempt", came, map[string]string{"delivery": d.ID, "consumer": d.Consumer,
		"version": fmt.Sprint(d.Version), "generation": fmt.Sprint(d.Generation), "detail": detail}, sent)
	if err != nil || !out.Received {
		return err
	}
	if out.Applied {
		return e.acknowledged(ctx, tx, d, rotationID, now)
	}
	return wakeHeld(ctx, tx, rotationID, now)
}

// acknowledged adds an acknowledgement to the timeline.
func (e *Engine) acknowledged(ctx context.Context, tx Tx, d rotation.Delivery, rotationID string, now time.Time) error {
	if err := e.endStep(ctx, tx, d.Ref, rotationID, "acknowledge", "ok", fmt.Sprintf("%s uses version %d", d.Consumer, d.Version), now); err != nil {
		return err
	}
	return wakeHeld(ctx, tx, rotationID, now)
}

// wakeHeld lets an overlap that is held by consumers look again.
func wakeHeld(ctx context.Context, tx Tx, rotationID string, now time.Time) error {
	r, err := tx.Rotation(ctx, rotationID)
	if err != nil || r.State != rotation.Overlap || r.WaitingFor != rotation.WaitAcknowledgment {
		return err
	}
	r.NextAt = now
	if err := tx.SaveRotation(ctx, &r); err != nil && !isConflict(err) {
		return err // whoever is at the row is woken below
	}
	return tx.Enqueue(ctx, wakeUp(rotationJob{rotationID}, zeroTime, false))
}

// Acknowledge records inside tx that a consumer uses the delivered generation.
// ErrConflict if the delivery is of another one.
func (e *Engine) Acknowledge(ctx context.Context, tx Tx, id string, generation int64) (rotation.Delivery, error) {
	d, err := tx.Delivery(ctx, id)
	if err != nil {
		return d, err
	}
	if d.Generation != generation {
		return d, fmt.Errorf("%w: delivery %s is of generation %d, not %d", backends.ErrConflict, id, d.Generation, generation)
	}
	if !d.AppliedAt.IsZero() {
		return d, nil
	}
	now := e.Now()
	d.AppliedAt = now
	if d.ReceivedAt.IsZero() {
		d.ReceivedAt = now
	}
	if d.State != rotation.DeliverySuperseded {
		d.State = rotation.DeliveryApplied
	}
	if err := tx.SaveDelivery(ctx, &d); err != nil {
		return d, err
	}
	v, err := tx.Version(ctx, d.SecretID, d.Version)
	if err != nil {
		return d, err
	}
	return d, e.acknowledged(ctx, tx, d, v.RotationID, now)
}

func isConflict(err error) bool { return errors.Is(err, backends.ErrConflict) }
