package store

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

const deliveryColumns = `d.id, d.secret_id, s.tenant, s.name, d.consumer, d.version, d.generation, d.event, d.trigger_kind, d.reason,
	d.state, d.attempts, d.error, d.created_at, d.next_attempt_at, d.lease_until, d.received_at, d.applied_at, d.revision`

const deliveryTables = " FROM deliveries d JOIN secrets s ON s.id = d.secret_id"

func scanDelivery(r row) (d rotation.Delivery, err error) {
	err = r.Scan(&d.ID, &d.SecretID, &d.Ref.Tenant, &d.Ref.Name, &d.Consumer, &d.Version, &d.Generation, &d.Event, &d.Trigger, &d.Reason,
		&d.State, &d.Attempts, &d.Error, instant{&d.CreatedAt}, instant{&d.NextAttemptAt}, instant{&d.Lease},
		instant{&d.ReceivedAt}, instant{&d.AppliedAt}, &d.Revision)
	return d, err
}

// AddDelivery inserts d as pending at revision 1 and marks the older pending
// deliveries of the same consumer and secret as superseded. An attempt at one of
// those that is under way keeps its lease (see InFlight) and loses its swap.
func (tx *Tx) AddDelivery(ctx context.Context, d *rotation.Delivery) error {
	tenant, err := tx.tenantOf(ctx, d.SecretID)
	if err != nil {
		return fmt.Errorf("adding delivery %s: %w", d.ID, err)
	}
	older, err := all(ctx, tx, scanString, `UPDATE deliveries SET state = $1, next_attempt_at = NULL, revision = revision + 1
		WHERE secret_id = $2 AND consumer = $3 AND generation < $4 AND state = 'pending' RETURNING id`,
		rotation.DeliverySuperseded, d.SecretID, d.Consumer, d.Generation)
	if err != nil {
		return fmt.Errorf("superseding deliveries to %s: %w", d.Consumer, err)
	}
	for _, id := range older {
		tx.publish(ChangeDelivery, id, d.SecretID)
	}
	err = tx.insert(ctx, `INSERT INTO deliveries (id, tenant, secret_id, consumer, version, generation, event, trigger_kind, reason,
			state, attempts, error, created_at, next_attempt_at, lease_until, received_at, applied_at, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 1) ON CONFLICT DO NOTHING`,
		d.ID, tenant, d.SecretID, d.Consumer, d.Version, d.Generation, d.Event, d.Trigger, d.Reason,
		rotation.DeliveryPending, d.Attempts, d.Error, micros(d.CreatedAt), nullMicros(d.NextAttemptAt), nullMicros(d.Lease),
		nullMicros(d.ReceivedAt), nullMicros(d.AppliedAt))
	if err != nil {
		return fmt.Errorf("adding delivery %s: %w", d.ID, err)
	}
	d.State, d.Revision = rotation.DeliveryPending, 1
	tx.publish(ChangeDelivery, d.ID, d.SecretID)
	return nil
}

// Delivery returns a delivery by its id.
func (tx *Tx) Delivery(ctx context.Context, id string) (rotation.Delivery, error) {
	d, err := scanDelivery(tx.q.queryRow(ctx, "SELECT "+deliveryColumns+deliveryTables+" WHERE d.id = $1"+tx.lock("d"), id))
	if err != nil {
		return rotation.Delivery{}, fmt.Errorf("reading delivery %s: %w", id, err)
	}
	return d, nil
}

// SaveDelivery compares and swaps; what it is about never changes.
func (tx *Tx) SaveDelivery(ctx context.Context, d *rotation.Delivery) error {
	err := tx.swap(ctx, &d.Revision, `UPDATE deliveries SET state = $1, attempts = $2, error = $3,
			next_attempt_at = $4, lease_until = $5, received_at = $6, applied_at = $7, revision = revision + 1
		WHERE id = $8 AND revision = $9`,
		d.State, d.Attempts, d.Error,
		nullMicros(d.NextAttemptAt), nullMicros(d.Lease), nullMicros(d.ReceivedAt), nullMicros(d.AppliedAt), d.ID, d.Revision)
	if err != nil {
		return fmt.Errorf("saving delivery %s: %w", d.ID, err)
	}
	tx.publish(ChangeDelivery, d.ID, d.SecretID)
	return nil
}

// Deliveries returns those of one generation of a secret, by consumer.
func (tx *Tx) Deliveries(ctx context.Context, secretID string, generation int64) ([]rotation.Delivery, error) {
	items, err := all(ctx, tx, scanDelivery, "SELECT "+deliveryColumns+deliveryTables+
		" WHERE d.secret_id = $1 AND d.generation = $2 ORDER BY d.consumer, d.id", secretID, generation)
	if err != nil {
		return nil, fmt.Errorf("reading deliveries of %s: %w", secretID, err)
	}
	return items, nil
}

// InFlight tells whether an attempt at another delivery to the same consumer
// for the same secret is under way (its Lease is after now).
func (tx *Tx) InFlight(ctx context.Context, d rotation.Delivery, now time.Time) (busy bool, err error) {
	err = tx.q.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM deliveries
		WHERE secret_id = $1 AND consumer = $2 AND id <> $3 AND lease_until > $4)`,
		d.SecretID, d.Consumer, d.ID, micros(now)).Scan(&busy)
	if err != nil {
		return false, fmt.Errorf("looking for attempts at deliveries to %s: %w", d.Consumer, err)
	}
	return busy, nil
}

// DeliveryFilter chooses deliveries; what is empty matches all.
type DeliveryFilter struct {
	Tenant   string
	SecretID string
	Consumer string
	State    rotation.DeliveryState
}

// DeliveriesPage lists deliveries, the newest first.
func (tx *Tx) DeliveriesPage(ctx context.Context, by DeliveryFilter, p Page) ([]rotation.Delivery, string, error) {
	var f filter
	f.equal("d.tenant", by.Tenant)
	f.equal("d.secret_id", by.SecretID)
	f.equal("d.consumer", by.Consumer)
	f.equal("d.state", string(by.State))
	if err := f.before("d.created_at", "d.id", p); err != nil {
		return nil, "", fmt.Errorf("listing deliveries: %w", err)
	}
	items, err := all(ctx, tx, scanDelivery, "SELECT "+deliveryColumns+deliveryTables+f.where()+
		" ORDER BY d.created_at DESC, d.id DESC"+atMost(f.arg(p.limit()+1)), f.args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing deliveries: %w", err)
	}
	items, next := cut(items, p, func(d rotation.Delivery) string { return cursor(micros(d.CreatedAt), d.ID) })
	return items, next, nil
}
