package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// fates tells what is to become of the versions that the vault was given. The one
// that the secret uses is never touched, whatever else is said of it.
func fates(ctx context.Context, tx Tx, x *placing) (map[int]rotation.Fate, error) {
	out := map[int]rotation.Fate{}
	for _, h := range x.p.Held {
		if _, seen := out[h.Version]; seen || h.Version == x.secret.Current {
			continue
		}
		out[h.Version] = rotation.FateNone
		t, err := tx.RetirementOf(ctx, x.secret.ID, h.Version)
		if notFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[h.Version] = t.Fate()
	}
	return out, nil
}

// takeOut retires or destroys one dead version in the vault. Either may be
// repeated, so it takes no intent.
func (e *Engine) takeOut(ctx context.Context, x *placing) error {
	h, fate := x.p.NextOut(x.facts.Fates)
	m, err := e.backend(x.p.Backend)
	if err != nil {
		return e.notTakenOut(ctx, x, err)
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	desc, err := m.Describe(cctx, x.p.Ref)
	if err == nil && desc.Current != x.p.Serves() && x.p.Role != rotation.RoleFormer {
		err = fmt.Errorf("%w: %s has changed", backends.ErrConflict, x.p.Backend) // nothing is taken out by an id that may be another's
	}
	if err != nil && !notFound(err) {
		return e.notTakenOut(ctx, x, err)
	}
	if fate == rotation.FateDestroy && m.Capabilities().Destroy {
		err = m.Destroy(cctx, x.p.Ref, h.ID)
	} else if !h.Retired {
		err = m.Retire(cctx, x.p.Ref, h.ID)
	}
	switch {
	case err == nil, notFound(err), errors.Is(err, backends.ErrUnsupported):
	case backends.Retryable(err), errors.Is(err, backends.ErrConflict) && x.p.Role != rotation.RoleFormer:
		return e.notTakenOut(ctx, x, err)
	default:
		return e.refusedToTakeOut(ctx, x, h, err)
	}
	return e.savePlacement(ctx, x, func(ctx context.Context, tx Tx, p *rotation.Placement) error {
		p.TookOut(h.ID, fate, e.Now())
		return e.audit(ctx, tx, x.p.Ref, "version."+fate.String(), "ok", map[string]string{"backend": p.Backend, "version": fmt.Sprint(h.Version), "id": string(h.ID)})
	})
}

// refusedToTakeOut puts off what the vault does not let us do: it may be for a moment
// only. A former vault's is given up.
func (e *Engine) refusedToTakeOut(ctx context.Context, x *placing, h rotation.Holding, cause error) error {
	if x.p.OutAt.IsZero() || x.p.Role == rotation.RoleFormer {
		e.Logger.Warn("a dead version stays in its vault: grant the broker to delete and destroy versions", "secret", x.p.Ref, "backend", x.p.Backend, "version", h.Version, "error", cause)
	}
	return e.savePlacement(ctx, x, func(_ context.Context, _ Tx, p *rotation.Placement) error {
		if p.Role == rotation.RoleFormer {
			p.TookOut(h.ID, rotation.FateForget, e.Now())
		} else {
			p.OutRefused(cause.Error(), e.Now())
		}
		return nil
	})
}

func (e *Engine) notTakenOut(ctx context.Context, x *placing, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return e.savePlacement(ctx, x, func(_ context.Context, _ Tx, p *rotation.Placement) error {
		p.Failed(cause.Error(), e.Now())
		if errors.Is(cause, backends.ErrConflict) { // the vault serves it
			p.CheckNow(e.Now())
		}
		return nil
	})
}

// relieve lets the vaults look again that were given a version which is turned off.
func (e *Engine) relieve(ctx context.Context, tx Tx, secretID string, version int) error {
	ps, err := tx.Placements(ctx, secretID)
	if err != nil {
		return err
	}
	for i := range ps {
		p := &ps[i]
		if !slices.ContainsFunc(p.Held, func(h rotation.Holding) bool { return h.Version == version }) {
			continue
		}
		if p.NextAt.IsZero() || p.NextAt.After(e.Now()) {
			p.NextAt = e.Now()
			if err := tx.SavePlacement(ctx, p); err != nil && !isConflict(err) {
				return err // whoever is at the row looks again by itself
			}
		}
		if err := tx.Enqueue(ctx, wakeUp(placementJob{p.ID}, zeroTime, false)); err != nil {
			return err
		}
	}
	return nil
}
