package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Quarantine keeps a consumer or a role out, inside tx, and returns what it is in: where that
// is so for the same incident already, that one. From the commit on nothing is begun for a consumer: what it is to be told waits
// without a time, and is superseded as usual; what is on its way at that moment arrives,
// and is not repeated. LetGo has the overlaps go on that waited for it.
func (e *Engine) Quarantine(ctx context.Context, tx Tx, q rotation.Quarantine, asked Asked) (rotation.Quarantine, error) {
	q.ID, q.At, q.Reason, q.By = newID(), e.Now(), asked.Reason, asked.By
	q, added, err := tx.AddQuarantine(ctx, q)
	if err != nil || !added {
		return q, err
	}
	if q.Kind == rotation.KeptConsumer {
		if err := tx.HoldDeliveries(ctx, q.Name); err != nil {
			return q, err
		}
	}
	return q, e.auditQuarantine(ctx, tx, QuarantineBegun, q, asked)
}

// The events of quarantines. Their details have all that makes the row: a store that has
// lost the row has lost the event, which the audit log has.
const (
	QuarantineBegun  = "quarantine.begin"
	QuarantineLifted = "quarantine.lift"
)

func (e *Engine) auditQuarantine(ctx context.Context, tx Tx, action string, q rotation.Quarantine, asked Asked) error {
	return tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: q.Tenant, Actor: asked.By, Role: asked.Role, Method: asked.Method, Identity: asked.Identity, Address: asked.Address,
		Action: action, Path: QuarantinePath(q.Kind, q.Name), Outcome: "ok",
		Detail: map[string]string{"kind": string(q.Kind), "name": q.Name, "role": q.Role, "incident": q.IncidentID, "reason": asked.Reason}})
}

// QuarantinePath is where the quarantine of a consumer or role is for policies.
func QuarantinePath(kind rotation.Kept, name string) string {
	return "sys/quarantine/" + string(kind) + "/" + name
}

// LiftQuarantine lets a consumer or role in again, inside tx, and returns what it was in:
// nothing if it was in none. A consumer is told of what has waited for it, and of the
// current version of every secret that it was not told of.
func (e *Engine) LiftQuarantine(ctx context.Context, tx Tx, kind rotation.Kept, name string, asked Asked) ([]rotation.Quarantine, error) {
	lifted, err := tx.LiftQuarantines(ctx, kind, name, asked.By, asked.Reason, e.Now())
	if err != nil || len(lifted) == 0 {
		return nil, err
	}
	for _, q := range lifted {
		if err := e.auditQuarantine(ctx, tx, QuarantineLifted, q, asked); err != nil {
			return nil, err
		}
	}
	if kind != rotation.KeptConsumer {
		return lifted, nil
	}
	return lifted, e.readmit(ctx, tx, name)
}

// readmit tells a consumer again that was in quarantine.
func (e *Engine) readmit(ctx context.Context, tx Tx, consumer string) error {
	e.lanes.forget(consumer)
	terms, configured := e.terms(consumer)
	if !configured {
		return nil // what waits is due once it is: see settleConsumers
	}
	state, err := tx.ConsumerState(ctx, consumer)
	switch {
	case err != nil:
		return err
	case terms.Inbox: // nobody could collect it: how long it waits counts from now on
		if err := tx.WakeDeliveries(ctx, consumer, e.Now()); err != nil {
			return err
		}
		err = tx.HoldDeliveries(ctx, consumer)
	case !disabled(state, terms):
		err = e.wakeInside(ctx, tx, consumer)
	}
	if err != nil {
		return err
	}
	untold, err := tx.Untold(ctx, consumer)
	if err != nil {
		return err
	}
	for _, id := range untold {
		s, err := tx.Secret(ctx, id)
		if err != nil {
			return err
		}
		s.Definition.Consumers = []string{consumer} // the others are told already, or were given up
		if err := e.Welcome(ctx, tx, s, nil); err != nil {
			return err
		}
	}
	return nil
}

// LetGo has every overlap that waits for consumers look again for whom: what it waits for
// may be in quarantine by now. It can be repeated at any time, and is to be called once
// the quarantine is committed, by any node.
func (e *Engine) LetGo(ctx context.Context) error {
	var waiting Due
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		waiting, err = tx.Waiting(ctx, rotation.WaitAcknowledgment)
		return err
	})
	for _, id := range waiting.Rotations {
		if err == nil {
			err = e.Store.Update(ctx, func(tx Tx) error { return wakeHeld(ctx, tx, id, e.Now()) })
		}
	}
	if err != nil {
		return fmt.Errorf("letting overlaps go on: %w", err)
	}
	return nil
}

// untold tells whether a consumer is told nothing now: it wants no more deliveries, or is
// in quarantine.
func untold(s rotation.ConsumerState, terms Terms) bool {
	return !s.QuarantinedAt.IsZero() || disabled(s, terms)
}

// whyUntold refuses what would tell a consumer that is told nothing: ErrConflict.
func whyUntold(s rotation.ConsumerState, terms Terms) error {
	switch {
	case !s.QuarantinedAt.IsZero():
		return fmt.Errorf("%w: %s", backends.ErrConflict, quarantined(s))
	case disabled(s, terms):
		return fmt.Errorf("%w: consumer %q is disabled (%s): `keybroker consumer enable %s` first", backends.ErrConflict, s.Name, s.Why, s.Name)
	}
	return nil
}

func quarantined(s rotation.ConsumerState) string {
	return fmt.Sprintf("consumer %q is in quarantine since %s: `keybroker quarantine lift consumer %s --reason TEXT`", s.Name, s.QuarantinedAt.UTC().Format(time.RFC3339), s.Name)
}

// waitedFor leaves out those consumers that are in quarantine: nobody waits for them.
func waitedFor(ctx context.Context, tx Tx, consumers []string) (left []string, err error) {
	if len(consumers) == 0 {
		return nil, nil
	}
	states, err := tx.ConsumerStates(ctx)
	return Awaited(consumers, states), err
}

// Awaited leaves out of consumers those that are in quarantine by their states.
func Awaited(consumers []string, states []rotation.ConsumerState) (left []string) {
	out := map[string]bool{}
	for _, s := range states {
		out[s.Name] = !s.QuarantinedAt.IsZero()
	}
	for _, name := range consumers {
		if !out[name] {
			left = append(left, name)
		}
	}
	return left
}
