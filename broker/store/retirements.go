package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

func scanRetirement(r row) (t rotation.Retirement, err error) {
	var revision int64
	err = r.Scan(fromJSON{&t}, &revision)
	t.Revision = revision
	return t, err
}

// RetirementOf is a retirement with the name of its secret.
type RetirementOf struct {
	rotation.Retirement
	Ref backends.Ref
}

func scanRetirementOf(r row) (t RetirementOf, err error) {
	var revision int64
	err = r.Scan(fromJSON{&t.Retirement}, &revision, &t.Ref.Tenant, &t.Ref.Name)
	t.Revision = revision
	return t, err
}

// Retirement returns a retirement by its id.
func (tx *Tx) Retirement(ctx context.Context, id string) (rotation.Retirement, error) {
	t, err := scanRetirement(tx.q.queryRow(ctx, "SELECT record, revision FROM retirements WHERE id = $1"+tx.lock("retirements"), id))
	if err != nil {
		return rotation.Retirement{}, fmt.Errorf("reading retirement %s: %w", id, err)
	}
	return t, nil
}

// RetirementOf returns the retirement of one version, or ErrNotFound.
func (tx *Tx) RetirementOf(ctx context.Context, secretID string, version int) (rotation.Retirement, error) {
	t, err := scanRetirement(tx.q.queryRow(ctx,
		"SELECT record, revision FROM retirements WHERE secret_id = $1 AND version = $2"+tx.lock("retirements"), secretID, version))
	if err != nil {
		return rotation.Retirement{}, fmt.Errorf("reading the retirement of version %d of %s: %w", version, secretID, err)
	}
	return t, nil
}

// Retirements returns those of a secret's open versions (see Versions), ordered
// by version; a version has at most one.
func (tx *Tx) Retirements(ctx context.Context, secretID string) ([]rotation.Retirement, error) {
	return tx.retirements(ctx, secretID, "version IN ("+openVersions+")")
}

// RetirementsOf returns those of the versions of a secret from one number on,
// ordered by version.
func (tx *Tx) RetirementsOf(ctx context.Context, secretID string, fromVersion int) ([]rotation.Retirement, error) {
	return tx.retirements(ctx, secretID, "version >= $2", fromVersion)
}

func (tx *Tx) retirements(ctx context.Context, secretID, which string, args ...any) ([]rotation.Retirement, error) {
	items, err := all(ctx, tx, scanRetirement, "SELECT record, revision FROM retirements WHERE secret_id = $1 AND "+which+
		" ORDER BY version"+tx.lock("retirements"), append([]any{secretID}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("reading retirements of %s: %w", secretID, err)
	}
	return items, nil
}

// RetirementsOfRotation returns those that a rotation waits for or has begun,
// ordered by version.
func (tx *Tx) RetirementsOfRotation(ctx context.Context, rotationID string) ([]rotation.Retirement, error) {
	items, err := all(ctx, tx, scanRetirement,
		"SELECT record, revision FROM retirements WHERE rotation_id = $1 ORDER BY version", rotationID)
	if err != nil {
		return nil, fmt.Errorf("reading retirements of rotation %s: %w", rotationID, err)
	}
	return items, nil
}

// RetirementFilter chooses retirements; what is empty matches all.
type RetirementFilter struct {
	Tenant   string
	SecretID string
	State    rotation.RetirementState
	Causes   []rotation.Cause
}

// RetirementsPage lists retirements, the newest first.
func (tx *Tx) RetirementsPage(ctx context.Context, by RetirementFilter, p Page) ([]RetirementOf, string, error) {
	var f filter
	f.equal("t.tenant", by.Tenant)
	f.equal("t.secret_id", by.SecretID)
	f.equal("t.state", string(by.State))
	if len(by.Causes) > 0 {
		in(&f, "t.cause", by.Causes)
	}
	if err := f.before("t.requested_at", "t.id", p); err != nil {
		return nil, "", fmt.Errorf("listing retirements: %w", err)
	}
	items, err := all(ctx, tx, scanRetirementOf,
		"SELECT t.record, t.revision, s.tenant, s.name FROM retirements t JOIN secrets s ON s.id = t.secret_id"+f.where()+
			" ORDER BY t.requested_at DESC, t.id DESC"+atMost(f.arg(p.limit()+1)), f.args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing retirements: %w", err)
	}
	items, next := cut(items, p, func(t RetirementOf) string { return cursor(micros(t.RequestedAt), t.ID) })
	return items, next, nil
}

// AddRetirement inserts t at revision 1; ErrConflict if the version has one already.
func (tx *Tx) AddRetirement(ctx context.Context, t *rotation.Retirement) error {
	tenant, err := tx.tenantOf(ctx, t.SecretID)
	if err != nil {
		return fmt.Errorf("adding retirement %s: %w", t.ID, err)
	}
	record := *t
	record.Revision = 1
	err = tx.insert(ctx, `INSERT INTO retirements (id, tenant, secret_id, version, rotation_id, state, cause, record,
			requested_at, next_at, lease_until, soaking, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 1) ON CONFLICT DO NOTHING`,
		t.ID, tenant, t.SecretID, t.Version, t.RotationID, t.State, t.Cause, asJSON{record},
		micros(t.RequestedAt), nullMicros(t.NextAt), lease(t.Intent), soaking(t))
	if err != nil {
		return fmt.Errorf("adding retirement %s: %w", t.ID, err)
	}
	t.Revision = 1
	tx.publish(ChangeRetirement, t.ID, t.SecretID)
	return nil
}

// SaveRetirement compares and swaps.
func (tx *Tx) SaveRetirement(ctx context.Context, t *rotation.Retirement) error {
	record := *t
	record.Revision++
	err := tx.swap(ctx, &t.Revision, `UPDATE retirements SET rotation_id = $1, state = $2, cause = $3, record = $4,
			next_at = $5, lease_until = $6, soaking = $7, revision = revision + 1
		WHERE id = $8 AND revision = $9`,
		t.RotationID, t.State, t.Cause, asJSON{record}, nullMicros(t.NextAt), lease(t.Intent), soaking(t), t.ID, t.Revision)
	if err != nil {
		return fmt.Errorf("saving retirement %s: %w", t.ID, err)
	}
	tx.publish(ChangeRetirement, t.ID, t.SecretID)
	return nil
}

func soaking(t *rotation.Retirement) int {
	switch {
	case t.StuckRemoval():
		return 2
	case t.Soaking():
		return 1
	}
	return 0
}

func (tx *Tx) releaseRetirements(ctx context.Context, owner string) error {
	held, err := all(ctx, tx, scanRetirement, "SELECT record, revision FROM retirements WHERE lease_until IS NOT NULL AND next_at IS NOT NULL")
	for i := range held {
		if release(held[i].Intent, owner, tx.now()) {
			err = errors.Join(err, tx.SaveRetirement(ctx, &held[i]))
		}
	}
	return err
}
