package engine

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// judge tells whether a consumer that was told uses the version, or what is wrong with
// its saying so.
func (e *Engine) judge(ctx context.Context, m Message, c Claim) (applied bool, complaint string) {
	if !c.Applied || !m.Delivery.Event.MakesCurrent() {
		return false, ""
	}
	if err := e.checkClaim(ctx, m, c); err != nil {
		e.Logger.Warn("an acknowledgement does not count", "consumer", m.Delivery.Consumer, "delivery", m.Delivery.ID, "error", err)
		return false, err.Error()
	}
	return true, ""
}

// checkClaim refuses the claim of who says to use a version without having it:
// ErrInvalid if it is incomplete, ErrConflict if it is of something else.
func (e *Engine) checkClaim(ctx context.Context, m Message, c Claim) error {
	d := m.Delivery
	switch {
	case c.Generation != d.Generation:
		return fmt.Errorf("%w: delivery %s is of generation %d, not %d", backends.ErrConflict, d.ID, d.Generation, c.Generation)
	case c.Instance == "" && d.Instances > 1:
		return fmt.Errorf("%w: the consumer has %d instances: each says which one it is, in \"instance\"", backends.ErrInvalid, d.Instances)
	case c.Fingerprint == "":
		return fmt.Errorf(`%w: who says "applied" gives the fingerprint of the credential with it`, backends.ErrInvalid)
	}
	value := m.Value
	if value.IsZero() {
		var err error
		if value, err = e.Open(ctx, m.Published); errors.Is(err, backends.ErrNotFound) {
			return fmt.Errorf("%w: version %d of %s is not kept any more: it is not in use", backends.ErrConflict, d.Version, d.Ref)
		} else if err != nil {
			return err
		}
	}
	if !hmac.Equal([]byte(c.Fingerprint), []byte(rotation.Fingerprint(d.ID, value))) {
		return fmt.Errorf("%w: the fingerprint is not that of version %d for this delivery", backends.ErrConflict, d.Version)
	}
	return nil
}

// received records that an instance has the message, and in d that it does not wait any
// more: in an inbox once all instances have it.
func (e *Engine) received(ctx context.Context, tx Tx, d *rotation.Delivery, ack rotation.Ack) error {
	if d.ReceivedAt.IsZero() {
		d.ReceivedAt = ack.At
	}
	if terms, _ := e.terms(d.Consumer); terms.Inbox {
		d.Lease = zeroTime // nothing is on its way any more
		if d.State == rotation.DeliveryPending && d.Instances > 1 {
			if err := tx.AddAck(ctx, ack); err != nil {
				return err
			}
			acks, err := tx.Acks(ctx, d.ID)
			if err != nil || len(acks) < d.Instances {
				return err
			}
		}
	}
	if d.State == rotation.DeliveryPending || d.State == rotation.DeliveryDead {
		d.State, d.NextAttemptAt = rotation.DeliveryReceived, zeroTime
	}
	return nil
}

// applied records that an instance uses the version, and in d when all of them do. What is
// said after that is not kept: there may be no end to it.
func (e *Engine) applied(ctx context.Context, tx Tx, d *rotation.Delivery, ack rotation.Ack) error {
	if !d.AppliedAt.IsZero() {
		return nil
	}
	if err := tx.AddAck(ctx, ack); err != nil {
		return err
	}
	if d.Instances > 1 {
		acks, err := tx.Acks(ctx, d.ID)
		acks = slices.DeleteFunc(acks, func(a rotation.Ack) bool { return !a.Applied })
		if err != nil || len(acks) < d.Instances {
			return err
		}
	}
	d.AppliedAt = ack.At
	if d.State != rotation.DeliverySuperseded {
		d.State, d.NextAttemptAt = rotation.DeliveryApplied, zeroTime
	}
	return nil
}

// Acknowledge records what a consumer says of a delivery. ErrInvalid if it does not say
// enough, ErrConflict if it is of another generation, or of a credential that it has not,
// ErrDenied if it is in quarantine.
func (e *Engine) Acknowledge(ctx context.Context, id string, c Claim, asked Asked) (rotation.Delivery, error) {
	var m Message
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		if m.Delivery, err = tx.Delivery(ctx, id); err != nil || m.Delivery.Version == 0 {
			return err
		}
		m.Published, err = tx.Version(ctx, m.Delivery.SecretID, m.Delivery.Version)
		return err
	})
	if err != nil {
		return rotation.Delivery{}, err
	}
	counts := c.Applied && m.Delivery.Event.MakesCurrent()
	if counts {
		if err := e.checkClaim(ctx, m, c); err != nil {
			return m.Delivery, err
		}
	} else if c.Generation != m.Delivery.Generation {
		return m.Delivery, fmt.Errorf("%w: delivery %s is of generation %d, not %d", backends.ErrConflict, id, m.Delivery.Generation, c.Generation)
	}
	for n := 1; ; n++ {
		d, err := e.acknowledge(ctx, m, c, counts, asked)
		if !isConflict(err) || n == ackTries { // somebody else has moved the row: the attempt itself, or another instance
			return d, err
		}
	}
}

// ackTries is how often an acknowledgement is repeated that always meets others.
const ackTries = 20

// acknowledge commits what a consumer says; ErrConflict if the row has moved meanwhile.
func (e *Engine) acknowledge(ctx context.Context, m Message, c Claim, counts bool, asked Asked) (d rotation.Delivery, err error) {
	id := m.Delivery.ID
	err = e.Store.Update(ctx, func(tx Tx) error {
		now := e.Now()
		if d, err = tx.Delivery(ctx, id); err != nil {
			return err
		}
		state, err := tx.ConsumerState(ctx, d.Consumer)
		if err != nil {
			return err
		}
		if !state.QuarantinedAt.IsZero() {
			return fmt.Errorf("%w: %s", backends.ErrDenied, quarantined(state))
		}
		before := d
		d.Error = ""
		ack := rotation.Ack{DeliveryID: id, Instance: c.Instance, Applied: counts, At: now, By: asked.By}
		if err := e.received(ctx, tx, &d, ack); err != nil {
			return err
		}
		if counts {
			if err := e.applied(ctx, tx, &d, ack); err != nil {
				return err
			}
		}
		if before == d && d.Instances <= 1 { // of several, those who come at once meet at the row
			return nil
		}
		if err := tx.SaveDelivery(ctx, &d); err != nil {
			return err
		}
		if m.Published.RotationID == "" || !d.Event.MakesCurrent() {
			return nil
		}
		if before.AppliedAt.IsZero() && !d.AppliedAt.IsZero() {
			return e.acknowledged(ctx, tx, d, m.Published.RotationID, now)
		}
		return wakeHeld(ctx, tx, m.Published.RotationID, now)
	})
	return d, err
}

// Fetched records inside tx that a consumer's role has read a version of a secret, if the
// consumer was told of it.
func (e *Engine) Fetched(ctx context.Context, tx Tx, secretID, consumer string, version int) error {
	d, err := tx.LastTold(ctx, secretID, consumer, version)
	if notFound(err) || err == nil && !d.FetchedAt.IsZero() {
		return nil
	}
	if err != nil {
		return err
	}
	d.FetchedAt = e.Now()
	if err := tx.SaveDelivery(ctx, &d); err != nil {
		return err
	}
	v, err := tx.Version(ctx, secretID, version)
	if err != nil || v.RotationID == "" {
		return err
	}
	if err := e.endStep(ctx, tx, d.Ref, v.RotationID, "fetch", "ok", fmt.Sprintf("%s fetched version %d", consumer, version), d.FetchedAt); err != nil {
		return err
	}
	return wakeHeld(ctx, tx, v.RotationID, d.FetchedAt)
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
	if held, err := tx.HeldBy(ctx, rotationID, rotation.WaitAcknowledgment); err != nil || !held {
		return err
	}
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
