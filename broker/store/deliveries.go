package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

const deliveryColumns = `d.id, d.secret_id, d.tenant, s.name, d.consumer, d.version, d.generation, d.event, d.trigger_kind, d.reason,
	d.state, d.instances, d.attempts, d.error, d.due_at, d.created_at, d.since, d.next_attempt_at, d.lease_until, d.received_at, d.fetched_at, d.applied_at, d.revision`

const deliveryTables = " FROM deliveries d LEFT JOIN secrets s ON s.id = d.secret_id"

func scanDelivery(r row) (d rotation.Delivery, err error) {
	err = r.Scan(&d.ID, orEmpty{&d.SecretID}, &d.Ref.Tenant, orEmpty{&d.Ref.Name}, &d.Consumer, &d.Version, &d.Generation, &d.Event, &d.Trigger, &d.Reason,
		&d.State, &d.Instances, &d.Attempts, &d.Error, instant{&d.DueAt}, instant{&d.CreatedAt}, instant{&d.Since}, instant{&d.NextAttemptAt}, instant{&d.Lease},
		instant{&d.ReceivedAt}, instant{&d.FetchedAt}, instant{&d.AppliedAt}, &d.Revision)
	return d, err
}

// quoted lists events for a query; their names are ours.
func quoted(events []rotation.Event) string {
	texts := make([]string, len(events))
	for i, e := range events {
		texts[i] = "'" + string(e) + "'"
	}
	return strings.Join(texts, ", ")
}

// makesCurrent is the condition that a delivery d tells of a new current version.
var makesCurrent = func() string {
	var events []rotation.Event
	for _, e := range rotation.Events() {
		if e.MakesCurrent() {
			events = append(events, e)
		}
	}
	return "d.event IN (" + quoted(events) + ")"
}()

// AddDelivery is AddDeliveries of one.
func (tx *Tx) AddDelivery(ctx context.Context, d *rotation.Delivery) error {
	return tx.AddDeliveries(ctx, []*rotation.Delivery{d})
}

// insertBy is how many deliveries one statement inserts: SQLite takes at most 32,766
// parameters, and one that is larger saves no more.
const insertBy = 50

// AddDeliveries inserts deliveries, to several consumers and of one event of one secret or
// of none, as pending at revision 1. It marks as superseded what still waits for the same
// consumers and secret, if it is of an older generation or, of the same version, the event
// replaces its. An attempt at one of those that is under way keeps its lease (see Sending)
// and loses its swap. Tenant is taken from the secret; that of EventTest is theirs.
func (tx *Tx) AddDeliveries(ctx context.Context, list []*rotation.Delivery) error {
	if len(list) == 0 {
		return nil
	}
	first := list[0]
	tenant := first.Ref.Tenant
	if first.SecretID == "" {
		if err := tx.execOnly(ctx, `UPDATE deliveries SET state = $1, next_attempt_at = NULL, revision = revision + 1
			WHERE consumer = $2 AND secret_id IS NULL AND state = 'pending'`, rotation.DeliverySuperseded, first.Consumer); err != nil {
			return fmt.Errorf("superseding tests of %s: %w", first.Consumer, err)
		}
	} else {
		var err error
		if tenant, err = tx.tenantOf(ctx, first.SecretID); err != nil {
			return fmt.Errorf("adding delivery %s: %w", first.ID, err)
		}
		if err := tx.supersede(ctx, list); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(list, insertBy) {
		if err := tx.insertDeliveries(ctx, tenant, some); err != nil {
			return fmt.Errorf("adding delivery %s: %w", some[0].ID, err)
		}
	}
	return nil
}

func (tx *Tx) insertDeliveries(ctx context.Context, tenant string, list []*rotation.Delivery) error {
	var query strings.Builder
	query.WriteString(`INSERT INTO deliveries (id, tenant, secret_id, consumer, version, generation, event, trigger_kind, reason,
		state, instances, attempts, error, due_at, created_at, since, next_attempt_at, lease_until, received_at, fetched_at, applied_at, revision) VALUES `)
	var args []any
	for i, d := range list {
		d.Instances = max(d.Instances, 1)
		if d.Since.IsZero() {
			d.Since = d.CreatedAt
		}
		row := []any{d.ID, tenant, nullText(d.SecretID), d.Consumer, d.Version, d.Generation, d.Event, d.Trigger, d.Reason,
			rotation.DeliveryPending, d.Instances, d.Attempts, d.Error, nullMicros(d.DueAt), micros(d.CreatedAt), micros(d.Since), nullMicros(d.NextAttemptAt), nullMicros(d.Lease),
			nullMicros(d.ReceivedAt), nullMicros(d.FetchedAt), nullMicros(d.AppliedAt), 1}
		for j := range row {
			separator := ", "
			switch {
			case j > 0:
			case i > 0:
				separator = "), ("
			default:
				separator = "("
			}
			fmt.Fprintf(&query, "%s$%d", separator, len(args)+j+1)
		}
		args = append(args, row...)
	}
	query.WriteString(") ON CONFLICT DO NOTHING")
	n, err := tx.t.exec(ctx, query.String(), args...)
	if err == nil && n < int64(len(list)) {
		err = errTaken
	}
	if err != nil {
		return err
	}
	for _, d := range list {
		d.State, d.Revision = rotation.DeliveryPending, 1
		tx.publish(ChangeDelivery, d.ID, d.SecretID)
	}
	return nil
}

func (tx *Tx) supersede(ctx context.Context, list []*rotation.Delivery) error {
	d := list[0]
	args := []any{rotation.DeliverySuperseded, d.SecretID, d.Generation}
	which := "generation < $3"
	if replaced := d.Event.Replaces(); len(replaced) > 0 {
		which = "(generation < $3 OR version = $4 AND event IN (" + quoted(replaced) + "))"
		args = append(args, d.Version)
	}
	consumers := make([]string, len(list))
	for i, d := range list {
		args = append(args, d.Consumer)
		consumers[i] = fmt.Sprintf("$%d", len(args))
	}
	older, err := all(ctx, tx, scanString, `UPDATE deliveries SET state = $1, next_attempt_at = NULL, revision = revision + 1
		WHERE secret_id = $2 AND state = 'pending' AND `+which+" AND consumer IN ("+strings.Join(consumers, ", ")+") RETURNING id", args...)
	if err != nil {
		return fmt.Errorf("superseding deliveries of %s: %w", d.SecretID, err)
	}
	for _, id := range older {
		tx.publish(ChangeDelivery, id, d.SecretID)
	}
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
			next_attempt_at = $4, lease_until = $5, received_at = $6, fetched_at = $7, applied_at = $8, since = $9, instances = $10, revision = revision + 1
		WHERE id = $11 AND revision = $12`,
		d.State, d.Attempts, d.Error,
		nullMicros(d.NextAttemptAt), nullMicros(d.Lease), nullMicros(d.ReceivedAt), nullMicros(d.FetchedAt), nullMicros(d.AppliedAt), micros(d.Since), d.Instances, d.ID, d.Revision)
	if err != nil {
		return fmt.Errorf("saving delivery %s: %w", d.ID, err)
	}
	tx.publish(ChangeDelivery, d.ID, d.SecretID)
	return nil
}

// Deliveries returns those that tell of what one generation of a secret made current, by
// consumer.
func (tx *Tx) Deliveries(ctx context.Context, secretID string, generation int64) ([]rotation.Delivery, error) {
	items, err := all(ctx, tx, scanDelivery, "SELECT "+deliveryColumns+deliveryTables+
		" WHERE d.secret_id = $1 AND d.generation = $2 AND "+makesCurrent+" ORDER BY d.consumer, d.id", secretID, generation)
	if err != nil {
		return nil, fmt.Errorf("reading deliveries of %s: %w", secretID, err)
	}
	return items, nil
}

// LastTold returns the newest delivery to a consumer that makes a version of the secret
// current: of a number or, if that is 0, of any. ErrNotFound if there is none.
func (tx *Tx) LastTold(ctx context.Context, secretID, consumer string, version int) (rotation.Delivery, error) {
	d, err := scanDelivery(tx.q.queryRow(ctx, "SELECT "+deliveryColumns+deliveryTables+` WHERE d.secret_id = $1 AND d.consumer = $2
		AND (d.version = $3 OR $3 = 0) AND `+makesCurrent+" ORDER BY d.generation DESC, d.id DESC LIMIT 1"+tx.lock("d"), secretID, consumer, version))
	if err != nil {
		return rotation.Delivery{}, fmt.Errorf("reading what %s was told: %w", consumer, err)
	}
	return d, nil
}

// WakeDeliveries makes what waits for a consumer due now. What waited without a time
// begins its schedule anew.
func (tx *Tx) WakeDeliveries(ctx context.Context, consumer string, now time.Time) error {
	err := tx.execOnly(ctx, `UPDATE deliveries SET since = CASE WHEN next_attempt_at IS NULL THEN $1 ELSE since END, next_attempt_at = $1, revision = revision + 1
		WHERE consumer = $2 AND state = 'pending' AND (next_attempt_at IS NULL OR next_attempt_at > $1)`, micros(now), consumer)
	if err != nil {
		return fmt.Errorf("waking deliveries to %s: %w", consumer, err)
	}
	return nil
}

// HoldDeliveries makes what waits for a consumer wait without a time.
func (tx *Tx) HoldDeliveries(ctx context.Context, consumer string) error {
	err := tx.execOnly(ctx, `UPDATE deliveries SET next_attempt_at = NULL, revision = revision + 1
		WHERE consumer = $1 AND state = 'pending' AND next_attempt_at IS NOT NULL`, consumer)
	if err != nil {
		return fmt.Errorf("holding deliveries to %s: %w", consumer, err)
	}
	return nil
}

// HeldConsumers are the names of those for whom something waits without a time.
func (tx *Tx) HeldConsumers(ctx context.Context) ([]string, error) {
	names, err := all(ctx, tx, scanString, "SELECT DISTINCT consumer FROM deliveries WHERE state = 'pending' AND next_attempt_at IS NULL ORDER BY consumer")
	if err != nil {
		return nil, fmt.Errorf("looking for consumers that are not told: %w", err)
	}
	return names, nil
}

// LatestDeliveries returns the newest delivery to each consumer that made a version of
// the secret current, by consumer.
func (tx *Tx) LatestDeliveries(ctx context.Context, secretID string) ([]rotation.Delivery, error) {
	items, err := all(ctx, tx, scanDelivery, "SELECT "+deliveryColumns+deliveryTables+" WHERE d.secret_id = $1 AND "+makesCurrent+
		` AND NOT EXISTS (SELECT 1 FROM deliveries n WHERE n.secret_id = d.secret_id AND n.consumer = d.consumer
			AND (n.generation, n.id) > (d.generation, d.id) AND `+strings.ReplaceAll(makesCurrent, "d.event", "n.event")+") ORDER BY d.consumer", secretID)
	if err != nil {
		return nil, fmt.Errorf("reading what the consumers of %s were told: %w", secretID, err)
	}
	return items, nil
}

// DeliveryFilter chooses deliveries; what is empty matches all.
type DeliveryFilter struct {
	Tenant   string
	SecretID string
	Consumer string
	Event    rotation.Event
	State    rotation.DeliveryState
}

// DeliveriesPage lists deliveries, the newest first.
func (tx *Tx) DeliveriesPage(ctx context.Context, by DeliveryFilter, p Page) ([]rotation.Delivery, string, error) {
	var f filter
	f.equal("d.tenant", by.Tenant)
	f.equal("d.secret_id", by.SecretID)
	f.equal("d.consumer", by.Consumer)
	f.equal("d.event", string(by.Event))
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
