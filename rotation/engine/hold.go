package engine

import (
	"context"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/rotation"
)

// A freeze after a restored backup holds more than others do (rule 21): what the
// store takes for begun may have ended long ago, so nothing of it is finished,
// recovered, revoked, probed or delivered before a person has ended the freeze. Only
// what was asked for since then goes on: emergencies with what they deliver, and
// revocations by name.
//
// Only SQLite is restored in this way, and one process owns it: that it is held is
// known in memory, and costs nobody else a look.

// Hold begins to obey such a freeze; call it before the workers run. It ends by
// itself with the freeze.
func (e *Engine) Hold() { e.held.Store(true) }

// heldBack tells whether a restored store holds what a job is for. It is looked at
// again when the freeze ends, by the sweep at the latest.
func (e *Engine) heldBack(ctx context.Context, args river.JobArgs) bool {
	if !e.held.Load() {
		return false
	}
	held := true
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		held, err = e.outdated(ctx, tx, args)
		return err
	})
	if err != nil && ctx.Err() == nil {
		e.Logger.Warn("looking whether a restored store is frozen failed; everything waits", "error", err)
	}
	if held = held || err != nil; held {
		e.runs.unplan(args.Kind() + idOf(args)) // the sweep after the end of the freeze wakes it at once
	}
	return held
}

func idOf(args river.JobArgs) string {
	switch j := args.(type) {
	case rotationJob:
		return j.ID
	case retirementJob:
		return j.ID
	case deliveryJob:
		return j.ID
	case scheduleJob:
		return j.ID
	case placementJob:
		return j.ID
	case incidentJob:
		return j.ID
	}
	return ""
}

// outdated tells whether a job is for something that was begun before the restore.
func (e *Engine) outdated(ctx context.Context, tx Tx, args river.JobArgs) (held bool, err error) {
	f, err := tx.Freeze(ctx)
	if notFound(err) || err == nil && !f.Restored {
		e.held.Store(false)
		return false, nil
	}
	if err != nil {
		return true, err
	}
	switch j := args.(type) {
	case rotationJob:
		r, err := tx.Rotation(ctx, j.ID)
		return !r.Emergency() || r.CreatedAt.Before(f.At), err
	case retirementJob:
		t, err := tx.Retirement(ctx, j.ID)
		return !t.Exempt() || latest(t.RequestedAt, t.DueAt).Before(f.At), err
	case deliveryJob:
		d, err := tx.Delivery(ctx, j.ID)
		return d.Trigger != rotation.TriggerEmergency || d.CreatedAt.Before(f.At), err
	case placementJob:
		r, err := replacing(ctx, tx, j.ID)
		return !r.Emergency() || r.CreatedAt.Before(f.At), err
	case incidentJob:
		i, err := tx.Incident(ctx, j.ID)
		return i.Began().Before(f.At), err
	}
	return true, nil
}

// replacing is the rotation that brought the version which a placement wants; zero
// if there is none.
func replacing(ctx context.Context, tx Tx, placementID string) (r rotation.Rotation, err error) {
	p, err := tx.Placement(ctx, placementID)
	if err != nil || p.Want == 0 {
		return r, err
	}
	v, err := tx.Version(ctx, p.SecretID, p.Want)
	if err != nil || v.RotationID == "" {
		return r, err
	}
	return tx.Rotation(ctx, v.RotationID)
}
