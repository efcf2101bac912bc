package engine

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// disable notes that a consumer wants no more deliveries where they go now; what waits for
// it waits until it is enabled, or its endpoint is another one.
func (e *Engine) disable(ctx context.Context, tx Tx, consumer string, out Outcome) error {
	e.Logger.Error("a consumer wants no more deliveries and is disabled", "consumer", consumer, "why", out.Detail)
	state := rotation.ConsumerState{Name: consumer, DisabledAt: e.Now(), Why: out.Detail, Endpoint: out.endpoint}
	if err := tx.SaveConsumerState(ctx, state); err != nil {
		return err
	}
	terms, _ := e.terms(consumer)
	err := tx.AddAudit(ctx, rotation.AuditEvent{At: state.DisabledAt, Tenant: terms.Tenant, Actor: "keybroker", Action: "consumer.disabled", Path: consumerPath(consumer),
		Outcome: "ok", Detail: map[string]string{"consumer": consumer, "why": out.Detail}})
	if err != nil {
		return err
	}
	if !e.Disabled(state) {
		return nil // it is somewhere else by now
	}
	return tx.HoldDeliveries(ctx, consumer)
}

// Disabled tells whether a consumer wants no more deliveries where they go by now.
func (e *Engine) Disabled(s rotation.ConsumerState) bool {
	terms, _ := e.terms(s.Name)
	return disabled(s, terms)
}

// EnableConsumer tells a consumer again, inside tx, that was disabled, of all that waits
// for it. Of one that is not it tries at once what waits. ErrConflict if it is in quarantine.
func (e *Engine) EnableConsumer(ctx context.Context, tx Tx, consumer string, asked Asked) error {
	state, err := tx.ConsumerState(ctx, consumer)
	if err == nil && !state.QuarantinedAt.IsZero() {
		err = whyUntold(state, Terms{})
	}
	if err == nil {
		err = tx.SaveConsumerState(ctx, rotation.ConsumerState{Name: consumer})
	}
	if err != nil {
		return err
	}
	e.lanes.forget(consumer)
	return e.wakeInside(ctx, tx, consumer)
}

// wakeInside makes what waits for a consumer due, unless it is in quarantine.
func (e *Engine) wakeInside(ctx context.Context, tx Tx, consumer string) error {
	if terms, ok := e.terms(consumer); ok && terms.Inbox {
		return nil
	}
	if state, err := tx.ConsumerState(ctx, consumer); err != nil || !state.QuarantinedAt.IsZero() {
		return err
	}
	now := e.Now()
	if err := tx.WakeDeliveries(ctx, consumer, now); err != nil {
		return err
	}
	due, err := tx.DueTo(ctx, consumer, now, refillBy)
	if err != nil {
		return err
	}
	for _, d := range due {
		if err := tx.Enqueue(ctx, pushNow(d)); err != nil {
			return err
		}
	}
	if len(due) == refillBy {
		e.lanes.expectMore(consumer)
	}
	return nil
}

// wakeConsumer lets what waits for a consumer be tried now: its endpoint answers again.
func (e *Engine) wakeConsumer(ctx context.Context, consumer string) {
	err := e.Store.Update(ctx, func(tx Tx) error { return e.wakeInside(ctx, tx, consumer) })
	if err != nil && ctx.Err() == nil {
		e.Logger.Warn("what waits for a consumer that answers again waits on", "consumer", consumer, "error", err)
	}
}

// settleConsumers lets what waits without a time for a consumer that is told be due, and
// what has a time for one that collects wait without: their configuration is another one
// by now, or somebody who was told by the one of before has made the delivery since.
func (e *Engine) settleConsumers(ctx context.Context) error {
	var held []string
	err := e.Store.View(ctx, func(tx Tx) error {
		names, err := tx.HeldConsumers(ctx)
		if err != nil {
			return err
		}
		for _, name := range names {
			terms, configured := e.terms(name)
			if !configured || terms.Inbox {
				continue
			}
			state, err := tx.ConsumerState(ctx, name)
			if err != nil {
				return err
			}
			if !untold(state, terms) {
				held = append(held, name)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for consumers to be told again: %w", err)
	}
	for _, name := range held {
		if err := e.Store.Update(ctx, func(tx Tx) error { return e.wakeInside(ctx, tx, name) }); err != nil {
			return fmt.Errorf("telling consumer %s again: %w", name, err)
		}
	}
	return nil
}

// settleInboxes lets what waits for those that collect be collected.
func (e *Engine) settleInboxes(ctx context.Context) error {
	for name, c := range e.catalog.Load().Consumers {
		if !c.Terms().Inbox {
			continue
		}
		if err := e.Store.Update(ctx, func(tx Tx) error { return tx.HoldDeliveries(ctx, name) }); err != nil {
			return fmt.Errorf("letting consumer %s collect: %w", name, err)
		}
	}
	return nil
}

// TestConsumer sends a consumer a message of no secret, inside tx.
func (e *Engine) TestConsumer(ctx context.Context, tx Tx, tenant, consumer string, asked Asked) (rotation.Delivery, error) {
	terms, configured := e.terms(consumer)
	if !configured {
		return rotation.Delivery{}, fmt.Errorf("%w: no consumer %q in the configuration", backends.ErrNotFound, consumer)
	}
	state, err := tx.ConsumerState(ctx, consumer)
	if err != nil {
		return rotation.Delivery{}, err
	}
	if err := whyUntold(state, terms); err != nil {
		return rotation.Delivery{}, err
	}
	now := e.Now()
	d := rotation.Delivery{ID: newID(), Ref: backends.Ref{Tenant: tenant}, Consumer: consumer, Event: rotation.EventTest, Trigger: rotation.TriggerManual,
		Reason: asked.Reason, State: rotation.DeliveryPending, Instances: 1, CreatedAt: now}
	return d, e.send(ctx, tx, e.catalog.Load(), &d)
}

// forgetLanes drops what is known of endpoints that are others in another catalog.
func (e *Engine) forgetLanes(before, after *Catalog) {
	for name, c := range before.Consumers {
		if !same(c, after.Consumers[name]) {
			e.lanes.forget(name)
		}
	}
}
