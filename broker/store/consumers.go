package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// Waiting is what a consumer has not got yet.
type Waiting struct {
	Consumer string
	Count    int       // of pending deliveries
	Since    time.Time // the oldest was made
	Next     time.Time // attempt at any of them; zero: they are collected, or held
	Error    string    // of an attempt at one of them; empty: none has failed
}

// WaitingDeliveries tells what waits for whom, by consumer: those for whom nothing does
// are left out.
func (tx *Tx) WaitingDeliveries(ctx context.Context) ([]Waiting, error) {
	items, err := all(ctx, tx, func(r row) (w Waiting, err error) {
		return w, r.Scan(&w.Consumer, &w.Count, instant{&w.Since}, instant{&w.Next}, &w.Error)
	}, `SELECT consumer, COUNT(*), MIN(created_at), MIN(next_attempt_at), MAX(error) FROM deliveries WHERE state = 'pending'
		GROUP BY consumer ORDER BY consumer`)
	if err != nil {
		return nil, fmt.Errorf("counting what waits for consumers: %w", err)
	}
	return items, nil
}

// LatestUses returns, for each consumer, the newest delivery that made a version of the
// secret current and that all its instances use, or its role has fetched, by consumer.
func (tx *Tx) LatestUses(ctx context.Context, secretID string) ([]rotation.Delivery, error) {
	used := makesCurrent + " AND COALESCE(d.applied_at, d.fetched_at) IS NOT NULL"
	items, err := all(ctx, tx, scanDelivery, "SELECT "+deliveryColumns+deliveryTables+" WHERE d.secret_id = $1 AND "+used+
		` AND NOT EXISTS (SELECT 1 FROM deliveries n WHERE n.secret_id = d.secret_id AND n.consumer = d.consumer
			AND (n.generation, n.id) > (d.generation, d.id) AND `+strings.ReplaceAll(used, "d.", "n.")+") ORDER BY d.consumer", secretID)
	if err != nil {
		return nil, fmt.Errorf("reading what the consumers of %s use: %w", secretID, err)
	}
	return items, nil
}
