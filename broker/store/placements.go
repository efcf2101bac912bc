package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/rotation"
)

const selectPlacements = "SELECT p.record, p.revision, s.tenant, s.name FROM placements p JOIN secrets s ON s.id = p.secret_id"

func scanPlacement(r row) (p rotation.Placement, err error) {
	var revision int64
	var tenant, name string
	err = r.Scan(fromJSON{&p}, &revision, &tenant, &name)
	p.Revision, p.Ref.Tenant, p.Ref.Name = revision, tenant, name
	return p, err
}

// Placement returns a placement by its id.
func (tx *Tx) Placement(ctx context.Context, id string) (rotation.Placement, error) {
	p, err := scanPlacement(tx.q.queryRow(ctx, selectPlacements+" WHERE p.id = $1"+tx.lock("p"), id))
	if err != nil {
		return rotation.Placement{}, fmt.Errorf("reading placement %s: %w", id, err)
	}
	return p, nil
}

// Placements returns what the vaults hold of a secret, ordered by backend.
func (tx *Tx) Placements(ctx context.Context, secretID string) ([]rotation.Placement, error) {
	items, err := all(ctx, tx, scanPlacement, selectPlacements+" WHERE p.secret_id = $1 ORDER BY p.backend"+tx.lock("p"), secretID)
	if err != nil {
		return nil, fmt.Errorf("reading placements of %s: %w", secretID, err)
	}
	return items, nil
}

// PlacementFilter chooses placements; what is empty matches all.
type PlacementFilter struct {
	Tenant   string
	SecretID string
	Backend  string
	State    rotation.PlacementState
	// OutOfStep chooses those that are behind or have drifted.
	OutOfStep bool
}

// PlacementsPage lists placements by their ids.
func (tx *Tx) PlacementsPage(ctx context.Context, by PlacementFilter, p Page) ([]rotation.Placement, string, error) {
	var f filter
	f.equal("p.tenant", by.Tenant)
	f.equal("p.secret_id", by.SecretID)
	f.equal("p.backend", by.Backend)
	f.equal("p.state", string(by.State))
	if by.OutOfStep {
		f.and("p.state <> $?", string(rotation.InStep))
	}
	var after string
	more, err := p.decode(&after)
	if err != nil {
		return nil, "", fmt.Errorf("listing placements: %w", err)
	}
	if more {
		f.and("p.id > $?", after)
	}
	items, err := all(ctx, tx, scanPlacement, selectPlacements+f.where()+" ORDER BY p.id"+atMost(f.arg(p.limit()+1)), f.args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing placements: %w", err)
	}
	items, next := cut(items, p, func(p rotation.Placement) string { return cursor(p.ID) })
	return items, next, nil
}

// PlacementCount is how many placements in one backend are in one state.
type PlacementCount struct {
	Backend string
	State   rotation.PlacementState
	Count   int
}

// CountPlacements counts those that are not in step, by backend and state.
func (tx *Tx) CountPlacements(ctx context.Context) ([]PlacementCount, error) {
	items, err := all(ctx, tx, func(r row) (c PlacementCount, err error) {
		err = r.Scan(&c.Backend, &c.State, &c.Count)
		return c, err
	}, "SELECT backend, state, COUNT(*) FROM placements WHERE state <> 'in_step' GROUP BY backend, state ORDER BY backend, state")
	if err != nil {
		return nil, fmt.Errorf("counting placements: %w", err)
	}
	return items, nil
}

// AddPlacement inserts p at revision 1; ErrConflict if the secret has one in that
// backend.
func (tx *Tx) AddPlacement(ctx context.Context, p *rotation.Placement) error {
	tenant, err := tx.tenantOf(ctx, p.SecretID)
	if err != nil {
		return fmt.Errorf("adding a placement in %s: %w", p.Backend, err)
	}
	record := *p
	record.Revision = 1
	err = tx.insert(ctx, `INSERT INTO placements (id, tenant, secret_id, backend, state, record, next_at, lease_until, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1) ON CONFLICT DO NOTHING`,
		p.ID, tenant, p.SecretID, p.Backend, p.State(), asJSON{record}, nullMicros(p.NextAt), lease(p.Intent))
	if err != nil {
		return fmt.Errorf("adding a placement in %s: %w", p.Backend, err)
	}
	p.Revision = 1
	tx.publish(ChangePlacement, p.ID, p.SecretID)
	return nil
}

// SavePlacement compares and swaps.
func (tx *Tx) SavePlacement(ctx context.Context, p *rotation.Placement) error {
	record := *p
	record.Revision++
	err := tx.swap(ctx, &p.Revision, `UPDATE placements SET state = $1, record = $2, next_at = $3, lease_until = $4, revision = revision + 1
		WHERE id = $5 AND revision = $6`, p.State(), asJSON{record}, nullMicros(p.NextAt), lease(p.Intent), p.ID, p.Revision)
	if err != nil {
		return fmt.Errorf("saving placement %s: %w", p.ID, err)
	}
	tx.publish(ChangePlacement, p.ID, p.SecretID)
	return nil
}

// RemovePlacement deletes the row, if it is as it was read.
func (tx *Tx) RemovePlacement(ctx context.Context, p *rotation.Placement) error {
	n, err := tx.t.exec(ctx, "DELETE FROM placements WHERE id = $1 AND revision = $2", p.ID, p.Revision)
	if err == nil && n == 0 {
		err = ErrStale
	}
	if err != nil {
		return fmt.Errorf("removing placement %s: %w", p.ID, err)
	}
	tx.publish(ChangePlacement, p.ID, p.SecretID)
	return nil
}

func (tx *Tx) releasePlacements(ctx context.Context, owner string) error {
	held, err := all(ctx, tx, scanPlacement, selectPlacements+" WHERE p.lease_until IS NOT NULL")
	for i := range held {
		if release(held[i].Intent, owner, tx.now()) {
			err = errors.Join(err, tx.SavePlacement(ctx, &held[i]))
		}
	}
	return err
}
