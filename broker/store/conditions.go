package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

var _ engine.Alerter = (*Tx)(nil)

// What may be worth an alert. These queries are made every few seconds, so each has
// an index of its own that holds only what is in trouble; and each gives the oldest
// first, so that what is beyond the limit hides nothing that was found before.

// TroubledRetirements returns retirements without a proof that somebody must know of:
// unconfirmed, resurrected and unprovable ones. Of the last, which may stay so for
// ever, those of which an alert of the kind that is over has been raised are left out.
func (tx *Tx) TroubledRetirements(ctx context.Context, kind string, limit int) ([]RetirementOf, error) {
	items, err := all(ctx, tx, scanRetirementOf, `SELECT t.record, t.revision, s.tenant, s.name
		FROM retirements t JOIN secrets s ON s.id = t.secret_id
		WHERE t.state IN ('unconfirmed', 'resurrected', 'unprovable')
			AND (t.state <> 'unprovable' OR NOT EXISTS (SELECT 1 FROM alerts a
				WHERE a.kind = $1 AND a.subject = t.id AND a.resolved_at IS NOT NULL))
		ORDER BY t.requested_at, t.id`+atMost("$2"), kind, limit)
	if err != nil {
		return nil, fmt.Errorf("looking for unproven retirements: %w", err)
	}
	return items, nil
}

// StuckDeliveries returns the deliveries that were given up, and those that have been
// pending since before a time; not those that a newer one has taken the place of.
func (tx *Tx) StuckDeliveries(ctx context.Context, before time.Time, limit int) ([]rotation.Delivery, error) {
	const newest = ` AND NOT EXISTS (SELECT 1 FROM deliveries n
		WHERE n.secret_id = d.secret_id AND n.generation > d.generation AND n.consumer = d.consumer) ORDER BY d.created_at, d.id`
	dead, err := all(ctx, tx, scanDelivery, "SELECT "+deliveryColumns+deliveryTables+" WHERE d.state = 'dead'"+newest+atMost("$1"), limit)
	if err != nil {
		return nil, fmt.Errorf("looking for dead deliveries: %w", err)
	}
	slow, err := all(ctx, tx, scanDelivery, "SELECT "+deliveryColumns+deliveryTables+" WHERE d.state = 'pending' AND d.created_at < $1"+
		newest+atMost("$2"), micros(before), limit)
	if err != nil {
		return nil, fmt.Errorf("looking for slow deliveries: %w", err)
	}
	return append(dead, slow...), nil
}

// HeldOverlaps returns the rotations whose overlap waits for acknowledgements.
func (tx *Tx) HeldOverlaps(ctx context.Context, limit int) ([]RotationOf, error) {
	pattern := `%"waiting_for":"` + rotation.WaitAcknowledgment + `"%`
	items, err := all(ctx, tx, scanRotationOf, `SELECT r.record, r.revision, s.tenant, s.name
		FROM rotations r JOIN secrets s ON s.id = r.secret_id
		WHERE r.ended_at IS NULL AND r.state = 'overlap' AND r.record LIKE $1
		ORDER BY r.started_at, r.id`+atMost("$2"), pattern, limit)
	if err != nil {
		return nil, fmt.Errorf("looking for overlaps that wait: %w", err)
	}
	return items, nil
}

// FailedRotations returns the rotations that failed and were the last of their secret.
func (tx *Tx) FailedRotations(ctx context.Context, limit int) ([]RotationOf, error) {
	items, err := all(ctx, tx, scanRotationOf, `SELECT r.record, r.revision, s.tenant, s.name
		FROM rotations r JOIN secrets s ON s.id = r.secret_id
		WHERE r.state = 'failed' AND NOT EXISTS (SELECT 1 FROM rotations n
			WHERE n.secret_id = r.secret_id AND (n.started_at, n.id) > (r.started_at, r.id))
		ORDER BY r.started_at, r.id`+atMost("$1"), limit)
	if err != nil {
		return nil, fmt.Errorf("looking for failed rotations: %w", err)
	}
	return items, nil
}

// Astray is a placement that is out of step.
type Astray struct {
	rotation.Placement
	// Since is when it should have been brought in step: its drift was found, or the
	// secret's current version published.
	Since time.Time
}

// AstrayPlacements returns what backends that are still in use do not hold as they should.
func (tx *Tx) AstrayPlacements(ctx context.Context, limit int) ([]Astray, error) {
	items, err := all(ctx, tx, scanAstray, `SELECT p.record, p.revision, s.tenant, s.name, v.published_at
		FROM placements p JOIN secrets s ON s.id = p.secret_id
			LEFT JOIN versions v ON v.secret_id = s.id AND v.number = s.current
		WHERE p.state <> 'in_step' ORDER BY p.backend, p.state, p.id`+atMost("$1"), limit)
	if err != nil {
		return nil, fmt.Errorf("looking for placements out of step: %w", err)
	}
	return slices.DeleteFunc(items, func(a Astray) bool { return a.Role == rotation.RoleFormer }), nil
}

func scanAstray(r row) (a Astray, err error) {
	var revision int64
	err = r.Scan(fromJSON{&a.Placement}, &revision, &a.Ref.Tenant, &a.Ref.Name, instant{&a.Since})
	if a.Revision = revision; a.Drift != nil {
		a.Since = a.Drift.FoundAt
	}
	return a, err
}

// AddAlert implements engine.Alerter.
func (tx *Tx) AddAlert(ctx context.Context, kind, tenant, subject, text, next string) error {
	return tx.RaiseAlert(ctx, Raise{Kind: kind, Tenant: tenant, Subject: subject, Text: text, Next: next})
}
