package store

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// Inbox is what waits to be collected by one consumer. Where it is as it was, nothing has
// come.
type Inbox struct {
	Consumer  string
	Messages  int
	Revisions int64 // of all of them, added up
}

// ToCollect returns what waits to be collected now, by consumer: what has no time of its
// own, and was handed out to nobody or has come back. That of consumers that are disabled
// is among it.
func (tx *Tx) ToCollect(ctx context.Context, now time.Time) ([]Inbox, error) {
	inboxes, err := all(ctx, tx, func(r row) (i Inbox, err error) { return i, r.Scan(&i.Consumer, &i.Messages, &i.Revisions) },
		`SELECT consumer, COUNT(*), CAST(SUM(revision) AS BIGINT) FROM deliveries WHERE state = 'pending' AND next_attempt_at IS NULL
		AND (lease_until IS NULL OR lease_until <= $1) GROUP BY consumer ORDER BY consumer`, micros(now))
	if err != nil {
		return nil, fmt.Errorf("looking for what waits in inboxes: %w", err)
	}
	return inboxes, nil
}

// PendingTo returns what waits for an instance of a consumer and nobody is at, the oldest
// first: what comes after another one, or, if that is zero, from the beginning. What an
// instance has acknowledged waits for it no longer, but for the others; who has no name
// is given nothing that anybody has.
func (tx *Tx) PendingTo(ctx context.Context, consumer, instance string, now time.Time, after rotation.Delivery, limit int) ([]rotation.Delivery, error) {
	items, err := all(ctx, tx, scanDelivery, "SELECT "+deliveryColumns+deliveryTables+` WHERE d.consumer = $1 AND d.state = 'pending'
		AND (d.lease_until IS NULL OR d.lease_until <= $2) AND (d.created_at, d.id) > ($3, $4)
		AND (d.received_at IS NULL OR $5 <> '' AND NOT EXISTS (SELECT 1 FROM delivery_acks a WHERE a.delivery_id = d.id AND a.instance = $5))
		ORDER BY d.created_at, d.id`+atMost("$6"), consumer, micros(now), micros(after.CreatedAt), after.ID, instance, limit)
	if err != nil {
		return nil, fmt.Errorf("reading what waits for %s: %w", consumer, err)
	}
	return items, nil
}
