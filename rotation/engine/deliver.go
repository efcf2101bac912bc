package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

const (
	deliveryLease = 60 * time.Second
	// Uncollected is how long a delivery waits for somebody to collect it, or for its
	// consumer to be enabled, until it is given up: as long as others are tried.
	Uncollected = 76 * time.Hour
	// refillBy is how many due deliveries of one consumer are looked for at once.
	refillBy = 200
)

// pushNow wakes a delivery up.
func pushNow(d DueDelivery) river.InsertManyParams {
	w := wakeUp(deliveryJob(d), zeroTime, false)
	w.InsertOpts.Queue = QueuePush
	return w
}

// push makes attempts at a delivery, and then at those that wait in its consumer's lane,
// unless the lane has no room for it.
func (e *Engine) push(ctx context.Context, d DueDelivery) {
	if !e.lanes.enter(d, e.laneWidth(d.Consumer), e.Now()) {
		e.runs.came(deliveryJob{}.Kind()+d.ID, e.Now())
		return
	}
	e.pushBegun(ctx, d)
	if e.lanes.dry(d.Consumer) && ctx.Err() == nil {
		e.refill(ctx, d.Consumer)
	}
}

// pushBegun goes on from a delivery that has entered its lane, until nothing begins.
func (e *Engine) pushBegun(ctx context.Context, d DueDelivery) {
	var others sync.WaitGroup
	defer others.Wait()
	for {
		if ctx.Err() == nil && !e.heldBack(ctx, deliveryJob(d)) {
			e.work(ctx, deliveryJob{}.Kind(), d.ID, e.stepDelivery)
		}
		begun := e.lanes.next(d, e.laneWidth(d.Consumer), e.Now())
		if len(begun) == 0 {
			return
		}
		d = begun[0]
		for _, other := range begun[1:] {
			others.Go(func() { e.pushBegun(ctx, other) })
		}
	}
}

// refill wakes what else is due for a consumer.
func (e *Engine) refill(ctx context.Context, consumer string) {
	err := e.Store.Update(ctx, func(tx Tx) error {
		due, err := tx.DueTo(ctx, consumer, e.Now(), refillBy)
		if err != nil || len(due) == 0 {
			return err
		}
		jobs := make([]river.InsertManyParams, len(due))
		for i, d := range due {
			jobs[i] = pushNow(d)
		}
		if len(due) == refillBy {
			e.lanes.expectMore(consumer)
		}
		return tx.Enqueue(ctx, jobs...)
	})
	if err != nil && ctx.Err() == nil {
		e.Logger.Warn("looking for what else a consumer is to be told of failed; the sweep will do", "consumer", consumer, "error", err)
	}
}

func (e *Engine) laneWidth(consumer string) int {
	if terms, ok := e.terms(consumer); ok && terms.Concurrency > 0 {
		return terms.Concurrency
	}
	return laneWidth
}

// delivering is all that a step of a delivery looks at, read in one snapshot.
type delivering struct {
	Message
	terms    Terms
	why      error // there is no such consumer now
	disabled bool
	busy     bool   // another delivery of the same consumer and secret is on its way
	idle     string // why nobody needs to be told of it any more
	revoking bool   // its version is given to nobody any more
}

func (e *Engine) loadDelivery(ctx context.Context, tx Tx, id string, now time.Time) (x *delivering, err error) {
	x = &delivering{}
	d := &x.Delivery
	if *d, err = tx.Delivery(ctx, id); err != nil || d.State != rotation.DeliveryPending {
		return x, err
	}
	c, why := e.consumer(d.Consumer)
	if x.why = why; why == nil {
		x.terms = c.Terms()
		state, err := tx.ConsumerState(ctx, d.Consumer)
		if err != nil {
			return nil, err
		}
		x.disabled = disabled(state, x.terms)
	}
	if d.SecretID == "" {
		return x, nil
	}
	if d.Version > 0 {
		if x.Published, err = tx.Version(ctx, d.SecretID, d.Version); err != nil {
			return nil, err
		}
	}
	outdated, err := newerToldOf(ctx, tx, *d)
	if err != nil {
		return nil, err
	}
	if outdated {
		x.idle = "a newer generation is told of"
	}
	if x.busy, err = tx.InFlight(ctx, *d, now); err != nil || !d.Event.MakesCurrent() {
		return x, err
	}
	if x.Previous, err = previousOf(ctx, tx, *d); err != nil {
		return nil, err
	}
	t, err := tx.RetirementOf(ctx, d.SecretID, d.Version)
	if err != nil && !notFound(err) {
		return nil, err
	}
	x.revoking = err == nil && !t.RevokeBegunAt.IsZero()
	return x, nil
}

// stepDelivery makes one attempt at a delivery whose time has come.
func (e *Engine) stepDelivery(ctx context.Context, id string) (stepResult, error) {
	now := e.Now()
	var x *delivering
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		x, err = e.loadDelivery(ctx, tx, id, now)
		return err
	})
	if err != nil {
		return stepResult{}, fmt.Errorf("reading delivery %s: %w", id, err)
	}
	d := &x.Delivery
	job := deliveryJob{ID: d.ID, Consumer: d.Consumer, SecretID: d.SecretID}
	switch {
	case d.State != rotation.DeliveryPending:
		return stepResult{}, nil
	case now.Before(d.Lease):
		return stepResult{until: d.Lease, job: job}, nil
	case x.over(now):
		return stepResult{}, e.settleDelivery(ctx, x)
	case x.terms.Inbox || x.disabled:
		return stepResult{}, e.holdDelivery(ctx, x)
	case now.Before(d.NextAttemptAt):
		return stepResult{until: d.NextAttemptAt, job: job}, nil
	case e.lanes.shut(d.Consumer, now): // since this one entered its lane
		return stepResult{}, nil
	case x.busy: // an older generation is on its way, from another node: never let it arrive after this one
		return stepResult{until: now.Add(time.Second), job: job}, nil
	}
	d.Attempts++
	d.Lease = now.Add(deliveryLease)
	if err := e.saveDelivery(ctx, d); err != nil {
		return stepResult{}, err
	}
	out, sent := e.attempt(ctx, x.Message)
	if ctx.Err() != nil {
		return stepResult{}, ctx.Err()
	}
	return stepResult{again: true}, e.delivered(ctx, x.Message, out, sent)
}

// over tells whether a delivery ends without another attempt.
func (x *delivering) over(now time.Time) bool {
	late := x.Delivery.NextAttemptAt.IsZero() && !now.Before(x.Delivery.CreatedAt.Add(Uncollected))
	return x.revoking || x.idle != "" || late
}

// settleDelivery ends it.
func (e *Engine) settleDelivery(ctx context.Context, x *delivering) error {
	d := &x.Delivery
	switch {
	case x.revoking:
		return e.delivered(ctx, x.Message, Outcome{Next: -1, Detail: fmt.Sprintf("version %d is being revoked: it is given to nobody any more", d.Version)}, nil)
	case x.idle != "":
		d.State, d.NextAttemptAt = rotation.DeliverySuperseded, zeroTime
		return e.saveDelivery(ctx, d)
	case x.disabled:
		return e.delivered(ctx, x.Message, Outcome{Next: -1, Detail: fmt.Sprintf("the consumer is disabled for %s: `keybroker consumer enable %s`", Uncollected, d.Consumer)}, nil)
	}
	return e.delivered(ctx, x.Message, Outcome{Next: -1, Detail: fmt.Sprintf("nobody acknowledged it for %s", Uncollected)}, nil)
}

// holdDelivery lets it wait until it is collected, or its consumer is enabled.
func (e *Engine) holdDelivery(ctx context.Context, x *delivering) error {
	if x.Delivery.NextAttemptAt.IsZero() {
		return nil
	}
	x.Delivery.NextAttemptAt = zeroTime
	return e.saveDelivery(ctx, &x.Delivery)
}

// newerToldOf tells whether the consumer has a delivery of the newest generation,
// which is another one.
func newerToldOf(ctx context.Context, tx Tx, d rotation.Delivery) (bool, error) {
	s, err := tx.Secret(ctx, d.SecretID)
	if err != nil || d.Generation >= s.Generation {
		return false, err
	}
	last, err := tx.LastTold(ctx, d.SecretID, d.Consumer, 0)
	if notFound(err) {
		return false, nil
	}
	return last.Generation > d.Generation, err
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
	if sent, err = e.valueFor(ctx, c, &m); err != nil {
		return later(m.Delivery, err), nil
	}
	if e.Now().Add(deliveryLease / 2).After(m.Delivery.Lease) { // somebody else may be at it by now, or at a newer one
		return Outcome{Next: time.Second, Detail: "the attempt was held up for too long to be made"}, nil
	}
	dctx, cancel := context.WithTimeout(ctx, deliveryLease/2)
	defer cancel()
	out = c.Deliver(dctx, m)
	if ctx.Err() != nil {
		return out, sent
	}
	why := ""
	if out.Down {
		why = out.Detail
	}
	if e.lanes.answered(m.Delivery.Consumer, why, e.Now()) {
		e.wakeConsumer(ctx, m.Delivery.Consumer)
	}
	if out.Claim != nil && out.Received {
		out.Applied, out.Complaint = e.judge(ctx, m, *out.Claim)
	}
	return out, sent
}

// valueFor opens the value that the message carries, and returns its hashes.
func (e *Engine) valueFor(ctx context.Context, c Deliverer, m *Message) (map[string]string, error) {
	if !m.Delivery.Event.MakesCurrent() || !c.Terms().NeedsValue {
		return nil, nil
	}
	var err error
	if m.Value, err = e.Open(ctx, m.Published); err != nil {
		return nil, err
	}
	return e.hashes(m.Value), nil
}

// delivered commits the outcome of an attempt.
func (e *Engine) delivered(ctx context.Context, m Message, out Outcome, sent map[string]string) error {
	err := e.keep(ctx, func(ctx context.Context, tx Tx) error {
		d, err := tx.Delivery(ctx, m.Delivery.ID) // a newer generation may have superseded it meanwhile
		if err != nil {
			return err
		}
		now := e.Now()
		d.Lease = zeroTime
		applyOutcome(&d, out, now)
		if out.Applied {
			if err := e.applied(ctx, tx, &d, rotation.Ack{DeliveryID: d.ID, Instance: out.Claim.Instance, At: now, By: "webhook"}); err != nil {
				return err
			}
		}
		if err := tx.SaveDelivery(ctx, &d); err != nil {
			return err
		}
		if out.Gone {
			if err := e.disable(ctx, tx, d.Consumer, out.Detail); err != nil {
				return err
			}
		}
		return e.reportDelivery(ctx, tx, d, m.Published.RotationID, out, sent, now)
	})
	if err == nil && e.Observer != nil {
		e.Observer.DeliveryAttempted(outcomeName(out))
	}
	return err
}

func applyOutcome(d *rotation.Delivery, out Outcome, now time.Time) {
	d.Error = out.Complaint
	if !out.Received {
		d.Error = out.Detail
	}
	switch {
	case out.Received:
		if d.ReceivedAt.IsZero() {
			d.ReceivedAt = now
		}
		if d.State == rotation.DeliveryPending {
			d.State = rotation.DeliveryReceived
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

// reportDelivery adds what came of an attempt to the timeline and the audit log.
func (e *Engine) reportDelivery(ctx context.Context, tx Tx, d rotation.Delivery, rotationID string, out Outcome, sent map[string]string, now time.Time) error {
	outcome, detail := "ok", fmt.Sprintf("%s received %s (attempt %d)", d.Consumer, subjectOf(d), d.Attempts)
	switch {
	case out.Received:
	case d.State == rotation.DeliveryDead:
		outcome, detail = "failed", fmt.Sprintf("%s: given up after %d attempts: %s", d.Consumer, d.Attempts, out.Detail)
		e.Logger.Error("a delivery was given up", "consumer", d.Consumer, "secret", d.Ref, "delivery", d.ID, "error", out.Detail)
	default:
		outcome, detail = "retry", fmt.Sprintf("%s: %s", d.Consumer, out.Detail)
	}
	timeline := rotationID != "" && d.Event.MakesCurrent()
	if timeline && (outcome != "retry" || d.Attempts == 1) {
		if err := tx.EndStep(ctx, rotationID, "push", outcome, detail, now); err != nil {
			return err
		}
	}
	came := outcome
	if outcome == "retry" {
		came = "failed"
	}
	err := e.auditDelivery(ctx, tx, d, "delivery.attempt", came, detail, sent)
	if err != nil || !out.Received || !timeline {
		return err
	}
	if !d.AppliedAt.IsZero() {
		return e.acknowledged(ctx, tx, d, rotationID, now)
	}
	return wakeHeld(ctx, tx, rotationID, now)
}

// auditDelivery lets the audit log tell of a delivery; sent are the hashes of what it carried.
func (e *Engine) auditDelivery(ctx context.Context, tx Tx, d rotation.Delivery, action, outcome, detail string, sent map[string]string) error {
	about := map[string]string{"delivery": d.ID, "consumer": d.Consumer, "event": string(d.Event), "detail": detail}
	if d.SecretID == "" {
		return tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: d.Ref.Tenant, Actor: "keybroker",
			Action: action, Path: consumerPath(d.Consumer), Outcome: outcome, Detail: about})
	}
	about["version"], about["generation"] = fmt.Sprint(d.Version), fmt.Sprint(d.Generation)
	return e.auditValue(ctx, tx, d.Ref, action, outcome, about, sent)
}

func consumerPath(name string) string { return "sys/consumers/" + name }

// subjectOf says what a delivery tells of.
func subjectOf(d rotation.Delivery) string {
	switch {
	case d.SecretID == "":
		return "a test"
	case d.Event == rotation.EventRotated:
		return fmt.Sprintf("version %d", d.Version)
	}
	return fmt.Sprintf("%s of version %d", d.Event, d.Version)
}

func isConflict(err error) bool { return errors.Is(err, backends.ErrConflict) }
