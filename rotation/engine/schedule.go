package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/trigger/schedule"
)

// NextDue computes when a secret is due next by its schedule, after a given
// time; zero if it has none.
func NextDue(s rotation.Secret, after time.Time) (time.Time, error) {
	if s.Definition.Schedule == "" {
		return time.Time{}, nil
	}
	sched, err := schedule.Parse(s.Definition.Schedule, s.Definition.TimeZone)
	if err != nil {
		return time.Time{}, fmt.Errorf("scheduling %s: %w: %w", s.Ref, backends.ErrInvalid, err)
	}
	return sched.NextJittered(after, s.Definition.Jitter, s.ID), nil
}

// Schedule enqueues inside tx the wake-up for a secret's next due time.
func (e *Engine) Schedule(ctx context.Context, tx Tx, s rotation.Secret) error {
	if s.NextDueAt.IsZero() {
		return nil
	}
	return tx.Enqueue(ctx, wakeUp(scheduleJob{s.ID}, s.NextDueAt, false))
}

// stepSchedule starts a rotation of a secret that is due, and computes when it is
// due next: from now on, so that runs missed during downtime are one run.
func (e *Engine) stepSchedule(ctx context.Context, id string) (stepResult, error) {
	var until time.Time
	err := e.Store.Update(ctx, func(tx Tx) error {
		now := e.Now()
		s, err := tx.Secret(ctx, id)
		if err != nil {
			return err
		}
		until = s.NextDueAt
		if s.State != rotation.SecretActive || s.NextDueAt.IsZero() {
			until = time.Time{}
			return nil
		}
		if now.Before(s.NextDueAt) {
			return nil
		}
		if _, err := e.Rotate(ctx, tx, id, rotation.TriggerSchedule, Asked{By: "keybroker", Reason: s.Definition.Schedule}); err != nil {
			if !errors.Is(err, backends.ErrConflict) || errors.Is(err, errStale) {
				return err
			}
			e.Logger.Warn("a scheduled rotation was left out", "secret", s.Ref, "why", err)
			if err := e.audit(ctx, tx, s.Ref, "rotation.skip", "ok", map[string]string{"why": err.Error()}); err != nil {
				return err
			}
		}
		if s, err = tx.Secret(ctx, id); err != nil { // a rotation that begins changes its row
			return err
		}
		if s.NextDueAt, err = NextDue(s, now); err != nil {
			return err
		}
		until = s.NextDueAt
		return tx.SaveSecret(ctx, &s)
	})
	return stepResult{until: until, job: scheduleJob{id}}, err
}
