package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Event is an inbound event that was accepted, and what came of it: no value.
type Event struct {
	ID         string            `json:"id"`
	Trigger    string            `json:"trigger"`  // its name in the configuration
	Key        string            `json:"key"`      // unique within the trigger: what comes again with it is the same event
	EventID    string            `json:"event_id"` // as its sender calls it
	Tenant     string            `json:"tenant,omitempty"`
	Emergency  bool              `json:"emergency,omitempty"` // else it rotates
	Outcome    string            `json:"outcome"`             // as the client's package lists them
	ReceivedAt time.Time         `json:"received_at"`
	At         time.Time         `json:"at,omitzero"`
	Reason     string            `json:"reason"`
	Source     string            `json:"source,omitempty"`
	URL        string            `json:"url,omitempty"`
	Names      []string          `json:"names,omitempty"` // at most a hundred
	Labels     map[string]string `json:"labels,omitempty"`
	Values     int               `json:"values,omitempty"`
	Handles    int               `json:"handles,omitempty"`
	Hashes     map[string]string `json:"hashes,omitempty"` // of the values, keyed, for the audit log
	Matches    []EventMatch      `json:"matches,omitempty"`
	IncidentID string            `json:"incident_id,omitempty"`
	AppliedBy  string            `json:"applied_by,omitempty"`
	AppliedAt  time.Time         `json:"applied_at,omitzero"`
	// Who sent it.
	Actor    string `json:"actor"`
	Lineage  string `json:"lineage,omitempty"`
	Role     string `json:"role,omitempty"`
	Method   string `json:"method,omitempty"`
	Identity string `json:"identity,omitempty"`
	Address  string `json:"address,omitempty"`
	// Of one that is unresolved: what its receiver has to ask for, how it went, and when it
	// is asked again, or not any more.
	Missing    map[string]string `json:"missing,omitempty"`
	Error      string            `json:"error,omitempty"`
	Tries      int               `json:"tries,omitempty"`
	RetryAt    time.Time         `json:"retry_at,omitzero"`
	RetryUntil time.Time         `json:"retry_until,omitzero"`

	Repeats int       `json:"-"`
	LastAt  time.Time `json:"-"`
}

// EventMatch is one secret that an event is about.
type EventMatch struct {
	SecretID   string       `json:"secret_id"`
	Ref        backends.Ref `json:"ref"`
	Versions   []int        `json:"versions,omitempty"` // empty: it was named
	By         string       `json:"by"`
	Outcome    string       `json:"outcome,omitempty"` // empty: not begun
	Error      string       `json:"error,omitempty"`
	RotationID string       `json:"rotation_id,omitempty"`
	IncidentID string       `json:"incident_id,omitempty"`
}

// EventAct is that a trigger has acted on a secret.
type EventAct struct {
	Trigger    string
	EventID    string // our id of the event
	SecretID   string
	Versions   []int // that it turned off, or tried again
	RotationID string
	IncidentID string
	At         time.Time
	Applied    bool // somebody asked for it, the trigger did not do it by itself
}

const eventColumns = "record, repeats, last_at"

func scanEvent(r row) (ev Event, err error) {
	return ev, r.Scan(fromJSON{&ev}, &ev.Repeats, instant{&ev.LastAt})
}

// AddEvent records ev, unless its trigger has had one of its key: then that one is
// counted once more and returned, and repeated is true.
func (tx *Tx) AddEvent(ctx context.Context, ev Event) (kept Event, repeated bool, err error) {
	err = tx.insert(ctx, `INSERT INTO events (id, trigger_name, event_key, tenant, outcome, received_at, repeats, last_at, incident_id, record)
		VALUES ($1, $2, $3, $4, $5, $6, 0, $6, $7, $8) ON CONFLICT DO NOTHING`,
		ev.ID, ev.Trigger, ev.Key, ev.Tenant, ev.Outcome, micros(ev.ReceivedAt), ev.IncidentID, asJSON{ev})
	if err == nil {
		return ev, false, nil
	}
	if errors.Is(err, backends.ErrConflict) {
		err = tx.execOnly(ctx, "UPDATE events SET repeats = repeats + 1, last_at = $1 WHERE trigger_name = $2 AND event_key = $3", micros(ev.ReceivedAt), ev.Trigger, ev.Key)
		if err == nil {
			kept, err = tx.EventOf(ctx, ev.Trigger, ev.Key)
		}
	}
	if err != nil {
		return Event{}, false, fmt.Errorf("recording an event of trigger %s: %w", ev.Trigger, err)
	}
	return kept, true, nil
}

// ReleaseEventKey lets another event have the key of one that was received before a time.
func (tx *Tx) ReleaseEventKey(ctx context.Context, trigger, key string, before time.Time) error {
	err := tx.execOnly(ctx, "UPDATE events SET event_key = id WHERE trigger_name = $1 AND event_key = $2 AND received_at <= $3", trigger, key, micros(before))
	if err != nil {
		return fmt.Errorf("releasing the key of an event of trigger %s: %w", trigger, err)
	}
	return nil
}

// EventOf returns the event of that key which the trigger has had, or ErrNotFound.
func (tx *Tx) EventOf(ctx context.Context, trigger, key string) (Event, error) {
	ev, err := scanEvent(tx.q.queryRow(ctx, "SELECT "+eventColumns+" FROM events WHERE trigger_name = $1 AND event_key = $2", trigger, key))
	if err != nil {
		return Event{}, fmt.Errorf("looking an event of trigger %s up: %w", trigger, err)
	}
	return ev, nil
}

// Event returns an event by its id.
func (tx *Tx) Event(ctx context.Context, id string) (Event, error) {
	ev, err := scanEvent(tx.q.queryRow(ctx, "SELECT "+eventColumns+" FROM events WHERE id = $1"+tx.lock("events"), id))
	if err != nil {
		return Event{}, fmt.Errorf("reading event %s: %w", id, err)
	}
	return ev, nil
}

// SaveEvent writes what came of an event. Whoever does so has Serialized by its trigger.
func (tx *Tx) SaveEvent(ctx context.Context, ev Event) error {
	if err := tx.execOnly(ctx, "UPDATE events SET outcome = $1, incident_id = $2, record = $3 WHERE id = $4", ev.Outcome, ev.IncidentID, asJSON{ev}, ev.ID); err != nil {
		return fmt.Errorf("saving event %s: %w", ev.ID, err)
	}
	return nil
}

// ForgetEvent removes an event that nothing came of.
func (tx *Tx) ForgetEvent(ctx context.Context, id string) error {
	if err := tx.execOnly(ctx, "DELETE FROM events WHERE id = $1 AND outcome = 'receiving'", id); err != nil {
		return fmt.Errorf("forgetting event %s: %w", id, err)
	}
	return nil
}

// EventFilter chooses events; what is empty matches all.
type EventFilter struct {
	Tenant  string
	Trigger string
	Outcome string
}

// Events lists events, the newest first.
func (tx *Tx) Events(ctx context.Context, by EventFilter, p Page) ([]Event, string, error) {
	var f filter
	f.equal("trigger_name", by.Trigger)
	f.equal("tenant", by.Tenant)
	if by.Outcome == heldEvents { // in so many words, for the index of those
		f.and("outcome = 'held'")
	} else {
		f.equal("outcome", by.Outcome)
	}
	if err := f.before("received_at", "id", p); err != nil {
		return nil, "", fmt.Errorf("listing events: %w", err)
	}
	items, err := all(ctx, tx, scanEvent, "SELECT "+eventColumns+" FROM events"+f.where()+
		" ORDER BY received_at DESC, id DESC"+atMost(f.arg(p.limit()+1)), f.args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing events: %w", err)
	}
	items, next := cut(items, p, func(ev Event) string { return cursor(micros(ev.ReceivedAt), ev.ID) })
	return items, next, nil
}

const heldEvents = "held"

// UnfinishedEvents returns events received before a time of which it is not recorded what
// came of them, at most limit: who was at it has died.
func (tx *Tx) UnfinishedEvents(ctx context.Context, before time.Time, limit int) ([]Event, error) {
	items, err := all(ctx, tx, scanEvent, "SELECT "+eventColumns+" FROM events WHERE outcome = 'receiving' AND received_at < $1 ORDER BY received_at"+atMost("$2"), micros(before), limit)
	if err != nil {
		return nil, fmt.Errorf("reading unfinished events: %w", err)
	}
	return items, nil
}

// UnresolvedEvents returns the events of a trigger (empty: of all) of which values are
// missing, at most limit.
func (tx *Tx) UnresolvedEvents(ctx context.Context, trigger string, limit int) ([]Event, error) {
	var f filter
	f.and("outcome = 'unresolved'") // in so many words, for the index of those
	f.equal("trigger_name", trigger)
	items, err := all(ctx, tx, scanEvent, "SELECT "+eventColumns+" FROM events"+f.where()+" ORDER BY received_at"+atMost(f.arg(limit)), f.args...)
	if err != nil {
		return nil, fmt.Errorf("reading unresolved events: %w", err)
	}
	return items, nil
}

// DecidedEvents returns events that are held although people have decided on the incident
// that was proposed for them, at most limit.
func (tx *Tx) DecidedEvents(ctx context.Context, limit int) ([]Event, error) {
	items, err := all(ctx, tx, scanEvent, "SELECT e.record, e.repeats, e.last_at FROM events e JOIN incidents i ON i.id = e.incident_id"+
		" WHERE e.outcome = 'held' AND i.state <> 'proposed'"+atMost("$1"), limit)
	if err != nil {
		return nil, fmt.Errorf("reading held events that were decided on: %w", err)
	}
	return items, nil
}

// CountEvents counts the events that are kept of a trigger, and those of them that are held.
func (tx *Tx) CountEvents(ctx context.Context, trigger string) (all, held int, err error) {
	err = tx.q.queryRow(ctx, "SELECT COUNT(*) FROM events WHERE trigger_name = $1", trigger).Scan(&all)
	if err == nil {
		held, err = tx.HeldEvents(ctx, trigger)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("counting the events of trigger %s: %w", trigger, err)
	}
	return all, held, nil
}

// HeldEvents counts those of a trigger that wait for people.
func (tx *Tx) HeldEvents(ctx context.Context, trigger string) (held int, err error) {
	err = tx.q.queryRow(ctx, "SELECT COUNT(*) FROM events WHERE trigger_name = $1 AND outcome = 'held'", trigger).Scan(&held)
	if err != nil {
		return 0, fmt.Errorf("counting the held events of trigger %s: %w", trigger, err)
	}
	return held, nil
}

// AddEventAct records that a trigger has acted on a secret; ErrConflict if the event has
// been acted on for that secret.
func (tx *Tx) AddEventAct(ctx context.Context, a EventAct) error {
	err := tx.insert(ctx, `INSERT INTO event_acts (event_id, secret_id, trigger_name, at, versions, rotation_id, incident_id, applied)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`, a.EventID, a.SecretID, a.Trigger, micros(a.At), asJSON{a.Versions}, a.RotationID, a.IncidentID, a.Applied)
	if err != nil {
		return fmt.Errorf("recording what trigger %s did: %w", a.Trigger, err)
	}
	return nil
}

// EventActs returns what a trigger did since a time, the oldest first.
func (tx *Tx) EventActs(ctx context.Context, trigger string, since time.Time) ([]EventAct, error) {
	items, err := all(ctx, tx, func(r row) (a EventAct, err error) {
		a.Trigger = trigger
		return a, r.Scan(&a.EventID, &a.SecretID, instant{&a.At}, fromJSON{&a.Versions}, &a.RotationID, &a.IncidentID, &a.Applied)
	}, "SELECT event_id, secret_id, at, versions, rotation_id, incident_id, applied FROM event_acts WHERE trigger_name = $1 AND at > $2 ORDER BY at, event_id, secret_id", trigger, micros(since))
	if err != nil {
		return nil, fmt.Errorf("reading what trigger %s did: %w", trigger, err)
	}
	return items, nil
}

// PruneEvents forgets the events received before a time, and what was done for them.
func (tx *Tx) PruneEvents(ctx context.Context, before time.Time) error {
	err := tx.execOnly(ctx, "DELETE FROM event_acts WHERE at < $1", micros(before))
	if err == nil {
		err = tx.execOnly(ctx, "DELETE FROM events WHERE received_at < $1", micros(before))
	}
	if err != nil {
		return fmt.Errorf("pruning events: %w", err)
	}
	return nil
}

// ThinEvents forgets of each trigger the events that came to nothing and are older than
// its newest ones.
func (tx *Tx) ThinEvents(ctx context.Context, newest int) error {
	triggers, err := all(ctx, tx, scanString, `WITH RECURSIVE t (name) AS (SELECT MIN(trigger_name) FROM events
		UNION ALL SELECT (SELECT MIN(trigger_name) FROM events WHERE trigger_name > t.name) FROM t WHERE t.name IS NOT NULL)
		SELECT name FROM t WHERE name IS NOT NULL`)
	for _, trigger := range triggers {
		if err == nil {
			err = tx.execOnly(ctx, `DELETE FROM events WHERE trigger_name = $1 AND outcome NOT IN ('acted', 'held', 'receiving', 'unresolved') AND received_at < (
				SELECT received_at FROM events WHERE trigger_name = $1 ORDER BY received_at DESC, id DESC LIMIT 1 OFFSET CAST($2 AS BIGINT))`, trigger, newest)
		}
	}
	if err != nil {
		return fmt.Errorf("thinning events: %w", err)
	}
	return nil
}
