package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// publish makes the new version current in the vault by one guarded write and
// commits the result with everything that follows from it: generation, stages,
// deliveries, and for an emergency the start of containment.
func (e *Engine) publish(ctx context.Context, x *rotating) error {
	v := x.version(x.r.To)
	if i := x.r.Intent; i != nil && i.Effect == rotation.Publish {
		x.r.UnheardAt = i.At
	}
	if err := e.begin(ctx, x, rotation.Publish); err != nil {
		return err
	}
	m, err := e.backend(v.Backend)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	}
	w, err := e.write(ctx, x, v)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitSeal, err)
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	id, err := e.guardedWrite(cctx, m, x, v, w)
	if err != nil && !backends.Retryable(err) {
		id, err = e.refused(cctx, m, v, w, err)
	}
	switch {
	case err == nil:
		v.BackendVersion = id
		return e.published(ctx, x, v)
	case backends.Retryable(err) || x.r.Emergency() && !errors.Is(err, backends.ErrConflict):
		return e.unheard(ctx, x, rotation.WaitBackend, err) // an emergency waits for who mends the vault
	case e.mayArrive(x):
		return e.awaitArrival(ctx, x, err)
	case errors.Is(err, backends.ErrConflict):
		err = fmt.Errorf("%w; the vault was written by somebody else, or by a broker whose data was lost: nothing was overwritten", err)
		if x.r.Emergency() {
			err = fmt.Errorf("%w; `keybroker emergency %s --overwrite` writes the replacement over it", err, qualified(x.secret.Ref))
		}
	}
	return e.saveRotation(ctx, x, func(context.Context, Tx) error {
		x.r.Fail(err.Error(), e.Now())
		return nil
	})
}

// mayArrive tells whether a write that nobody heard of may still reach the vault.
func (e *Engine) mayArrive(x *rotating) bool {
	return !x.r.UnheardAt.IsZero() && e.Now().Before(x.r.UnheardAt.Add(lateArrival))
}

// awaitArrival puts a refusal off for as long as an earlier write may arrive: only
// then it is final.
func (e *Engine) awaitArrival(ctx context.Context, x *rotating, refusal error) error {
	return e.saveRotation(ctx, x, func(context.Context, Tx) error {
		x.r.Unheard(rotation.WaitBackend, refusal.Error(), e.Now())
		x.r.Intent, x.r.NextAt = nil, x.r.UnheardAt.Add(lateArrival)
		return nil
	})
}

// refused looks what the vault holds after it refused a write: an earlier one,
// whose answer was lost, may have been made. Only who has seen that it was not
// may give the new version up, or the vault would serve a revoked key.
func (e *Engine) refused(ctx context.Context, m *backends.Mount, v *rotation.Version, w backends.Write, refusal error) (backends.VersionID, error) {
	held, id, err := m.Read(ctx, v.Ref, "")
	switch {
	case err == nil && held.Equal(w.Value):
		return id, nil
	case err == nil || notFound(err) || errors.Is(err, backends.ErrInvalid):
		return "", refusal
	}
	return "", fmt.Errorf("%w: it cannot be told what the vault holds: %v, after: %v", backends.ErrUnavailable, err, refusal)
}

// guardedWrite publishes or promotes. On a conflict it looks whether the vault
// holds another version of ours, such as one that a superseded rotation wrote
// without hearing the answer, and if so takes that as the version to replace.
func (e *Engine) guardedWrite(ctx context.Context, m *backends.Mount, x *rotating, v *rotation.Version, w backends.Write) (backends.VersionID, error) {
	write := func() (backends.VersionID, error) { return m.Publish(ctx, v.Ref, w) }
	if stager, ok := m.Stager(); ok && v.BackendVersion != "" && x.r.RollBackBy == "" {
		write = func() (backends.VersionID, error) {
			return v.BackendVersion, stager.Promote(ctx, v.Ref, v.BackendVersion, w.Expect)
		}
	}
	id, err := write()
	if !errors.Is(err, backends.ErrConflict) {
		return id, err
	}
	ours, heldErr := e.heldVersion(ctx, m, x.secret)
	overwrites := x.r.Emergency() && (x.r.Overwrite || x.secret.Definition.OnDrift == rotation.DriftRestore)
	switch {
	case errors.Is(heldErr, errOutOfStep) && overwrites && ours.BackendVersion != "":
	case errors.Is(heldErr, errOutOfStep), heldErr != nil && !backends.Retryable(heldErr):
		return "", err
	case heldErr != nil:
		return "", fmt.Errorf("after a conflict, looking what the vault holds: %w", heldErr)
	}
	// Who was superseded meanwhile must not write over what came after.
	viewErr := e.Store.View(ctx, func(tx Tx) error {
		r, err := tx.Rotation(ctx, x.r.ID)
		if err == nil && r.Revision != x.r.Revision {
			err = fmt.Errorf("%w: rotation %s has moved on", backends.ErrConflict, x.r.ID)
		}
		return err
	})
	if viewErr != nil {
		return "", viewErr
	}
	w.Expect = ours.BackendVersion
	return write()
}

func (e *Engine) published(ctx context.Context, x *rotating, v *rotation.Version) error {
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		now := e.Now()
		x.r.Published(x.retirements[x.r.From] != nil, now)
		x.r.BoundOverlap(rotation.ReplaceBy(x.secret.Definition, *v), now) // else nothing could replace it in time
		if err := e.replace(ctx, tx, x, now); err != nil {
			return err
		}
		if old := x.secret.Current; old > 0 && (x.r.Emergency() || old != x.r.From) && !slices.Contains(x.r.Compromised, old) {
			replaced := x.r
			replaced.From = old // nobody else is going to retire it
			if err := e.retireReplaced(ctx, tx, replaced, now.Add(x.r.Plan.Overlap)); err != nil {
				return err
			}
		}
		published, err := tx.Version(ctx, v.SecretID, v.Number)
		if err != nil {
			return err
		}
		published.Stage, published.PublishedAt, published.BackendVersion = rotation.StageCurrent, now, v.BackendVersion
		if err := tx.SaveVersion(ctx, &published); err != nil {
			return err
		}
		if err := e.makeCurrent(ctx, tx, x, published, now); err != nil {
			return err
		}
		if err := e.announce(ctx, tx, x, rotation.EventRotated, v.Number); err != nil {
			return err
		}
		if err := e.containNow(ctx, tx, x, now); err != nil {
			return err
		}
		if err := tx.EndStep(ctx, x.r.ID, "publish", "ok", fmt.Sprintf("version %d is current in %s, generation %d", v.Number, v.Backend, x.secret.Generation), now); err != nil {
			return err
		}
		if x.r.State == rotation.Overlap {
			if err := tx.StartStep(ctx, x.r.ID, "overlap", now); err != nil {
				return err
			}
		}
		return e.audit(ctx, tx, v.Ref, "rotation.publish", "ok", map[string]string{"rotation": x.r.ID,
			"version": fmt.Sprint(v.Number), "generation": fmt.Sprint(x.secret.Generation), "trigger": string(x.r.Trigger), "reason": x.r.Reason})
	})
}

// makeCurrent saves which version is the current one, in a new generation. The
// secret's row is read anew: its definition may have changed since the rotation began.
func (e *Engine) makeCurrent(ctx context.Context, tx Tx, x *rotating, v rotation.Version, now time.Time) error {
	s, err := tx.Secret(ctx, x.secret.ID)
	if err != nil {
		return err
	}
	s.Current, s.Generation, s.UpdatedAt = v.Number, s.Generation+1, now
	e.dueWith(&s, v, x.r.State == rotation.RolledBack)
	if err := tx.SaveSecret(ctx, &s); err != nil {
		return err
	}
	if err := e.Place(ctx, tx, &s, now); err != nil {
		return err
	}
	x.secret.Current, x.secret.Generation, x.secret.Revision = s.Current, s.Generation, s.Revision
	x.secret.Definition.Consumers = s.Definition.Consumers // who was taken out is given nothing any more
	return nil
}

// replace makes the version that was current the previous one, for its overlap.
func (e *Engine) replace(ctx context.Context, tx Tx, x *rotating, now time.Time) error {
	if x.secret.Current == 0 {
		return nil
	}
	old, err := tx.Version(ctx, x.secret.ID, x.secret.Current)
	if err != nil {
		return err
	}
	x.r.BoundOverlap(old.NotAfter, now)
	old.Stage, old.OverlapUntil = rotation.StagePrevious, x.r.OverlapUntil
	if x.retirements[old.Number] != nil { // an emergency turns it off: nobody is given it any more
		old.Stage, old.OverlapUntil = rotation.StageRetired, zeroTime
	}
	return tx.SaveVersion(ctx, &old)
}

// announce tells the consumers of the version that was made current.
func (e *Engine) announce(ctx context.Context, tx Tx, x *rotating, event rotation.Event, version int) error {
	return e.tell(ctx, tx, x.secret, news{event: event, version: version, trigger: x.r.Trigger, reason: x.r.Reason})
}

// containNow lets the retirements of an emergency begin that waited for the replacement.
func (e *Engine) containNow(ctx context.Context, tx Tx, x *rotating, now time.Time) error {
	if !x.r.Emergency() {
		return nil
	}
	retirements, err := retirementsByVersion(ctx, tx, x.secret.ID)
	if err != nil {
		return err
	}
	for _, n := range x.r.Compromised {
		t := retirements[n]
		if t == nil || t.State != rotation.Requested || t.WaitingFor != rotation.WaitReplacement {
			continue
		}
		t.NextAt, t.WaitingFor = now, ""
		if err := tx.SaveRetirement(ctx, t); err != nil {
			return err
		}
		if err := tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true)); err != nil {
			return err
		}
	}
	return nil
}
