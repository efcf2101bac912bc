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
// guarded write, unless its probe rejects it. The new version keeps what was left
// of the overlap, for those who have it already, and is retired then.
func (e *Engine) restore(ctx context.Context, x *rotating) error {
	v := x.version(x.r.From)
	if v == nil || x.retirements[x.r.From] != nil {
		return e.refuseRollback(ctx, x, fmt.Sprintf("version %d is being revoked: it cannot come back", x.r.From))
	}
	if err := e.begin(ctx, x, rotation.Restore); err != nil {
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
	w.Token = fmt.Sprintf("%s-back-%d", v.Tag, w.Generation) // another write of the same version
	detail, err := e.stillWorks(ctx, x, v, w.Value)
	if err != nil {
		return err
	}
	if detail != "" {
		return e.refuseRollback(ctx, x, detail)
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	id, err := e.guardedWrite(cctx, m, x, v, w)
	if err != nil && !backends.Retryable(err) {
		id, err = e.refused(cctx, m, v, w, err)
	}
	switch {
	case backends.Retryable(err):
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	case err != nil:
		return e.refuseRollback(ctx, x, err.Error())
	}
	return e.restored(ctx, x, v.Number, id)
}

// stillWorks tries the version that is to come back: a text tells that it is
// rejected. What cannot be told does not hold a rollback up.
func (e *Engine) stillWorks(ctx context.Context, x *rotating, v *rotation.Version, value backends.Value) (rejected string, err error) {
	if v.Probe == "" {
		return "", nil
	}
	p, err := e.probe(v.Probe)
	if err != nil {
		return "", nil //nolint:nilerr // without a probe it cannot be told
	}
	line := e.try(ctx, p, x.secret, *v, value, "")
	line.RotationID, line.Purpose, line.Round = x.r.ID, rotation.PurposeVerify, 1
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err := e.keep(ctx, func(ctx context.Context, tx Tx) error { return tx.AddTry(ctx, x.secret.ID, line) }); err != nil {
		return "", err
	}
	if line.Verdict == rotation.Rejected {
		return fmt.Sprintf("version %d does not work any more (%s): it is not made current again", v.Number, line.Detail), nil
	}
	return "", nil
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

// restored commits that version number is current again, as version id of the
// vault, with all that follows.
func (e *Engine) restored(ctx context.Context, x *rotating, number int, id backends.VersionID) error {
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		now, by := e.Now(), x.r.RollBackBy
		until := latest(x.r.OverlapUntil, now)
		x.r.RolledBackNow(now)
		bad, err := tx.Version(ctx, x.secret.ID, x.r.To)
		if err != nil {
			return err
		}
		bad.Stage, bad.OverlapUntil = rotation.StagePrevious, until
		if err := tx.SaveVersion(ctx, &bad); err != nil {
			return err
		}
		good, err := tx.Version(ctx, x.secret.ID, number)
		if err != nil {
			return err
		}
		good.Stage, good.PublishedAt, good.OverlapUntil, good.BackendVersion = rotation.StageCurrent, now, zeroTime, id
		if err := tx.SaveVersion(ctx, &good); err != nil {
			return err
		}
		if err := e.makeCurrent(ctx, tx, x, number, now); err != nil {
			return err
		}
		if err := e.announce(ctx, tx, x, number, now); err != nil {
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
		if err := tx.EndStep(ctx, x.r.ID, stepName(rotation.Overlap), "ok", "rolled back", now); err != nil {
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
