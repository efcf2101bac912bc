package store

import (
	"context"
	"fmt"
	"time"
)

// ToCollect returns the consumers for whom something waits to be collected now, by name:
// what has no time of its own, and was handed out to nobody or has come back. Those of
// consumers that are disabled are among them.
func (tx *Tx) ToCollect(ctx context.Context, now time.Time) ([]string, error) {
	names, err := all(ctx, tx, scanString, `SELECT DISTINCT consumer FROM deliveries WHERE state = 'pending' AND next_attempt_at IS NULL
		AND (lease_until IS NULL OR lease_until <= $1) ORDER BY consumer`, micros(now))
	if err != nil {
		return nil, fmt.Errorf("looking for what waits in inboxes: %w", err)
	}
	return names, nil
}
