package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

const (
	deliveryLease = 60 * time.Second
	// Uncollected is how long a delivery waits for somebody to collect it until it is given
	// up: as long as others are tried.
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
	for begun := []DueDelivery{d}; len(begun) > 0; {
		for _, other := range begun[1:] {
			others.Go(func() { e.pushBegun(ctx, other) })
		}
		begun = e.pushOne(ctx, begun[0])
	}
}

// pushOne steps one delivery and returns those that there is room for then. Once the
// engine rests, or ctx has ended, they only leave the lane: their rows are due.
func (e *Engine) pushOne(ctx context.Context, d DueDelivery) (begun []DueDelivery) {
	defer func() {
		if p := recover(); p != nil { // nobody else would, where it is one of several
			e.Logger.Error("a delivery panicked", "delivery", d.ID, "consumer", d.Consumer, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		begun = e.lanes.next(d, e.laneWidth(d.Consumer), e.Now())
	}()
	if ctx.Err() == nil && !e.rests() && !e.heldBack(ctx, deliveryJob(d)) {
		e.work(ctx, deliveryJob{}.Kind(), d.ID, e.stepDelivery)
	}
	return nil
}

// rests tells whether Rest was called.
func (e *Engine) rests() bool {
	select {
	case <-e.rest:
		return true
	default:
		return false
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
	why      error  // there is no such consumer now
	untold   bool   // its consumer wants no more deliveries, or is in quarantine
	kept     bool   // it is in quarantine
	busy     bool   // another delivery of the same consumer and secret is on its way
	idle     bool   // a newer generation is told of
	takenOut string // why its consumer may not be told of it any more
	revoking bool   // its version is given to nobody any more
	begun    bool   // its lease is taken
}

func (e *Engine) loadDelivery(ctx context.Context, tx Tx, id string, now time.Time) (*delivering, error) {
	s, err := tx.Sending(ctx, id, now)
	if err != nil {
		return nil, err
	}
	x := &delivering{Message: Message{Delivery: s.Delivery, Published: s.Version}, busy: s.InFlight}
	c, why := e.consumer(s.Delivery.Consumer)
	if x.why = why; why == nil {
		x.terms = c.Terms()
	}
	x.kept = !s.Consumer.QuarantinedAt.IsZero()
	x.untold = x.kept || why == nil && disabled(s.Consumer, x.terms)
	x.idle = s.Outdated
	switch {
	case s.TakenOut:
		x.takenOut = fmt.Sprintf("%s is no consumer of %s any more", s.Delivery.Consumer, s.Delivery.Ref)
	case x.terms.Tenant != "" && x.terms.Tenant != s.Delivery.Ref.Tenant:
		x.takenOut = fmt.Sprintf("%s is a consumer of the tenant %s by now", s.Delivery.Consumer, x.terms.Tenant)
	}
	if s.Delivery.Event.MakesCurrent() {
		x.Previous, x.revoking = s.Previous, s.Revoking
	}
	return x, nil
}

// stepDelivery makes one attempt at a delivery whose time has come.
func (e *Engine) stepDelivery(ctx context.Context, id string) (stepResult, error) {
	x, res, err := e.beginAttempt(ctx, id)
	if err != nil || !x.begun {
		return res, err
	}
	out, sent := e.attempt(ctx, x.Message)
	if ctx.Err() != nil && !out.answered() { // it was cut off, which says nothing
		return stepResult{}, ctx.Err()
	}
	d, err := e.delivered(ctx, x.Message, out, sent)
	if err != nil || d.State != rotation.DeliveryPending {
		return stepResult{}, err
	}
	return stepResult{until: d.NextAttemptAt, job: x.job()}, nil
}

// beginAttempt takes the lease of an attempt, or tells when to look again.
func (e *Engine) beginAttempt(ctx context.Context, id string) (x *delivering, res stepResult, err error) {
	now := e.Now()
	err = e.pushes.Update(ctx, func(ctx context.Context, tx Tx) (err error) {
		if x, err = e.loadDelivery(ctx, tx, id, now); err != nil {
			return err
		}
		if res, x.begun = e.mayBegin(x, now); !x.begun {
			return nil
		}
		x.Delivery.Attempts++
		x.Delivery.Lease = now.Add(deliveryLease)
		return tx.LeaseDelivery(ctx, &x.Delivery, now)
	})
	switch {
	case err != nil:
		return x, stepResult{}, err
	case x.begun || x.Delivery.State != rotation.DeliveryPending || now.Before(x.Delivery.Lease):
		return x, res, nil
	case x.over(now):
		return x, res, e.settleDelivery(ctx, x)
	case x.terms.Inbox || x.untold:
		return x, res, e.holdDelivery(ctx, x)
	}
	return x, res, nil
}

// mayBegin tells whether an attempt may be made now; else when to look again.
func (e *Engine) mayBegin(x *delivering, now time.Time) (stepResult, bool) {
	d := x.Delivery
	switch {
	case d.State != rotation.DeliveryPending:
		return stepResult{}, false
	case now.Before(d.Lease):
		return stepResult{until: d.Lease, job: x.job()}, false
	case x.over(now) || x.terms.Inbox || x.untold:
		return stepResult{}, false
	case now.Before(d.NextAttemptAt):
		return stepResult{until: d.NextAttemptAt, job: x.job()}, false
	case e.lanes.shut(d.Consumer, now): // since this one entered its lane
		return stepResult{}, false
	case x.busy: // an older generation is on its way, from another node: never let it arrive after this one
		return stepResult{until: now.Add(time.Second), job: x.job()}, false
	}
	return stepResult{}, true
}

func (x *delivering) job() deliveryJob {
	return deliveryJob{ID: x.Delivery.ID, Consumer: x.Delivery.Consumer, SecretID: x.Delivery.SecretID}
}

// over tells whether a delivery ends without another attempt.
func (x *delivering) over(now time.Time) bool {
	late := x.Delivery.NextAttemptAt.IsZero() && !x.untold && !now.Before(x.Delivery.Since.Add(Uncollected))
	return x.revoking || x.idle || x.takenOut != "" || late
}

// settleDelivery ends it.
func (e *Engine) settleDelivery(ctx context.Context, x *delivering) error {
	d := &x.Delivery
	out := Outcome{Next: -1}
	switch {
	case x.revoking:
		out.Detail = fmt.Sprintf("version %d is being revoked: it is given to nobody any more", d.Version)
	case x.takenOut != "":
		out.Detail = x.takenOut
	case x.idle:
		d.State, d.NextAttemptAt = rotation.DeliverySuperseded, zeroTime
		return e.saveDelivery(ctx, d)
	case !d.ReceivedAt.IsZero():
		out.Detail = fmt.Sprintf("not all %d instances acknowledged it for %s", d.Instances, Uncollected)
	default:
		out.Detail = fmt.Sprintf("nobody acknowledged it for %s", Uncollected)
	}
	_, err := e.delivered(ctx, x.Message, out, nil)
	return err
}

// holdDelivery lets it wait until it is collected, or its consumer is told again.
func (e *Engine) holdDelivery(ctx context.Context, x *delivering) error {
	if x.Delivery.NextAttemptAt.IsZero() {
		return nil
	}
	x.Delivery.NextAttemptAt = zeroTime
	return e.saveDelivery(ctx, &x.Delivery)
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
	m.Age = e.Now().Sub(m.Delivery.Since)
	out = e.deliver(ctx, c, m)
	out.endpoint = c.Terms().Endpoint
	if ctx.Err() != nil && !out.answered() {
		return out, sent
	}
	why := ""
	if out.Down {
		why = out.Detail
	}
	again := !out.Unsent && e.lanes.answered(m.Delivery.Consumer, why, e.Now())
	if again || out.Received && m.Delivery.Event == rotation.EventTest { // somebody has mended it
		e.wakeConsumer(ctx, m.Delivery.Consumer)
	}
	if out.Claim != nil && out.Received {
		out.Applied, out.Complaint = e.judge(ctx, m, *out.Claim)
	}
	return out, sent
}

// deliver makes the attempt; one that panics has failed like any other.
func (e *Engine) deliver(ctx context.Context, c Deliverer, m Message) (out Outcome) {
	defer func() {
		if p := recover(); p != nil {
			e.Logger.Error("an attempt at a delivery panicked", "delivery", m.Delivery.ID, "consumer", m.Delivery.Consumer, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			out = later(m.Delivery, errPanicked)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, deliveryLease/2)
	defer cancel()
	return c.Deliver(ctx, m)
}

var errPanicked = errors.New("the broker could not make the attempt: it panicked, see its log")

// answered tells whether the consumer has said what it wants.
func (o Outcome) answered() bool { return o.Received || o.Gone }

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

// delivered commits the outcome of an attempt, and returns the delivery as it is then: a
// newer generation may have superseded it meanwhile.
func (e *Engine) delivered(ctx context.Context, m Message, out Outcome, sent map[string]string) (rotation.Delivery, error) {
	var d rotation.Delivery
	err := keepBy(ctx, e.pushes.Update, func(ctx context.Context, tx Tx) (err error) {
		d = m.Delivery // nobody else has touched it, mostly
		err = e.saveOutcome(ctx, tx, &d, out)
		for n := 1; isConflict(err) && n < ackTries; n++ {
			if d, err = tx.Delivery(ctx, m.Delivery.ID); err == nil {
				err = e.saveOutcome(ctx, tx, &d, out)
			}
		}
		if err != nil {
			return err
		}
		if out.Gone {
			if err := e.disable(ctx, tx, d.Consumer, out); err != nil {
				return err
			}
		}
		return e.reportDelivery(ctx, tx, d, m.Published.RotationID, out, sent, e.Now())
	})
	if err == nil && e.Observer != nil {
		e.Observer.DeliveryAttempted(outcomeName(out))
	}
	return d, err
}

func (e *Engine) saveOutcome(ctx context.Context, tx Tx, d *rotation.Delivery, out Outcome) error {
	now := e.Now()
	d.Lease = zeroTime
	applyOutcome(d, out, now)
	if out.Applied {
		if err := e.applied(ctx, tx, d, rotation.Ack{DeliveryID: d.ID, Instance: out.Claim.Instance, Applied: true, At: now, By: "webhook"}); err != nil {
			return err
		}
	}
	return tx.SaveDelivery(ctx, d)
}

func applyOutcome(d *rotation.Delivery, out Outcome, now time.Time) {
	waits := d.State == rotation.DeliveryPending
	switch {
	case out.Received:
		d.Error = out.Complaint
		if d.ReceivedAt.IsZero() {
			d.ReceivedAt = now
		}
		if waits || d.State == rotation.DeliveryDead {
			d.State, d.NextAttemptAt = rotation.DeliveryReceived, zeroTime
		}
	case !waits: // it is over for another reason, which stays told
	case out.Gone || out.Next < 0:
		d.State, d.Error = rotation.DeliveryDead, out.Detail
	default:
		d.NextAttemptAt, d.Error = now.Add(out.Next), out.Detail
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
		if err := tx.NoteStep(ctx, rotationID, "push", outcome, detail, now); err != nil {
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
