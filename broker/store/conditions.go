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
// an index of its own that holds only what is in trouble; and each gives all of it, a
// row at a time: what a limit cut off would look as if it were over. Of a secret there
// is one in trouble, or one of each of its vaults or consumers.

// each hands the rows of a query on, one by one.
func each[T any](ctx context.Context, tx *Tx, what string, scan func(row) (T, error), take func(T), query string, args ...any) error {
	err := tx.q.query(ctx, func(r row) error {
		item, err := scan(r)
		if err == nil {
			take(item)
		}
		return err
	}, query, args...)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", what, err)
	}
	return nil
}

// TroubledRetirements gives those of which a revoked credential may be alive:
// unconfirmed and resurrected ones, the oldest first.
func (tx *Tx) TroubledRetirements(ctx context.Context, take func(RetirementOf)) error {
	return each(ctx, tx, "unproven retirements", scanRetirementOf, take, `SELECT t.record, t.revision, s.tenant, s.name
		FROM retirements t JOIN secrets s ON s.id = t.secret_id
		WHERE t.state IN ('unconfirmed', 'resurrected') ORDER BY t.requested_at, t.id`)
}

// StuckRemovals gives those of which the credential is disabled and its issuer keeps
// failing to remove it, the oldest first.
func (tx *Tx) StuckRemovals(ctx context.Context, take func(RetirementOf)) error {
	return each(ctx, tx, "removals that fail", scanRetirementOf, take, `SELECT t.record, t.revision, s.tenant, s.name
		FROM retirements t JOIN secrets s ON s.id = t.secret_id
		WHERE t.soaking = 2 ORDER BY t.requested_at, t.id`)
}

// StatesOfSubjects returns the states of the retirements that are the subjects of open
// alerts of a kind, by their ids.
func (tx *Tx) StatesOfSubjects(ctx context.Context, kind string) (map[string]rotation.RetirementState, error) {
	states := map[string]rotation.RetirementState{}
	err := tx.q.query(ctx, func(r row) error {
		var id string
		var state rotation.RetirementState
		err := r.Scan(&id, &state)
		states[id] = state
		return err
	}, "SELECT t.id, t.state FROM alerts a JOIN retirements t ON t.id = a.subject WHERE a.kind = $1 AND a.resolved_at IS NULL", kind)
	if err != nil {
		return nil, fmt.Errorf("looking at the subjects of alerts: %w", err)
	}
	return states, nil
}

// StuckDeliveries gives the deliveries that were given up, and those that have been
// pending since before a time, the oldest first; not those that a newer one has taken
// the place of, and only what the secret's definition still has told.
func (tx *Tx) StuckDeliveries(ctx context.Context, before time.Time, take func(rotation.Delivery)) error {
	const columns, which = "SELECT s.definition, " + deliveryColumns + deliveryTables + " WHERE s.state <> 'unmanaged' AND ", ` AND NOT EXISTS (SELECT 1 FROM deliveries n
		WHERE n.secret_id = d.secret_id AND n.generation > d.generation AND n.consumer = d.consumer) ORDER BY d.created_at, d.id`
	wanted := func(d deliveryUnder) {
		if slices.Contains(d.under.Consumers, d.Consumer) {
			take(d.Delivery)
		}
	}
	err := each(ctx, tx, "dead deliveries", scanDeliveryUnder, wanted, columns+"d.state = 'dead'"+which)
	if err != nil {
		return err
	}
	return each(ctx, tx, "slow deliveries", scanDeliveryUnder, wanted, columns+"d.state = 'pending' AND d.created_at < $1"+which, micros(before))
}

// UnreplacedDeliveries gives the deliveries of the current versions that replace compromised
// ones which have not arrived, the oldest first; only what the secret's definition still has
// told.
func (tx *Tx) UnreplacedDeliveries(ctx context.Context, take func(rotation.Delivery)) error {
	return each(ctx, tx, "replacements that have not arrived", scanDeliveryUnder, func(d deliveryUnder) {
		if slices.Contains(d.under.Consumers, d.Consumer) && !d.Satisfies(rotation.RequireReceived) {
			take(d.Delivery)
		}
	}, "SELECT s.definition, "+deliveryColumns+deliveryTables+` WHERE d.trigger_kind = 'emergency' AND d.state IN ('pending', 'dead')
		AND s.state <> 'unmanaged' AND d.generation = s.generation AND `+makesCurrent+" ORDER BY d.created_at, d.id")
}

// deliveryUnder is a delivery with what its secret's definition says by now.
type deliveryUnder struct {
	rotation.Delivery
	under rotation.Definition
}

func scanDeliveryUnder(r row) (d deliveryUnder, err error) {
	d.Delivery, err = scanDelivery(behind{r, fromJSON{&d.under}})
	return d, err
}

// behind is a row whose first column is somebody else's.
type behind struct {
	row
	first any
}

// Scan implements row.
func (b behind) Scan(into ...any) error { return b.row.Scan(append([]any{b.first}, into...)...) }

// HeldOverlaps gives the rotations whose overlap waits for acknowledgements, the
// oldest first.
func (tx *Tx) HeldOverlaps(ctx context.Context, take func(RotationOf)) error {
	pattern := `%"waiting_for":"` + rotation.WaitAcknowledgment + `"%`
	return each(ctx, tx, "overlaps that wait", scanRotationOf, take, `SELECT r.record, r.revision, s.tenant, s.name
		FROM rotations r JOIN secrets s ON s.id = r.secret_id
		WHERE r.ended_at IS NULL AND r.state = 'overlap' AND r.record LIKE $1
		ORDER BY r.started_at, r.id`, pattern)
}

// FailedRotations gives the rotations that failed and were the last of a secret that
// is still managed, the oldest first.
func (tx *Tx) FailedRotations(ctx context.Context, take func(RotationOf)) error {
	return each(ctx, tx, "failed rotations", scanRotationOf, take, `SELECT r.record, r.revision, s.tenant, s.name
		FROM rotations r JOIN secrets s ON s.id = r.secret_id
		WHERE r.state = 'failed' AND s.state <> 'unmanaged' AND NOT EXISTS (SELECT 1 FROM rotations n
			WHERE n.secret_id = r.secret_id AND (n.started_at, n.id) > (r.started_at, r.id))
		ORDER BY r.started_at, r.id`)
}

// EndingVersions gives the current versions of secrets that are still managed which end
// by themselves and have lived two thirds of their life, the next to end first.
func (tx *Tx) EndingVersions(ctx context.Context, now time.Time, take func(rotation.Version)) error {
	return each(ctx, tx, "versions that end", scanVersion, take, "SELECT "+versionColumns+versionTables+`WHERE v.stage = 'current' AND v.not_after IS NOT NULL
		AND v.created_at + 2 * v.not_after <= $1 AND s.state <> 'unmanaged' ORDER BY v.not_after, v.secret_id`, 3*micros(now))
}

// WaitingRotations gives the rotations that wait for what is named, the oldest first.
func (tx *Tx) WaitingRotations(ctx context.Context, waitingFor string, take func(RotationOf)) error {
	return each(ctx, tx, "rotations that wait", scanRotationOf, take, `SELECT r.record, r.revision, s.tenant, s.name
		FROM rotations r JOIN secrets s ON s.id = r.secret_id
		WHERE r.waiting_for = $1 ORDER BY r.id`, waitingFor)
}

// Astray is a placement that is out of step.
type Astray struct {
	rotation.Placement
	// Since is when it should have been brought in step: its drift was found, or the
	// secret's current version published.
	Since time.Time
}

// AstrayPlacements gives what backends that are still in use do not hold as they should.
func (tx *Tx) AstrayPlacements(ctx context.Context, take func(Astray)) error {
	return each(ctx, tx, "placements out of step", scanAstray, func(a Astray) {
		if a.Role != rotation.RoleFormer {
			take(a)
		}
	}, `SELECT p.record, p.revision, s.tenant, s.name, v.published_at
		FROM placements p JOIN secrets s ON s.id = p.secret_id
			LEFT JOIN versions v ON v.secret_id = s.id AND v.number = s.current
		WHERE p.state <> 'in_step' ORDER BY p.backend, p.state, p.id`)
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
