package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// settledAtOnce is how many held events one look settles.
const settledAtOnce = 200

// settleEvents records what people have decided on events that were held: their incident
// was approved or rejected, or nobody did so in time.
func (b *Broker) settleEvents(ctx context.Context) error {
	var decided []store.Event
	err := b.Store.View(ctx, func(tx *store.Tx) (err error) {
		decided, err = tx.DecidedEvents(ctx, settledAtOnce)
		return err
	})
	for _, ev := range decided {
		err = errors.Join(err, b.settle(ctx, ev.ID, ev.Trigger))
	}
	return err
}

func (b *Broker) settle(ctx context.Context, id, trigger string) error {
	err := b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
		if err := tx.Serialize(ctx, "trigger/"+trigger); err != nil {
			return err
		}
		ev, err := tx.Event(ctx, id)
		if err != nil || ev.Outcome != client.OutcomeHeld {
			return err
		}
		inc, err := tx.Incident(ctx, ev.IncidentID)
		if err != nil || inc.State == rotation.IncidentProposed {
			return err
		}
		if inc.State != rotation.IncidentRejected {
			ev.AppliedBy, ev.AppliedAt = inc.ApprovedBy, inc.ApprovedAt
		}
		for i := range ev.Matches {
			if err := b.settleMatch(ctx, tx, &ev, &ev.Matches[i], inc); err != nil {
				return err
			}
		}
		ev.Outcome = overall(ev.Matches)
		return b.saveDecided(ctx, tx, ev)
	})
	if err != nil {
		return fmt.Errorf("settling event %s: %w", id, err)
	}
	return nil
}

func (b *Broker) settleMatch(ctx context.Context, tx *store.Tx, ev *store.Event, m *store.EventMatch, inc rotation.Incident) error {
	if m.Outcome != client.OutcomeHeld {
		return nil
	}
	m.IncidentID = inc.ID
	if inc.State == rotation.IncidentRejected {
		m.Outcome, m.Error = client.OutcomeRefused, cut("incident "+inc.ID+" was refused: "+inc.Closing)
		return nil
	}
	target, err := tx.Target(ctx, inc.ID, m.SecretID)
	if err != nil && !errors.Is(err, backends.ErrNotFound) {
		return err
	}
	m.Outcome, m.RotationID = client.OutcomeActed, target.RotationID // which may follow
	return b.acted(ctx, tx, ev, *m, m.Versions)
}

// decidedOn tells whether people have refused an event: it is not tried again.
func decidedOn(ev store.Event) bool {
	for _, m := range ev.Matches {
		if m.Outcome == client.OutcomeRefused && m.IncidentID != "" {
			return true
		}
	}
	return false
}

// saveDecided writes what people decided on an event. When no other waits for them, the
// alert that says so ends.
func (b *Broker) saveDecided(ctx context.Context, tx *store.Tx, ev store.Event) error {
	if err := tx.SaveEvent(ctx, ev); err != nil {
		return err
	}
	held, err := tx.HeldEvents(ctx, ev.Trigger)
	if err != nil || held > 0 {
		return err
	}
	return tx.EndAlert(ctx, alert.TriggerExceeded, ev.Trigger)
}
