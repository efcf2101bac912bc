package store

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/rotation/engine"
)

// Due returns what is under way, should be looked at by now and is not leased, at most
// limit of each, the longest due first.
func (tx *Tx) Due(ctx context.Context, now time.Time, limit int) (engine.Due, error) {
	const (
		rotations = `SELECT id FROM rotations WHERE next_at <= $1 AND ended_at IS NULL
			AND (lease_until IS NULL OR lease_until <= $1) ORDER BY next_at, id`
		emergencies = `SELECT id FROM rotations WHERE next_at <= $1 AND ended_at IS NULL AND trigger_kind = 'emergency'
			AND (lease_until IS NULL OR lease_until <= $1) ORDER BY next_at, id`
		retirements = `SELECT id FROM retirements WHERE next_at <= $1
			AND (lease_until IS NULL OR lease_until <= $1) ORDER BY next_at, id`
		placements = `SELECT id FROM placements WHERE next_at <= $1
			AND (lease_until IS NULL OR lease_until <= $1) ORDER BY next_at, id`
		incidents = "SELECT id FROM incidents WHERE next_at <= $1 ORDER BY next_at, id"
	)
	var due engine.Due
	err := tx.due(ctx, now, limit, dueOf{&due.Emergencies, emergencies}, dueOf{&due.Rotations, rotations}, dueOf{&due.Retirements, retirements},
		dueOf{&due.Placements, placements}, dueOf{&due.Incidents, incidents})
	if err == nil {
		due.Deliveries, err = tx.dueDeliveries(ctx, now, limit)
	}
	return due, err
}

// dueEach is how many deliveries to one consumer are due at once: those of one that is
// down hide nobody else's.
const dueEach = 200

// dueDeliveries returns those whose time has come, the longest due of each consumer first, and those without one that nobody has
// collected for so long that they are given up.
func (tx *Tx) dueDeliveries(ctx context.Context, now time.Time, limit int) ([]engine.DueDelivery, error) {
	items, err := all(ctx, tx, scanDueDelivery, `SELECT id, consumer, secret_id FROM (SELECT id, consumer, secret_id, next_attempt_at,
			ROW_NUMBER() OVER (PARTITION BY consumer ORDER BY next_attempt_at, id) AS place
		FROM deliveries WHERE next_attempt_at <= $1 AND state = 'pending' AND (lease_until IS NULL OR lease_until <= $1)) ranked
		WHERE place <= $2 ORDER BY place, next_attempt_at, id`+atMost("$3"), micros(now), dueEach, limit)
	if err != nil {
		return nil, fmt.Errorf("looking for deliveries that are due: %w", err)
	}
	over, err := all(ctx, tx, scanDueDelivery, `SELECT id, consumer, secret_id FROM deliveries d WHERE state = 'pending' AND next_attempt_at IS NULL
		AND created_at <= $1 AND since <= $1 AND `+quarantinedAt("d.consumer")+` IS NULL ORDER BY created_at, id`+atMost("$2"), micros(now.Add(-engine.Uncollected)), limit)
	if err != nil {
		return nil, fmt.Errorf("looking for deliveries that nobody collects: %w", err)
	}
	return append(items, over...), nil
}

func scanDueDelivery(r row) (d engine.DueDelivery, err error) {
	return d, r.Scan(&d.ID, &d.Consumer, orEmpty{&d.SecretID})
}

// DueTo returns deliveries to one consumer whose time has come, at most limit, the
// longest due first.
func (tx *Tx) DueTo(ctx context.Context, consumer string, now time.Time, limit int) ([]engine.DueDelivery, error) {
	items, err := all(ctx, tx, scanDueDelivery, `SELECT id, consumer, secret_id FROM deliveries WHERE consumer = $1 AND next_attempt_at <= $2
		AND state = 'pending' AND (lease_until IS NULL OR lease_until <= $2) ORDER BY next_attempt_at, id`+atMost("$3"), consumer, micros(now), limit)
	if err != nil {
		return nil, fmt.Errorf("looking for deliveries to %s that are due: %w", consumer, err)
	}
	return items, nil
}

// Beginning returns the secrets that are due and not occupied, except by a proposal that
// gives way (see engine.Proposed), the rotations whose window has opened, and the secrets
// whose consumers are to be told of a rotation: at most limit of each, the longest due first. These are looked for by their time, since more may wait
// for windows than are due.
func (tx *Tx) Beginning(ctx context.Context, now time.Time, limit int) (engine.Due, error) {
	const secrets = `SELECT s.id FROM secrets s WHERE s.next_due_at <= $1 AND s.state = 'active'
		AND NOT EXISTS (SELECT 1 FROM rotations r WHERE r.secret_id = s.id AND r.occupies = 1
			AND NOT (r.waiting_for = 'approval' AND r.record LIKE '%"actor":"keybroker"%' AND r.record LIKE '%"adopts":{%'))
		ORDER BY s.next_due_at, s.id`
	const opened = `SELECT id FROM rotations WHERE next_at <= $1 AND ended_at IS NULL AND waiting_for || '' = 'window' ORDER BY next_at, id`
	var due engine.Due
	const notices = "SELECT id FROM secrets WHERE notice_at <= $1 AND state = 'active' ORDER BY notice_at, id"
	err := tx.due(ctx, now, limit, dueOf{&due.Secrets, secrets}, dueOf{&due.Rotations, opened}, dueOf{&due.Notices, notices})
	return due, err
}

type dueOf struct {
	ids   *[]string
	query string
}

func (tx *Tx) due(ctx context.Context, now time.Time, limit int, queries ...dueOf) error {
	for _, of := range queries {
		ids, err := all(ctx, tx, scanString, of.query+atMost("$2"), micros(now), limit)
		if err != nil {
			return fmt.Errorf("looking for what is due: %w", err)
		}
		*of.ids = ids
	}
	return nil
}

// Waiting returns the rotations and retirements that wait for what is named. It
// reads every retirement that goes on.
func (tx *Tx) Waiting(ctx context.Context, waitingFor string) (w engine.Due, err error) {
	pattern := `%"waiting_for":"` + waitingFor + `"%`
	if w.Rotations, err = all(ctx, tx, scanString, "SELECT id FROM rotations WHERE waiting_for = $1 ORDER BY id", waitingFor); err == nil {
		w.Retirements, err = all(ctx, tx, scanString, "SELECT id FROM retirements WHERE next_at IS NOT NULL AND record LIKE $1 ORDER BY id", pattern)
	}
	if err != nil {
		return engine.Due{}, fmt.Errorf("looking for what waits for %s: %w", waitingFor, err)
	}
	return w, nil
}
