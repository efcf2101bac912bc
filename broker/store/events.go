package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Event is an inbound event that was accepted.
type Event struct {
	Trigger    string // its name in the configuration
	ID         string // given by the sender, unique within the trigger
	RotationID string // that it started
	ReceivedAt time.Time
}

// AddEvent records ev, unless the trigger has had an event of that id: then it
// returns the earlier one and repeated.
func (tx *Tx) AddEvent(ctx context.Context, ev Event) (kept Event, repeated bool, err error) {
	err = tx.insert(ctx, `INSERT INTO events (trigger_name, event_id, received_at, rotation_id)
		VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, ev.Trigger, ev.ID, micros(ev.ReceivedAt), ev.RotationID)
	if err == nil {
		return ev, false, nil
	}
	if errors.Is(err, backends.ErrConflict) {
		kept = Event{Trigger: ev.Trigger, ID: ev.ID}
		err = tx.q.queryRow(ctx, "SELECT rotation_id, received_at FROM events WHERE trigger_name = $1 AND event_id = $2",
			ev.Trigger, ev.ID).Scan(&kept.RotationID, instant{&kept.ReceivedAt})
	}
	if err != nil {
		return Event{}, false, fmt.Errorf("recording an event of trigger %s: %w", ev.Trigger, err)
	}
	return kept, true, nil
}

// Event returns the event of that id which the trigger has had, or ErrNotFound.
func (tx *Tx) Event(ctx context.Context, trigger, id string) (Event, error) {
	ev := Event{Trigger: trigger, ID: id}
	err := tx.q.queryRow(ctx, "SELECT rotation_id, received_at FROM events WHERE trigger_name = $1 AND event_id = $2",
		trigger, id).Scan(&ev.RotationID, instant{&ev.ReceivedAt})
	if err != nil {
		return Event{}, fmt.Errorf("looking an event of trigger %s up: %w", trigger, err)
	}
	return ev, nil
}

// PruneEvents forgets the events received before a time.
func (tx *Tx) PruneEvents(ctx context.Context, before time.Time) error {
	if err := tx.execOnly(ctx, "DELETE FROM events WHERE received_at < $1", micros(before)); err != nil {
		return fmt.Errorf("pruning events: %w", err)
	}
	return nil
}
