package store

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// Serialize keeps every other transaction that asks for the same key waiting until this
// one ends. Two that ask for several keys in a different order may collide.
func (tx *Tx) Serialize(ctx context.Context, key string) error {
	if err := tx.t.serialize(ctx, key); err != nil {
		return fmt.Errorf("waiting for %q: %w", key, err)
	}
	return nil
}

// Through returns the rotations that are through a gate and not yet beyond, other than
// one of a secret, at most as many as it has room for; who waits for a person's value
// takes none of a policy's. CROSS JOIN has SQLite begin with
// the table that is named first: there are few secrets of one pair, and few rotations
// under way.
func (tx *Tx) Through(ctx context.Context, g engine.Gate, exceptSecretID string) (through []string, err error) {
	if g.Kind == rotation.WaitPair {
		through, err = all(ctx, tx, scanString, `SELECT r.id FROM secrets s CROSS JOIN rotations r
			WHERE s.tenant = $1 AND s.pair = $2 AND s.pair <> '' AND s.id <> $3
			AND r.secret_id = s.id AND r.occupies = 1 AND r.state <> 'queued' ORDER BY r.id`+atMost("$4"), g.Tenant, g.Pair, exceptSecretID, g.Room)
	} else {
		through, err = all(ctx, tx, scanString, `SELECT r.id FROM rotations r CROSS JOIN secrets s
			WHERE r.state IN ('minting', 'staging', 'verifying', 'publishing') AND (r.waiting_for IS NULL OR r.waiting_for <> 'value')
			AND s.id = r.secret_id AND s.policy = $1 AND s.id <> $2`+atMost("$3"), g.Policy, exceptSecretID, g.Room)
	}
	if err != nil {
		return nil, fmt.Errorf("looking who is rotating: %w", err)
	}
	return through, nil
}

// Waiters returns the rotations that stand at a gate, the oldest first, at most limit: all,
// or those older than a rotation. Ids are in the order of time.
func (tx *Tx) Waiters(ctx context.Context, g engine.Gate, olderThan string, limit int) (waiting []string, err error) {
	if g.Kind == rotation.WaitPair {
		waiting, err = all(ctx, tx, scanString, `SELECT r.id FROM secrets s CROSS JOIN rotations r
			WHERE s.tenant = $1 AND s.pair = $2 AND s.pair <> ''
			AND r.secret_id = s.id AND r.occupies = 1 AND r.waiting_for = 'pair' AND ($3 = '' OR r.id < $3) ORDER BY r.id`+atMost("$4"), g.Tenant, g.Pair, olderThan, limit)
	} else {
		waiting, err = all(ctx, tx, scanString, `SELECT r.id FROM rotations r CROSS JOIN secrets s
			WHERE r.waiting_for = 'concurrency' AND ($1 = '' OR r.id < $1)
			AND s.id = r.secret_id AND s.policy = $2 ORDER BY r.id`+atMost("$3"), olderThan, g.Policy, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("looking who waits: %w", err)
	}
	return waiting, nil
}
