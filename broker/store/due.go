package store

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/rotation/engine"
)

// Due returns what should be looked at by now and is not leased, at most limit
// of each, the longest due first.
func (tx *Tx) Due(ctx context.Context, now time.Time, limit int) (engine.Due, error) {
	const (
		secrets = `SELECT s.id FROM secrets s WHERE s.next_due_at <= $1 AND s.state = 'active'
			AND NOT EXISTS (SELECT 1 FROM rotations r WHERE r.secret_id = s.id AND r.occupies = 1)
			ORDER BY s.next_due_at, s.id`
		rotations = `SELECT id FROM rotations WHERE next_at <= $1 AND ended_at IS NULL
			AND (lease_until IS NULL OR lease_until <= $1) ORDER BY next_at, id`
		retirements = `SELECT id FROM retirements WHERE next_at <= $1
			AND (lease_until IS NULL OR lease_until <= $1) ORDER BY next_at, id`
		deliveries = `SELECT id FROM deliveries WHERE next_attempt_at <= $1 AND state = 'pending'
			AND (lease_until IS NULL OR lease_until <= $1) ORDER BY next_attempt_at, id`
		placements = `SELECT id FROM placements WHERE next_at <= $1
			AND (lease_until IS NULL OR lease_until <= $1) ORDER BY next_at, id`
	)
	var due engine.Due
	for _, of := range []struct {
		ids   *[]string
		query string
	}{{&due.Secrets, secrets}, {&due.Rotations, rotations}, {&due.Retirements, retirements}, {&due.Deliveries, deliveries}, {&due.Placements, placements}} {
		ids, err := all(ctx, tx, scanString, of.query+atMost("$2"), micros(now), limit)
		if err != nil {
			return engine.Due{}, fmt.Errorf("looking for what is due: %w", err)
		}
		*of.ids = ids
	}
	return due, nil
}

// Waiting returns the rotations and retirements that wait for what is named. It
// reads every record that is under way.
func (tx *Tx) Waiting(ctx context.Context, waitingFor string) (w engine.Due, err error) {
	pattern := `%"waiting_for":"` + waitingFor + `"%`
	if w.Rotations, err = all(ctx, tx, scanString, "SELECT id FROM rotations WHERE ended_at IS NULL AND record LIKE $1 ORDER BY id", pattern); err == nil {
		w.Retirements, err = all(ctx, tx, scanString, "SELECT id FROM retirements WHERE next_at IS NOT NULL AND record LIKE $1 ORDER BY id", pattern)
	}
	if err != nil {
		return engine.Due{}, fmt.Errorf("looking for what waits for %s: %w", waitingFor, err)
	}
	return w, nil
}
