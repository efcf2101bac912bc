package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// propose asks for an approval to make the stranger's value the current version.
// A rotation that has begun nothing gives way to it; another one keeps it waiting
// until the next comparison.
func (e *Engine) propose(ctx context.Context, tx Tx, x *placing, p *rotation.Placement) error {
	r, err := e.adopt(ctx, tx, x.secret.ID, rotation.Adoption{Backend: p.Backend, ID: p.Drift.ID, Prints: p.Drift.Prints},
		Asked{By: "keybroker", Reason: fmt.Sprintf("%s holds a value that its probe accepts", p.Backend)})
	if errors.Is(err, backends.ErrConflict) && !errors.Is(err, errStale) {
		e.Logger.Info("an adoption waits", "secret", x.p.Ref, "why", err)
		return nil
	}
	p.Drift.RotationID = r.ID
	return err
}

// withdraw ends a proposal of the broker's own that nobody has approved yet: what it
// was for is gone.
func (e *Engine) withdraw(ctx context.Context, tx Tx, rotationID string) error {
	r, err := tx.Rotation(ctx, rotationID)
	if notFound(err) || err == nil && !Proposed(r) {
		return nil
	}
	if err != nil {
		return err
	}
	_, _, err = e.Cancel(ctx, tx, r.ID, Asked{By: "keybroker", Reason: "the vault does not hold that value any more"})
	return err
}

// Proposed tells whether r is an adoption that the broker itself proposed and nobody
// has approved.
func Proposed(r rotation.Rotation) bool {
	return r.Adopts != nil && r.Actor == "keybroker" && r.State == rotation.Queued && r.ApprovedBy == ""
}

// AdoptRequest asks for a value that somebody else wrote to a vault to become the
// current version.
type AdoptRequest struct {
	Asked
	Backend string // the primary or a mirror; empty: the primary
}

// Adopt asks for the value that a vault holds to become the secret's current
// version: its probe has to accept it, and somebody else to approve. ErrConflict
// where nothing has drifted there.
func (e *Engine) Adopt(ctx context.Context, tx Tx, secretID string, req AdoptRequest) (rotation.Rotation, []string, error) {
	ps, err := tx.Placements(ctx, secretID)
	if err != nil {
		return rotation.Rotation{}, nil, err
	}
	if len(ps) == 0 {
		return rotation.Rotation{}, nil, fmt.Errorf("%w: the broker has no version of it yet: `keybroker secret import` takes over what its vault holds", backends.ErrConflict)
	}
	for i := range ps {
		p := &ps[i]
		if req.Backend == "" && p.Role != rotation.RolePrimary || req.Backend != "" && p.Backend != req.Backend {
			continue
		}
		if p.Drift == nil || p.Drift.Kind != rotation.DriftChanged {
			return rotation.Rotation{}, nil, fmt.Errorf("%w: %s was not found to hold a value of somebody else's: `keybroker drift check` looks", backends.ErrConflict, p.Backend)
		}
		will, err := e.foreseeAdoption(ctx, tx, secretID, p.Backend)
		if err != nil {
			return rotation.Rotation{}, nil, err
		}
		r, err := e.adopt(ctx, tx, secretID, rotation.Adoption{Backend: p.Backend, ID: p.Drift.ID, Prints: p.Drift.Prints}, req.Asked)
		if err != nil {
			return r, nil, err
		}
		p.Drift.RotationID = r.ID
		return r, will, tx.SavePlacement(ctx, p)
	}
	return rotation.Rotation{}, nil, fmt.Errorf("%w: the secret is not kept in %q", backends.ErrNotFound, req.Backend)
}

// foreseeAdoption says what follows from an adoption.
func (e *Engine) foreseeAdoption(ctx context.Context, tx Tx, secretID, backend string) ([]string, error) {
	var will []string
	at, err := tx.Occupying(ctx, secretID)
	if err != nil && !notFound(err) {
		return nil, err
	}
	if err == nil && at.State == rotation.Queued {
		will = append(will, fmt.Sprintf("rotation %s, which has begun nothing, is cancelled", at.ID))
	}
	s, err := tx.Secret(ctx, secretID)
	if err != nil {
		return nil, err
	}
	will = append(will, "a rotation is made that waits until somebody else approves it",
		fmt.Sprintf("then its probe tries the value that %s holds, which becomes the current version if it is accepted, in a new generation", backend))
	if s.Current > 0 {
		will = append(will, fmt.Sprintf("version %d stays valid for its overlap, and is then revoked and its death proven", s.Current))
	}
	return append(will, "nobody has told the broker what the issuer calls that credential: until somebody does, by `keybroker secret import`, the broker cannot have it revoked"), nil
}

func (e *Engine) adopt(ctx context.Context, tx Tx, secretID string, what rotation.Adoption, asked Asked) (rotation.Rotation, error) {
	now := e.Now()
	s, err := tx.Secret(ctx, secretID)
	if err != nil {
		return rotation.Rotation{}, err
	}
	if s.Definition.Probe == "" {
		return rotation.Rotation{}, fmt.Errorf("%w: %s has no probe: nobody could tell whether the value works", backends.ErrConflict, s.Ref)
	}
	if s.State == rotation.SecretUnmanaged {
		return rotation.Rotation{}, fmt.Errorf("%w: %s is unmanaged", backends.ErrConflict, s.Ref)
	}
	if is, err := e.issuer(s.Definition.Issuer); err == nil && isSetter(is) {
		return rotation.Rotation{}, fmt.Errorf("%w: issuer %s sets the values of accounts: what somebody else has set there is replaced by `keybroker secret rotate %s`, not adopted",
			backends.ErrConflict, s.Definition.Issuer, qualified(s.Ref))
	}
	at, err := tx.Occupying(ctx, secretID)
	switch {
	case err == nil && (at.State != rotation.Queued || at.Emergency() || at.Adopts != nil):
		return rotation.Rotation{}, fmt.Errorf("%w: %s", backends.ErrConflict, occupied(at, s.Ref))
	case err == nil:
		if _, _, err := e.Cancel(ctx, tx, at.ID, Asked{By: asked.By, Reason: "the vault's value is to be adopted first"}); err != nil {
			return rotation.Rotation{}, err
		}
	case !notFound(err):
		return rotation.Rotation{}, err
	}
	plan := s.Definition.Plan
	plan.Approval = true
	r := rotation.Rotation{ID: newID(), SecretID: s.ID, Trigger: rotation.TriggerManual, Reason: asked.Reason, Actor: asked.By, Lineage: asked.Lineage,
		Plan: plan, Under: s.Definition.Pinned(), Adopts: &what, State: rotation.Queued, From: s.Current, CreatedAt: now, StepSince: now, NextAt: now}
	if err := tx.SaveSecret(ctx, &s); err != nil {
		return r, fmt.Errorf("%w: %w", errStale, err)
	}
	if err := tx.AddRotation(ctx, &r); err != nil {
		return r, err
	}
	return r, e.begun(ctx, tx, s, r)
}

// mintAdopted is the minting of an adoption: the vault's value is sealed as a new
// version. Nothing is asked of the issuer, and nothing written to the vault.
func (e *Engine) mintAdopted(ctx context.Context, x *rotating) error {
	what, def := x.r.Adopts, x.secret.Definition
	fail := func(err error) error {
		return e.saveRotation(ctx, x, func(context.Context, Tx) error {
			x.r.Fail(err.Error(), e.Now())
			return nil
		})
	}
	m, err := e.backend(what.Backend)
	if err != nil {
		return fail(err)
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	value, id, err := m.Read(cctx, x.secret.Ref, "")
	switch {
	case backends.Retryable(err):
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	case err != nil:
		return fail(err)
	case id != what.ID, len(what.Prints) > 0 && !maps.Equal(what.Prints, e.fingerprints(x.secret.Ref.Tenant, value.Reveal())):
		return fail(fmt.Errorf("%w: %s holds another value by now than the one that was to be adopted", backends.ErrConflict, what.Backend))
	}
	if _, err := e.recognise(ctx, x.secret, value); err == nil {
		return fail(fmt.Errorf("%w: what %s holds is a version of the secret already", backends.ErrConflict, what.Backend))
	} else if !notFound(err) {
		return e.unheard(ctx, x, rotation.WaitBackend, err)
	}
	v := &rotation.Version{SecretID: x.secret.ID, Ref: x.secret.Ref, Number: x.secret.LastVersion + 1, Stage: rotation.StagePending,
		RotationID: x.r.ID, Attempt: x.r.Attempt + 1, Environment: def.Environment(), Backend: def.Backend, Issuer: def.Issuer, Probe: def.Probe, Settings: def.Settings, CreatedAt: e.Now()}
	if err := e.seal(ctx, v, value); err != nil {
		return e.unheard(ctx, x, rotation.WaitSeal, err)
	}
	if what.Backend == def.Backend {
		v.BackendVersion = id
	}
	want := v.Number
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		if err := tx.AddVersion(ctx, v); err != nil {
			return err
		}
		if v.Number != want {
			return fmt.Errorf("%w: another version was added meanwhile", backends.ErrConflict)
		}
		if err := e.stillAllowed(ctx, tx, x, rotation.Mint); err != nil {
			return err
		}
		x.r.From = x.secret.Current
		x.r.Begin(rotation.Mint, v.Number, e.owner, lease, e.Now())
		x.r.Minted(e.Now())
		if err := tx.EndStep(ctx, x.r.ID, "mint", "ok", fmt.Sprintf("version %d is what %s holds", v.Number, what.Backend), e.Now()); err != nil {
			return err
		}
		if err := e.staged(ctx, tx, x, "nothing is written before it is verified"); err != nil {
			return err
		}
		return e.auditValue(ctx, tx, v.Ref, "rotation.adopt", "ok", map[string]string{"rotation": x.r.ID, "version": fmt.Sprint(v.Number), "backend": what.Backend}, e.hashes(value))
	})
}
