package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// errMissing: an UPDATE met no row.
var errMissing = backends.ErrNotFound

func scanRotation(rw row) (r rotation.Rotation, err error) {
	var revision int64
	err = rw.Scan(fromJSON{&r}, &revision)
	r.Revision = revision
	return r, err
}

// RotationOf is a rotation with the name of its secret.
type RotationOf struct {
	rotation.Rotation
	Ref backends.Ref
}

func scanRotationOf(rw row) (r RotationOf, err error) {
	var revision int64
	err = rw.Scan(fromJSON{&r.Rotation}, &revision, &r.Ref.Tenant, &r.Ref.Name)
	r.Revision = revision
	return r, err
}

// Rotation returns a rotation by its id.
func (tx *Tx) Rotation(ctx context.Context, id string) (rotation.Rotation, error) {
	r, err := scanRotation(tx.q.queryRow(ctx, "SELECT record, revision FROM rotations WHERE id = $1"+tx.lock("rotations"), id))
	if err != nil {
		return rotation.Rotation{}, fmt.Errorf("reading rotation %s: %w", id, err)
	}
	return r, nil
}

// Occupying returns the rotation that occupies the secret, or ErrNotFound.
func (tx *Tx) Occupying(ctx context.Context, secretID string) (rotation.Rotation, error) {
	r, err := scanRotation(tx.q.queryRow(ctx,
		"SELECT record, revision FROM rotations WHERE secret_id = $1 AND occupies = 1"+tx.lock("rotations"), secretID))
	if err != nil {
		return rotation.Rotation{}, fmt.Errorf("reading the rotation that occupies %s: %w", secretID, err)
	}
	return r, nil
}

// LiveRotations returns all rotations of the secret that have not ended, the oldest first.
func (tx *Tx) LiveRotations(ctx context.Context, secretID string) ([]rotation.Rotation, error) {
	live, err := all(ctx, tx, scanRotation, `SELECT record, revision FROM rotations
		WHERE secret_id = $1 AND ended_at IS NULL ORDER BY started_at, id`+tx.lock("rotations"), secretID)
	if err != nil {
		return nil, fmt.Errorf("reading live rotations of %s: %w", secretID, err)
	}
	return live, nil
}

// LastRotation returns the newest rotation of the secret, or ErrNotFound.
func (tx *Tx) LastRotation(ctx context.Context, secretID string) (rotation.Rotation, error) {
	r, err := scanRotation(tx.q.queryRow(ctx, "SELECT record, revision FROM rotations WHERE secret_id = $1 ORDER BY started_at DESC, id DESC LIMIT 1", secretID))
	if err != nil {
		return rotation.Rotation{}, fmt.Errorf("reading the last rotation of %s: %w", secretID, err)
	}
	return r, nil
}

// RotationFilter chooses rotations; what is empty matches all.
type RotationFilter struct {
	Tenant   string
	SecretID string
	State    rotation.State
	Live     bool // only those that have not ended
}

// Rotations lists rotations, the newest first.
func (tx *Tx) Rotations(ctx context.Context, by RotationFilter, p Page) ([]RotationOf, string, error) {
	var f filter
	f.equal("r.tenant", by.Tenant)
	f.equal("r.secret_id", by.SecretID)
	f.equal("r.state", string(by.State))
	if by.Live {
		f.and("r.ended_at IS NULL")
	}
	if err := f.before("r.started_at", "r.id", p); err != nil {
		return nil, "", fmt.Errorf("listing rotations: %w", err)
	}
	items, err := all(ctx, tx, scanRotationOf,
		"SELECT r.record, r.revision, s.tenant, s.name FROM rotations r JOIN secrets s ON s.id = r.secret_id"+f.where()+
			" ORDER BY r.started_at DESC, r.id DESC"+atMost(f.arg(p.limit()+1)), f.args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing rotations: %w", err)
	}
	items, next := cut(items, p, func(r RotationOf) string { return cursor(micros(r.CreatedAt), r.ID) })
	return items, next, nil
}

// before continues a list that is ordered by a time and an id, both descending.
func (f *filter) before(at, id string, p Page) error {
	var us int64
	var last string
	more, err := p.decode(&us, &last)
	if more {
		f.and("("+at+", "+id+") < ($?, $?)", us, last)
	}
	return err
}

// AddRotation inserts r at revision 1; ErrConflict if another rotation occupies
// the secret, or has this id.
func (tx *Tx) AddRotation(ctx context.Context, r *rotation.Rotation) error {
	tenant, err := tx.tenantOf(ctx, r.SecretID)
	if err != nil {
		return fmt.Errorf("adding rotation %s: %w", r.ID, err)
	}
	record := *r
	record.Revision = 1
	err = tx.insert(ctx, `INSERT INTO rotations (id, tenant, secret_id, trigger_kind, state, occupies, waiting_for, record,
			started_at, ended_at, next_at, lease_until, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 1) ON CONFLICT DO NOTHING`,
		r.ID, tenant, r.SecretID, r.Trigger, r.State, occupies(r), waitingFor(r), asJSON{record},
		micros(r.CreatedAt), nullMicros(r.EndedAt), nullMicros(r.NextAt), lease(r.Intent))
	if err != nil {
		return fmt.Errorf("adding rotation %s: %w", r.ID, err)
	}
	r.Revision = 1
	tx.publish(ChangeRotation, r.ID, r.SecretID)
	return nil
}

// SaveRotation compares and swaps.
func (tx *Tx) SaveRotation(ctx context.Context, r *rotation.Rotation) error {
	record := *r
	record.Revision++
	err := tx.swap(ctx, &r.Revision, `UPDATE rotations SET state = $1, occupies = $2, waiting_for = $3, record = $4,
			ended_at = $5, next_at = $6, lease_until = $7, revision = revision + 1
		WHERE id = $8 AND revision = $9`,
		r.State, occupies(r), waitingFor(r), asJSON{record},
		nullMicros(r.EndedAt), nullMicros(r.NextAt), lease(r.Intent), r.ID, r.Revision)
	if err != nil {
		return fmt.Errorf("saving rotation %s: %w", r.ID, err)
	}
	tx.publish(ChangeRotation, r.ID, r.SecretID)
	return nil
}

func occupies(r *rotation.Rotation) int {
	if r.State.Occupies() {
		return 1
	}
	return 0
}

// waitingFor is what a rotation that has not ended waits for; NULL: nothing.
func waitingFor(r *rotation.Rotation) any {
	if r.WaitingFor == "" || r.State.Ended() {
		return nil
	}
	return r.WaitingFor
}

// lease is until when only the intent's owner may go on; NULL if anybody may.
func lease(i *rotation.Intent) any {
	if i == nil || i.Unheard {
		return nil
	}
	return nullMicros(i.Lease)
}

// release ends the lease of an intent that does not belong to owner.
func release(i *rotation.Intent, owner string, now time.Time) bool {
	if !i.Held(owner, now) {
		return false
	}
	i.Lease = now
	return true
}

func (tx *Tx) releaseRotations(ctx context.Context, owner string) error {
	held, err := all(ctx, tx, scanRotation, `SELECT record, revision FROM rotations
		WHERE lease_until IS NOT NULL AND ended_at IS NULL AND next_at IS NOT NULL`)
	for i := range held {
		if release(held[i].Intent, owner, tx.now()) {
			err = errors.Join(err, tx.SaveRotation(ctx, &held[i]))
		}
	}
	return err
}
