package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// sending reads with one query what an attempt at delivery $1 goes by at the time $2.
var sending = "SELECT " + deliveryColumns + `, c.disabled_at, c.why, c.endpoint, ` + quarantinedAt("d.consumer") + `, v.number, v.rotation_id, v.published_at, v.sealed,
		p.number, p.overlap_until, t.record, s.definition,
		EXISTS (SELECT 1 FROM deliveries n WHERE n.secret_id = d.secret_id AND n.generation > d.generation AND n.consumer = d.consumer AND ` +
	strings.ReplaceAll(makesCurrent, "d.event", "n.event") + `),
		EXISTS (SELECT 1 FROM deliveries o WHERE o.secret_id = d.secret_id AND o.consumer = d.consumer AND o.id <> d.id AND o.lease_until > $2)` +
	deliveryTables + `
		LEFT JOIN consumers c ON c.name = d.consumer
		LEFT JOIN versions v ON v.secret_id = d.secret_id AND v.number = d.version
		LEFT JOIN versions p ON p.secret_id = d.secret_id AND p.stage <> 'retired' AND p.stage = 'previous' AND p.number <> d.version
		LEFT JOIN retirements t ON t.secret_id = d.secret_id AND t.version = d.version
	WHERE d.id = $1 ORDER BY p.number LIMIT 1`

// Sending returns a delivery and what else an attempt at it goes by.
func (tx *Tx) Sending(ctx context.Context, id string, now time.Time) (s engine.Sending, err error) {
	var why, endpoint, rotationID *string
	var number, previous *int
	var overlapUntil time.Time
	var record, definition []byte
	d := &s.Delivery
	err = tx.q.queryRow(ctx, sending, id, micros(now)).Scan(&d.ID, orEmpty{&d.SecretID}, &d.Ref.Tenant, orEmpty{&d.Ref.Name}, &d.Consumer, &d.Version, &d.Generation,
		&d.Event, &d.Trigger, &d.Reason, &d.State, &d.Instances, &d.Attempts, &d.Error, instant{&d.DueAt}, instant{&d.CreatedAt}, instant{&d.Since}, instant{&d.NextAttemptAt},
		instant{&d.Lease}, instant{&d.ReceivedAt}, instant{&d.FetchedAt}, instant{&d.AppliedAt}, &d.Revision,
		instant{&s.Consumer.DisabledAt}, &why, &endpoint, instant{&s.Consumer.QuarantinedAt}, &number, &rotationID, instant{&s.Version.PublishedAt}, &s.Version.Sealed,
		&previous, instant{&overlapUntil}, &record, &definition, &s.Outdated, &s.InFlight)
	if err != nil {
		return engine.Sending{}, fmt.Errorf("reading delivery %s: %w", id, err)
	}
	s.Consumer.Name = d.Consumer
	if why != nil {
		s.Consumer.Why, s.Consumer.Endpoint = *why, *endpoint
	}
	if number != nil {
		s.Version.SecretID, s.Version.Ref, s.Version.Number, s.Version.RotationID = d.SecretID, d.Ref, *number, *rotationID
	}
	if previous != nil {
		s.Previous = &rotation.Version{SecretID: d.SecretID, Ref: d.Ref, Number: *previous, Stage: rotation.StagePrevious, OverlapUntil: overlapUntil}
	}
	if definition != nil {
		var of struct{ Consumers []string }
		if err := (fromJSON{&of}).Scan(definition); err != nil {
			return engine.Sending{}, fmt.Errorf("reading delivery %s: %w", id, err)
		}
		s.TakenOut = !slices.Contains(of.Consumers, d.Consumer)
	}
	if record != nil {
		var t rotation.Retirement
		if err := (fromJSON{&t}).Scan(record); err != nil {
			return engine.Sending{}, fmt.Errorf("reading delivery %s: %w", id, err)
		}
		s.Revoking = !t.RevokeBegunAt.IsZero()
	}
	return s, nil
}

// LeaseDelivery is SaveDelivery for an attempt that begins at the time now: the feed of
// changes tells of what comes of it. ErrConflict also if one at another delivery of the
// same consumer and secret is under way; of those who begin at once, one does.
func (tx *Tx) LeaseDelivery(ctx context.Context, d *rotation.Delivery, now time.Time) error {
	var err error
	if d.SecretID != "" { // the others' leases are not seen before they are committed
		err = tx.Serialize(ctx, "push "+d.SecretID+" "+d.Consumer)
	}
	if err == nil {
		err = tx.swap(ctx, &d.Revision, `UPDATE deliveries SET attempts = $1, lease_until = $2, revision = revision + 1 WHERE id = $3 AND revision = $4
			AND NOT EXISTS (SELECT 1 FROM deliveries o WHERE o.secret_id = deliveries.secret_id AND o.consumer = deliveries.consumer AND o.id <> $3 AND o.lease_until > $5)`,
			d.Attempts, nullMicros(d.Lease), d.ID, d.Revision, micros(now))
	}
	if err != nil {
		return fmt.Errorf("beginning an attempt at delivery %s: %w", d.ID, err)
	}
	return nil
}

// HeldBy tells whether a rotation is in its overlap and waits there for what is named.
func (tx *Tx) HeldBy(ctx context.Context, rotationID, waitingFor string) (held bool, err error) {
	err = tx.q.queryRow(ctx, "SELECT EXISTS (SELECT 1 FROM rotations WHERE id = $1 AND state = $2 AND waiting_for = $3)", rotationID, rotation.Overlap, waitingFor).Scan(&held)
	if err != nil {
		return false, fmt.Errorf("looking what rotation %s waits for: %w", rotationID, err)
	}
	return held, nil
}
