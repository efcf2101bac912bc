package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

const settingRestored = "restored"

// Restored says that the database was put back from a snapshot, and how far it has
// come since in finding out what was lost. It stays until everything is in step.
type Restored struct {
	Snapshot   string    `json:"snapshot"` // its id
	TakenAt    time.Time `json:"taken_at"`
	RestoredAt time.Time `json:"restored_at"`
	// Since is TakenAt, or that of an earlier restore which was not settled at the
	// snapshot: what happened from then on may be lost.
	Since time.Time `json:"since"`
	// AuditSeq is the number of the newest event at the snapshot. What an audit log
	// has beyond it was lost, until it is Recalled; from then on the store gives
	// numbers of its own again.
	AuditSeq  int64       `json:"audit_seq"`
	Begun     bool        `json:"begun"`              // all is frozen, and all numbers are raised
	Skipped   int64       `json:"skipped,omitempty"`  // lost events have no higher numbers, in any log; what follows has
	Recalled  bool        `json:"recalled"`           // what the audit log tells, if there is one, is committed
	SealKey   string      `json:"seal_key,omitempty"` // made since to seal; empty: the snapshot's newest one still seals
	Compared  bool        `json:"compared"`           // every vault was asked once, or somebody went on without
	Frozen    string      `json:"frozen,omitempty"`   // by whom and why it was at the snapshot
	OutOfStep []OutOfStep `json:"out_of_step,omitempty"`
}

// restoredFrom is the mark of a database which is about to be put back. It keeps what
// an earlier restore has left unsettled in it.
func (tx *Tx) restoredFrom(ctx context.Context, h Header, at time.Time) (Restored, error) {
	mark := Restored{Snapshot: h.ID, TakenAt: h.At, RestoredAt: at, Since: h.At}
	was, err := tx.Restored(ctx)
	switch {
	case err == nil:
		mark.Since, mark.Frozen, mark.OutOfStep = was.Since, was.Frozen, was.OutOfStep
	case !errors.Is(err, backends.ErrNotFound):
		return mark, err
	}
	mark.AuditSeq, err = tx.AuditSeq(ctx)
	return mark, err
}

// Why a secret is out of step.
const (
	Replaced   = "replaced"   // the audit log tells of a newer version
	Ahead      = "ahead"      // its vault holds a newer version of ours, or one that the broker noted and the store has lost
	Behind     = "behind"     // its vault holds an older version of ours
	Stranger   = "stranger"   // its vault holds what was never one of our versions
	Missing    = "missing"    // its vault holds nothing
	Uncompared = "uncompared" // its vault could not be asked yet
)

// OutOfStep is a secret of which a restored store and the world say different things.
type OutOfStep struct {
	Ref     backends.Ref `json:"ref"`
	Version int          `json:"version"` // the store's current one at the restore: up to it all are in doubt
	Kind    string       `json:"kind"`
	Detail  string       `json:"detail"`
}

// Restored returns the mark of a restore that is not settled, or ErrNotFound.
func (tx *Tx) Restored(ctx context.Context) (r Restored, err error) {
	text, err := tx.Setting(ctx, settingRestored)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("reading setting %s: %w: it is no JSON", settingRestored, backends.ErrInvalid)
	}
	return r, nil
}

// SetRestored writes the mark; nil removes it: everything is in step.
func (tx *Tx) SetRestored(ctx context.Context, r *Restored) error {
	if r == nil {
		return tx.putSetting(ctx, settingRestored, nil)
	}
	return tx.putSetting(ctx, settingRestored, r)
}

// RaiseNumbers raises the generation of every secret, and the number that its next
// version gets, by as much. It is for a store that nobody watches yet.
func (tx *Tx) RaiseNumbers(ctx context.Context, by int64) error {
	err := tx.execOnly(ctx, `UPDATE secrets SET generation = generation + $1, last_version = last_version + $1, revision = revision + 1`, by)
	if err != nil {
		return fmt.Errorf("raising generations: %w", err)
	}
	return nil
}

// DropDeliveries supersedes whatever is still to be delivered: nobody knows whether
// it is older than what its consumer has.
func (tx *Tx) DropDeliveries(ctx context.Context) error {
	err := tx.execOnly(ctx, `UPDATE deliveries SET state = $1, next_attempt_at = NULL, revision = revision + 1 WHERE state = 'pending'`,
		rotation.DeliverySuperseded)
	if err != nil {
		return fmt.Errorf("superseding deliveries: %w", err)
	}
	return nil
}
