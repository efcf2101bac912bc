package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// When a secret is due is in its row. Nothing waits for that in memory or in the queue,
// so that a hundred thousand secrets cost no more than those that are due: every second
// an index is looked at.

// tickEvery is how often that is.
const tickEvery = time.Second

// Schedule enqueues inside tx the wake-up of a secret that is due already.
func (e *Engine) Schedule(ctx context.Context, tx Tx, s rotation.Secret) error {
	if s.NextDueAt.IsZero() || s.State != rotation.SecretActive || e.Now().Before(s.NextDueAt) {
		return nil
	}
	return tx.Enqueue(ctx, wakeUp(scheduleJob{s.ID}, zeroTime, false))
}

// starters is how many secrets Tick starts rotations of at once.
const starters = 8

// noticesEach is of how many secrets consumers are told ahead of time in one tick.
const noticesEach = 50

// Tick starts what begins at a time of its own: a rotation of each secret that is due,
// and those whose window has opened. It does not leave that to the queue, where the
// thousandth would be behind all that the first ones have to do.
func (e *Engine) Tick(ctx context.Context) error {
	now := e.Now()
	var due Due
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		due, err = tx.Beginning(ctx, now, sweepLimit)
		return err
	})
	if err != nil {
		return fmt.Errorf("looking for what begins: %w", err)
	}
	var starting sync.WaitGroup
	next := make(chan string)
	for range min(len(due.Secrets), starters) {
		starting.Go(func() {
			for id := range next {
				e.Work(ctx, scheduleJob{id})
			}
		})
	}
	for _, id := range due.Secrets {
		if e.runs.sweep("schedule"+id, now) {
			next <- id
		}
	}
	close(next)
	starting.Wait()
	for _, id := range due.Notices[:min(len(due.Notices), noticesEach)] {
		if err := e.stepNotice(ctx, id); err != nil && !isConflict(err) && ctx.Err() == nil {
			e.Logger.Error("consumers are not told of a rotation that is due", "secret", id, "error", err)
		}
	}
	return e.wakeDue(ctx, due, now)
}

// wakeDue enqueues a wake-up for each, unless a worker of this process is at it or is
// about to be.
func (e *Engine) wakeDue(ctx context.Context, due Due, now time.Time) error {
	var jobs []river.InsertManyParams
	add := func(kind string, ids []string, urgent bool, args func(string) river.JobArgs) {
		for _, id := range ids {
			if e.runs.sweep(kind+id, now) {
				jobs = append(jobs, wakeUp(args(id), zeroTime, urgent))
			}
		}
	}
	add("rotation", due.Emergencies, true, func(id string) river.JobArgs { return rotationJob{id} })
	add("rotation", due.Rotations, false, func(id string) river.JobArgs { return rotationJob{id} })
	add("incident", due.Incidents, true, func(id string) river.JobArgs { return incidentJob{id} })
	add("retirement", due.Retirements, true, func(id string) river.JobArgs { return retirementJob{id} })
	for _, d := range due.Deliveries {
		if e.lanes.shut(d.Consumer, now) || e.lanes.holds(d) || !e.runs.sweep("delivery"+d.ID, now) {
			continue
		}
		e.lanes.expectMore(d.Consumer)
		jobs = append(jobs, pushNow(d))
	}
	add("placement", due.Placements, false, func(id string) river.JobArgs { return placementJob{id} })
	if len(jobs) == 0 {
		return nil
	}
	return e.Store.Update(ctx, func(tx Tx) error { return tx.Enqueue(ctx, jobs...) })
}

// stepSchedule starts a rotation of a secret that is due, and computes when it is
// due next: from now on, so that runs missed during downtime are one run. While another
// rotation occupies the secret it stays due.
func (e *Engine) stepSchedule(ctx context.Context, id string) (stepResult, error) {
	err := e.Store.Update(ctx, func(tx Tx) error {
		now := e.Now()
		s, err := tx.Secret(ctx, id)
		if err != nil || s.State != rotation.SecretActive || s.NextDueAt.IsZero() || now.Before(s.NextDueAt) {
			return err
		}
		if at, err := tx.Occupying(ctx, id); !notFound(err) && (err != nil || !Proposed(at)) {
			return err
		}
		current, err := currentOf(ctx, tx, s)
		if err != nil {
			return err
		}
		again := false
		if why := rotation.WhyDue(s.Definition, current, now); why != "" && s.Definition.Issuer != "" {
			again = true
			if err := e.rotateDue(ctx, tx, s, current, why); err != nil {
				return err
			}
		}
		if s, err = tx.Secret(ctx, id); err != nil { // a rotation that begins changes its row
			return err
		}
		if err := e.setDue(&s, current, again); err != nil {
			return err
		}
		return tx.SaveSecret(ctx, &s)
	})
	return stepResult{}, err
}

// rotateDue starts the rotation of a secret that is due, unless that is not the time for it.
func (e *Engine) rotateDue(ctx context.Context, tx Tx, s rotation.Secret, current rotation.Version, why rotation.Why) error {
	_, err := e.Rotate(ctx, tx, s.ID, rotation.TriggerSchedule, Asked{By: "keybroker", Reason: why.Reason(s.Definition, current), why: why})
	if err == nil || !errors.Is(err, backends.ErrConflict) || errors.Is(err, errStale) {
		return err
	}
	e.Logger.Warn("a scheduled rotation was left out", "secret", s.Ref, "why", err)
	return e.audit(ctx, tx, s.Ref, "rotation.skip", "ok", map[string]string{"why": err.Error()})
}
