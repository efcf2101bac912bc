package engine

import (
	"context"
	"errors"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// stage writes the pending value where the vault can hold one; elsewhere it
// stays sealed in our own store, where minting has put it.
func (e *Engine) stage(ctx context.Context, x *rotating) error {
	v := x.version(x.r.To)
	m, err := e.backend(v.Backend)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	}
	stager, ok := m.Stager()
	if !ok {
		return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error { return e.stagedHere(ctx, tx, x) })
	}
	if err := e.begin(ctx, x, rotation.Stage); err != nil {
		return err
	}
	w, err := e.write(ctx, x, v)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	id, err := stager.Stage(cctx, v.Ref, w)
	switch {
	case errors.Is(err, backends.ErrUnsupported): // AWS makes the first version of a secret current at once
		return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error { return e.stagedHere(ctx, tx, x) })
	case err != nil:
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	}
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		staged, err := tx.Version(ctx, v.SecretID, v.Number)
		if err != nil {
			return err
		}
		staged.BackendVersion = id
		if err := tx.SaveVersion(ctx, &staged); err != nil {
			return err
		}
		if err := keeps(ctx, tx, staged); err != nil {
			return err
		}
		return e.staged(ctx, tx, x, "")
	})
}

// keeps records that the vault was given a pending version, so that it is relieved
// of it if it comes to nothing.
func keeps(ctx context.Context, tx Tx, v rotation.Version) error {
	ps, err := tx.Placements(ctx, v.SecretID)
	for i := range ps {
		if ps[i].Backend == v.Backend {
			ps[i].Keeps(v.Number, v.BackendVersion)
			return tx.SavePlacement(ctx, &ps[i])
		}
	}
	return err
}

func stages(m *backends.Mount) bool {
	_, ok := m.Stager()
	return ok
}

// stagedHere records that the pending value is where it has to be: minting has
// put it into our own store, and the vault holds no pending versions.
func (e *Engine) stagedHere(ctx context.Context, tx Tx, x *rotating) error {
	return e.staged(ctx, tx, x, "kept sealed by the broker: the vault cannot hold it as pending")
}

func (e *Engine) staged(ctx context.Context, tx Tx, x *rotating, detail string) error {
	x.r.Staged(e.Now())
	if err := e.endStep(ctx, tx, x.secret.Ref, x.r.ID, "stage", "ok", detail, e.Now()); err != nil {
		return err
	}
	return tx.StartStep(ctx, x.r.ID, stepName(rotation.Verifying), e.Now())
}

// write is the guarded write that brings version v to the vault.
func (e *Engine) write(ctx context.Context, x *rotating, v *rotation.Version) (backends.Write, error) {
	value, err := e.Open(ctx, *v)
	if err != nil {
		return backends.Write{}, err
	}
	w := backends.Write{Value: value, Token: writeToken(*v), Version: v.Number, Generation: x.secret.Generation + 1, Urgent: x.r.Emergency()}
	if current := x.version(x.secret.Current); current != nil && current.Backend == v.Backend {
		w.Expect = current.BackendVersion
	}
	return w, nil
}
