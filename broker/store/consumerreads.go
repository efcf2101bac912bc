package store

import (
	"context"
	"fmt"
	"time"
)

// ConsumerRead is that a consumer's role has read a version of a secret.
type ConsumerRead struct {
	SecretID string
	Consumer string
	Version  int
	FirstAt  time.Time
	LastAt   time.Time // as far as it was noted: see NoteConsumerRead
}

// NoteConsumerRead keeps that a consumer read a version at a time, beside what is kept of
// it. It is idempotent, and publishes no change: who reads changes nothing.
func (tx *Tx) NoteConsumerRead(ctx context.Context, secretID, consumer string, version int, at time.Time) error {
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

// Told is that a version was sent to a consumer.
type Told struct {
	SecretID string
	Version  int
	Consumer string
	At       time.Time // when it was received; zero: it may have been sent, or handed out, and nobody said so
	SentAt   time.Time // at the earliest
}

const toldColumns = "SELECT d.secret_id, d.version, d.consumer, d.received_at, d.created_at FROM deliveries d "

func scanTold(r row) (t Told, err error) {
	return t, r.Scan(&t.SecretID, &t.Version, &t.Consumer, instant{&t.At}, instant{&t.SentAt})
}

// wasSent is the condition that an attempt at a delivery d was begun, which is recorded
// before it is made. One that was replayed counts anew, and was tried before.
const wasSent = "(d.attempts > 0 OR d.received_at IS NOT NULL OR d.since > d.created_at)"

// ToldOf returns to which consumers a version was sent as the current one, the latest
// first.
func (tx *Tx) ToldOf(ctx context.Context, secretID string, version int) ([]Told, error) {
	told, err := all(ctx, tx, scanTold, toldColumns+`WHERE d.secret_id = $1 AND d.version = $2 AND `+wasSent+" AND "+
		makesCurrent+" ORDER BY d.created_at DESC, d.id DESC", secretID, version)
	if err != nil {
		return nil, fmt.Errorf("reading who was sent version %d of %s: %w", version, secretID, err)
	}
	return told, nil
}

// ToldTo hands on which versions were sent to a consumer as current ones.
func (tx *Tx) ToldTo(ctx context.Context, consumer string, take func(Told)) error {
	return each(ctx, tx, "what a consumer was sent", scanTold, take, toldColumns+`WHERE d.consumer = $1 AND d.secret_id IS NOT NULL
		AND `+wasSent+" AND "+makesCurrent, consumer)
}
