package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

const stepRollback = "rollback"

// restore makes the version that the rotation replaced current again, by one
// guarded write to the vault that holds the new one, unless its probe rejects it.
// The new version is retired after an overlap of its own.
func (e *Engine) restore(ctx context.Context, x *rotating) error {
	v, bad := x.version(x.r.From), x.version(x.r.To)
	if v == nil || bad == nil || x.retirements[x.r.From] != nil {
		return e.refuseRollback(ctx, x, fmt.Sprintf("version %d is being revoked: it cannot come back", x.r.From))
	}
	back := *v
	if back.Backend != bad.Backend { // the secret has moved to another vault since
		back.Backend, back.BackendVersion = bad.Backend, ""
	}
	m, err := e.backend(back.Backend)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	}
	if i := x.r.Intent; i != nil && i.Effect == rotation.Restore {
		x.r.UnheardAt = i.At
	}
	if !x.r.UnheardAt.IsZero() { // an earlier write may have been made
		if held, err := e.heldVersion(ctx, m, x.secret); err == nil && held.Number == back.Number {
			return e.restored(ctx, x, back, held.BackendVersion)
		}
	} else if p := x.r.InPlace; p != nil && p.Begun && !p.Done {
		return e.putBack(ctx, x)
	} else if p != nil && p.Done { // the other one has ended by that: there is no way back
		return e.writeBack(ctx, x, m, &back)
	} else if more, err := e.stillWorks(ctx, x, &back); err != nil || !more {
		return err
	}
	return e.writeBack(ctx, x, m, &back)
}

// writeBack makes the write and commits what came of it.
func (e *Engine) writeBack(ctx context.Context, x *rotating, m *backends.Mount, v *rotation.Version) error {
	if err := e.begin(ctx, x, rotation.Restore); err != nil {
		return err
	}
	w, err := e.write(ctx, x, v)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitSeal, err)
	}
	w.Token = fmt.Sprintf("%s-back-%d", writeToken(*v), w.Generation) // another write of the same version
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	id, err := e.guardedWrite(cctx, m, x, v, w)
	if err != nil && !backends.Retryable(err) {
		id, err = e.refused(cctx, m, v, w, err)
	}
	switch {
	case err == nil:
		return e.restored(ctx, x, *v, id)
	case backends.Retryable(err):
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	case e.mayArrive(x):
		return e.awaitArrival(ctx, x, err)
	case x.r.InPlace != nil && x.r.InPlace.Done: // only with the old one anything works
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	}
	return e.refuseRollback(ctx, x, err.Error())
}

// stillWorks tries the version that is to come back; false: the rotation was saved
// and waits, or the rollback was given up. One rejection is not believed (rule
// 12); what cannot be told does not hold a rollback up.
func (e *Engine) stillWorks(ctx context.Context, x *rotating, v *rotation.Version) (bool, error) {
	if v.Probe == "" {
		return true, nil
	}
	p, err := e.probe(v.Probe)
	if err != nil {
		return true, nil //nolint:nilerr // without a probe it cannot be told
	}
	value, err := e.Open(ctx, *v)
	if err != nil {
		return false, e.unheard(ctx, x, rotation.WaitSeal, err)
	}
	line := e.try(ctx, p, x.secret, *v, value, "")
	line.RotationID, line.Purpose, line.Round = x.r.ID, rotation.PurposeVerify, x.r.Refusals+1
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	most := max(x.r.Plan.Confirm.Rejections, 2)
	if limit := p.LockoutAfter(); limit > 0 {
		most = min(most, max(limit-1, 1))
	}
	if line.Verdict == rotation.Rejected && x.r.Refusals+1 >= most {
		return false, e.refuseRollback(ctx, x, fmt.Sprintf("version %d does not work any more (%s): it is not made current again", v.Number, line.Detail))
	}
	err = e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		if line.Verdict == rotation.Rejected {
			x.r.TriedBack(line.Detail, e.Now())
		}
		return e.addTry(ctx, tx, x.secret.ID, x.secret.Ref, line)
	})
	return line.Verdict != rotation.Rejected, err
}

func (e *Engine) refuseRollback(ctx context.Context, x *rotating, why string) error {
	e.Logger.Error("a rollback was given up", "secret", x.secret.Ref, "rotation", x.r.ID, "why", why)
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		x.r.RollBackRefused(why, e.Now())
		if err := tx.EndStep(ctx, x.r.ID, stepRollback, "failed", why, e.Now()); err != nil {
			return err
		}
		return e.audit(ctx, tx, x.secret.Ref, "rotation.rollback", "failed", map[string]string{"rotation": x.r.ID, "error": why})
	})
}

// restored commits that version v is current again, as version id of the vault,
// with all that follows.
func (e *Engine) restored(ctx context.Context, x *rotating, v rotation.Version, id backends.VersionID) error {
	number := v.Number
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		now, by := e.Now(), x.r.RollBackBy
		until := x.r.RollBackOverlap(now)
		x.r.RolledBackNow(now)
		bad, err := tx.Version(ctx, x.secret.ID, x.r.To)
		if err != nil {
			return err
		}
		if !bad.NotAfter.IsZero() && bad.NotAfter.Before(until) {
			until = bad.NotAfter
		}
		bad.Stage, bad.OverlapUntil = rotation.StagePrevious, until
		if err := tx.SaveVersion(ctx, &bad); err != nil {
			return err
		}
		good, err := tx.Version(ctx, x.secret.ID, number)
		if err != nil {
			return err
		}
		good.Stage, good.OverlapUntil = rotation.StageCurrent, zeroTime // it is as old as it was
		good.Backend, good.BackendVersion = v.Backend, id
		if err := tx.SaveVersion(ctx, &good); err != nil {
			return err
		}
		if err := e.makeCurrent(ctx, tx, x, good, now); err != nil {
			return err
		}
		if err := e.announce(ctx, tx, x, rotation.EventRolledBack, number); err != nil {
			return err
		}
		err = e.retireRolledBack(ctx, tx, x, bad, Asked{By: by, Reason: "rolled back"})
		if err != nil {
			return err
		}
		detail := fmt.Sprintf("version %d is current again in %s, generation %d", number, good.Backend, x.secret.Generation)
		if err := tx.EndStep(ctx, x.r.ID, stepRollback, "ok", detail, now); err != nil {
			return err
		}
		if err := e.endStep(ctx, tx, x.secret.Ref, x.r.ID, stepName(rotation.Overlap), "ok", "rolled back", now); err != nil {
			return err
		}
		return e.audit(ctx, tx, good.Ref, "rotation.rollback", "ok", map[string]string{"rotation": x.r.ID, "by": by,
			"version": fmt.Sprint(number), "generation": fmt.Sprint(x.secret.Generation)})
	})
}

// retireRolledBack retires the version that was taken back at the end of its
// overlap, unless somebody has had it revoked already.
func (e *Engine) retireRolledBack(ctx context.Context, tx Tx, x *rotating, bad rotation.Version, asked Asked) error {
	_, err := tx.RetirementOf(ctx, bad.SecretID, bad.Number)
	if err == nil || !errors.Is(err, backends.ErrNotFound) {
		return err
	}
	_, err = e.retire(ctx, tx, bad, x.r.Plan.Confirm, rotation.CauseRolledBack, asked, x.r.ID, bad.OverlapUntil)
	return err
}
