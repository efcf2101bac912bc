package store

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/rotation"
)

// AddAck records one instance's acknowledgement, unless it has said as much already.
func (tx *Tx) AddAck(ctx context.Context, a rotation.Ack) error {
	err := tx.execOnly(ctx, `INSERT INTO delivery_acks (delivery_id, instance, applied, at, by_whom) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (delivery_id, instance) DO UPDATE SET applied = excluded.applied, at = excluded.at, by_whom = excluded.by_whom
			WHERE excluded.applied AND NOT delivery_acks.applied`,
		a.DeliveryID, a.Instance, a.Applied, micros(a.At), a.By)
	if err != nil {
		return fmt.Errorf("recording an acknowledgement of delivery %s: %w", a.DeliveryID, err)
	}
	return nil
}

// Acks returns what the instances say of a delivery, the first to say it first.
func (tx *Tx) Acks(ctx context.Context, deliveryID string) ([]rotation.Ack, error) {
	acks, err := all(ctx, tx, func(r row) (a rotation.Ack, err error) {
		a.DeliveryID = deliveryID
		return a, r.Scan(&a.Instance, &a.Applied, instant{&a.At}, &a.By)
	}, "SELECT instance, applied, at, by_whom FROM delivery_acks WHERE delivery_id = $1 ORDER BY at, instance", deliveryID)
	if err != nil {
		return nil, fmt.Errorf("reading the acknowledgements of delivery %s: %w", deliveryID, err)
	}
	return acks, nil
}

// DropAcks forgets the acknowledgements of a delivery.
func (tx *Tx) DropAcks(ctx context.Context, deliveryID string) error {
	if err := tx.execOnly(ctx, "DELETE FROM delivery_acks WHERE delivery_id = $1", deliveryID); err != nil {
		return fmt.Errorf("forgetting the acknowledgements of delivery %s: %w", deliveryID, err)
	}
	return nil
}

// ConsumerState returns what is kept of a consumer beside its configuration: nothing, at
// first.
func (tx *Tx) ConsumerState(ctx context.Context, name string) (rotation.ConsumerState, error) {
	s := rotation.ConsumerState{Name: name}
	var why, endpoint *string
	const of = " FROM consumers WHERE name = $1), "
	err := tx.q.queryRow(ctx, "SELECT (SELECT disabled_at"+of+"(SELECT why"+of+"(SELECT endpoint"+of+quarantinedAt("$1"), name).
		Scan(instant{&s.DisabledAt}, &why, &endpoint, instant{&s.QuarantinedAt})
	if why != nil {
		s.Why, s.Endpoint = *why, *endpoint
	}
	if err != nil {
		return s, fmt.Errorf("reading the state of consumer %s: %w", name, err)
	}
	return s, nil
}

// quarantinedAt is since when the consumer whose name is in a column is in quarantine.
func quarantinedAt(column string) string {
	return "(SELECT MIN(q.at) FROM quarantines q WHERE q.kind = 'consumer' AND q.name = " + column + " AND q.lifted_at IS NULL)"
}

// SaveConsumerState stores it, but for its quarantine; the last one counts.
func (tx *Tx) SaveConsumerState(ctx context.Context, s rotation.ConsumerState) error {
	err := tx.execOnly(ctx, `INSERT INTO consumers (name, disabled_at, why, endpoint) VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO UPDATE SET disabled_at = excluded.disabled_at, why = excluded.why, endpoint = excluded.endpoint`,
		s.Name, nullMicros(s.DisabledAt), s.Why, s.Endpoint)
	if err != nil {
		return fmt.Errorf("saving the state of consumer %s: %w", s.Name, err)
	}
	return nil
}

// ConsumerStates returns what is kept of all consumers, by name.
func (tx *Tx) ConsumerStates(ctx context.Context) ([]rotation.ConsumerState, error) {
	states, err := all(ctx, tx, func(r row) (s rotation.ConsumerState, err error) {
		return s, r.Scan(&s.Name, instant{&s.DisabledAt}, &s.Why, &s.Endpoint, instant{&s.QuarantinedAt})
	}, "SELECT c.name, c.disabled_at, c.why, c.endpoint, "+quarantinedAt("c.name")+` FROM consumers c
		UNION ALL SELECT q.name, NULL, '', '', MIN(q.at) FROM quarantines q WHERE q.kind = 'consumer' AND q.lifted_at IS NULL
			AND NOT EXISTS (SELECT 1 FROM consumers c WHERE c.name = q.name) GROUP BY q.name
		ORDER BY 1`)
	if err != nil {
		return nil, fmt.Errorf("reading the states of consumers: %w", err)
	}
	return states, nil
}
