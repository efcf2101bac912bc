package store

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// ConsumerRead is that a consumer's role has read a version of a secret.
type ConsumerRead struct {
	SecretID string
	Consumer string
	Version  int
	FirstAt  time.Time
	LastAt   time.Time // as far as it was noted: see NoteRead
}

// NoteRead keeps that a consumer read a version at a time, beside what is kept of it.
// It is idempotent, and publishes no change: who reads changes nothing.
func (tx *Tx) NoteRead(ctx context.Context, secretID, consumer string, version int, at time.Time) error {
	err := tx.execOnly(ctx, `INSERT INTO consumer_reads (secret_id, consumer, version, first_at, last_at) VALUES ($1, $2, $3, $4, $4)
		ON CONFLICT (secret_id, consumer, version) DO UPDATE SET last_at = excluded.last_at WHERE excluded.last_at > consumer_reads.last_at`,
		secretID, consumer, version, micros(at))
	if err != nil {
		return fmt.Errorf("noting that %s has read version %d of %s: %w", consumer, version, secretID, err)
	}
	return nil
}

// ConsumerReads returns which versions of a secret its consumers have read, by consumer,
// the one read last first.
func (tx *Tx) ConsumerReads(ctx context.Context, secretID string) ([]ConsumerRead, error) {
	reads, err := all(ctx, tx, func(r row) (c ConsumerRead, err error) {
		c.SecretID = secretID
		return c, r.Scan(&c.Consumer, &c.Version, instant{&c.FirstAt}, instant{&c.LastAt})
	}, "SELECT consumer, version, first_at, last_at FROM consumer_reads WHERE secret_id = $1 ORDER BY consumer, last_at DESC, version DESC", secretID)
	if err != nil {
		return nil, fmt.Errorf("reading who has read %s: %w", secretID, err)
	}
	return reads, nil
}

// PruneReads forgets reads from before a time of versions that are retired.
func (tx *Tx) PruneReads(ctx context.Context, before time.Time) error {
	err := tx.execOnly(ctx, `DELETE FROM consumer_reads WHERE last_at < $1 AND EXISTS (SELECT 1 FROM versions v
		WHERE v.secret_id = consumer_reads.secret_id AND v.number = consumer_reads.version AND v.stage = $2)`, micros(before), rotation.StageRetired)
	if err != nil {
		return fmt.Errorf("pruning reads: %w", err)
	}
	return nil
}
