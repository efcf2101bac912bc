package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// compareNow looks what the vault holds and records what it found. It changes
// nothing there.
func (e *Engine) compareNow(ctx context.Context, x *placing) error {
	m, err := e.backend(x.p.Backend)
	if err != nil {
		return e.notCompared(ctx, x, err)
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	found, value, err := e.find(cctx, m, x)
	if err != nil {
		return e.notCompared(ctx, x, err)
	}
	line, err := e.tryStranger(ctx, x, found, value)
	if err != nil {
		return err
	}
	prints := e.fingerprints(x.p.Ref.Tenant, value.Reveal())
	err = e.savePlacement(ctx, x, func(ctx context.Context, tx Tx, p *rotation.Placement) error {
		now := e.Now()
		had, again := p.Drift, p.Asked && !x.p.Asked // asked for after we had looked
		p.Compared(found, x.overlap, now, e.nextCheck(p, now))
		p.Asked = again
		if had != nil && had.RotationID != "" && (p.Drift == nil || p.Drift.ID != had.ID) {
			if err := e.withdraw(ctx, tx, had.RotationID); err != nil {
				return err
			}
		}
		if d := p.Drift; d != nil {
			if d.Kind == rotation.DriftChanged && len(prints) > 0 {
				d.Prints = prints
			}
			if had != nil && d.ID == had.ID && maps.Equal(d.Prints, had.Prints) {
				d.Verdict, d.Said, d.RotationID = had.Verdict, had.Said, had.RotationID
			}
			if err := forgetFailed(ctx, tx, d); err != nil {
				return err
			}
			if line.Verdict != "" {
				d.Verdict, d.Said = line.Verdict, line.Detail
				if err := e.addTry(ctx, tx, p.SecretID, p.Ref, line); err != nil {
					return err
				}
			}
			if d.Verdict == rotation.Accepted && d.RotationID == "" {
				return e.propose(ctx, tx, x, p)
			}
		}
		if p.Role == rotation.RolePrimary && p.Drift == nil {
			return e.renamed(ctx, tx, p)
		}
		return nil
	})
	if errors.Is(err, backends.ErrConflict) {
		return err // somebody wrote meanwhile: look again
	}
	return err
}

// forgetFailed lets an adoption be proposed anew that failed; one that a person
// cancelled is not.
func forgetFailed(ctx context.Context, tx Tx, d *rotation.Drift) error {
	if d.RotationID == "" {
		return nil
	}
	r, err := tx.Rotation(ctx, d.RotationID)
	if err == nil && r.State == rotation.Failed {
		d.RotationID, d.Verdict, d.Said = "", "", ""
	}
	if notFound(err) {
		return nil
	}
	return err
}

// find looks at the vault. The value is read only where it is not known to be the
// one that was read before.
func (e *Engine) find(ctx context.Context, m *backends.Mount, x *placing) (rotation.Found, backends.Value, error) {
	var none backends.Value
	desc, err := m.Describe(ctx, x.p.Ref)
	if notFound(err) {
		return rotation.Found{}, none, nil
	}
	if err != nil {
		return rotation.Found{}, none, err
	}
	f := rotation.Found{ID: desc.Current, Stages: map[string]backends.VersionID{}}
	for _, v := range desc.Versions {
		if v.Gone {
			f.Gone = append(f.Gone, v.ID)
		}
		for _, stage := range v.Stages {
			f.Stages[stage] = v.ID
		}
		if v.ID == f.ID {
			f.At = v.CreatedAt
		}
	}
	if f.ID == "" || x.p.Knows(f.ID, f.At) {
		f.Version = x.p.Have
		return f, none, nil
	}
	value, id, err := m.Read(ctx, x.p.Ref, "")
	if notFound(err) {
		f.ID = ""
		return f, none, nil
	}
	if errors.Is(err, backends.ErrInvalid) { // nothing of ours: it does not even have the layout
		return f, none, nil
	}
	if err != nil {
		return rotation.Found{}, none, err
	}
	f.ID = id
	ours, err := e.recognise(ctx, x.secret, value)
	if err != nil && !notFound(err) {
		return rotation.Found{}, none, err
	}
	f.Version = ours.Number
	return f, value, nil
}

// wantsVerdict tells whether a stranger's value is to be tried: once for each, so
// that the account is not locked.
func (e *Engine) wantsVerdict(x *placing, f rotation.Found) bool {
	if x.facts.Rule != rotation.DriftAdopt || x.facts.Frozen || f.ID == "" || f.Version != 0 || x.secret.Definition.Probe == "" {
		return false
	}
	d := x.p.Drift
	return d == nil || d.ID != f.ID || d.Verdict == "" || d.Verdict == rotation.Inconclusive
}

// tryStranger tries a stranger's value, where that is wanted and the account bears
// it, which is counted before. The line is empty where nothing was tried.
func (e *Engine) tryStranger(ctx context.Context, x *placing, f rotation.Found, value backends.Value) (line rotation.Try, err error) {
	if value.IsZero() || !e.wantsVerdict(x, f) {
		return line, nil
	}
	name := x.secret.Definition.Probe
	p, err := e.probe(name)
	if err != nil {
		return rotation.Try{At: e.Now(), Probe: name, Node: e.Node, Purpose: rotation.PurposeVerify, Verdict: rotation.Inconclusive, Detail: err.Error()}, nil
	}
	may := false
	err = e.savePlacement(ctx, x, func(_ context.Context, _ Tx, p2 *rotation.Placement) error {
		may = p2.MayTry(p.LockoutAfter(), e.Now())
		return nil
	})
	if err != nil || !may {
		return line, err
	}
	line = e.try(ctx, p, x.secret, rotation.Version{Probe: name}, value, "")
	line.Purpose = rotation.PurposeVerify
	return line, ctx.Err()
}

// renamed records that the vault calls the current version something else by now:
// the same value was written again.
func (e *Engine) renamed(ctx context.Context, tx Tx, p *rotation.Placement) error {
	v, err := tx.Version(ctx, p.SecretID, p.Have)
	if err != nil || v.BackendVersion == p.HaveID || v.Stage != rotation.StageCurrent {
		return err
	}
	v.BackendVersion = p.HaveID
	return tx.SaveVersion(ctx, &v)
}

// notCompared puts a comparison off: a vault that cannot be asked has not drifted.
func (e *Engine) notCompared(ctx context.Context, x *placing, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return e.savePlacement(ctx, x, func(_ context.Context, _ Tx, p *rotation.Placement) error {
		p.Failed(cause.Error(), e.Now())
		p.Blind = true
		p.Asked = p.Asked && backends.Retryable(cause)
		if !backends.Retryable(cause) { // it is the same the next time
			p.CheckAt = e.nextCheck(p, e.Now())
		}
		return nil
	})
}

// CheckDrift lets every vault of the secret be compared now. It returns how many.
func (e *Engine) CheckDrift(ctx context.Context, tx Tx, secretID string) (int, error) {
	ps, err := tx.Placements(ctx, secretID)
	if err != nil {
		return 0, err
	}
	ps = slices.DeleteFunc(ps, func(p rotation.Placement) bool { return p.Role == rotation.RoleFormer })
	for i := range ps {
		ps[i].CheckNow(e.Now())
		ps[i].Error = "" // what there is from now on is about this
		if err := tx.SavePlacement(ctx, &ps[i]); err != nil {
			return 0, err
		}
		if err := tx.Enqueue(ctx, wakeUp(placementJob{ps[i].ID}, zeroTime, false)); err != nil {
			return 0, err
		}
	}
	return len(ps), nil
}

// ForeseeRestore says what RestoreDrift would do now, or why it would not:
// ErrNotFound where the secret is not kept in that vault, ErrConflict where there is
// nothing to restore, or it must not be done.
func (e *Engine) ForeseeRestore(ctx context.Context, secretID, backend string) ([]string, error) {
	x, err := e.restorable(ctx, secretID, backend)
	if err != nil {
		return nil, err
	}
	over := "what it holds"
	if d := x.p.Drift; d != nil {
		over = "what is there: " + d.Detail
	}
	will := []string{fmt.Sprintf("version %d, the current one, is written to %s over %s", x.current.Number, backend, over)}
	if d := x.p.Drift; d != nil && d.Kind == rotation.DriftChanged {
		will = append(will, "whoever uses the value that is there now has to fetch the current version: the broker does not know that value, and revokes it nowhere")
	}
	return will, nil
}

// restorable reads the placement, if its vault may be given the current version.
func (e *Engine) restorable(ctx context.Context, secretID, backend string) (*placing, error) {
	var id string
	err := e.Store.View(ctx, func(tx Tx) error {
		ps, err := tx.Placements(ctx, secretID)
		if i := slices.IndexFunc(ps, func(p rotation.Placement) bool { return p.Backend == backend && p.Role != rotation.RoleFormer }); i >= 0 {
			id = ps[i].ID
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, fmt.Errorf("%w: the broker keeps no version of it in %q", backends.ErrNotFound, backend)
	}
	x, err := e.readPlacing(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case e.readOnly(backend):
		return nil, fmt.Errorf("%w: the backend %q is read-only", backends.ErrUnsupported, backend)
	case x.current == nil:
		return nil, fmt.Errorf("%w: the secret has no current version, or it is being revoked: nothing is restored", backends.ErrConflict)
	case x.facts.Frozen:
		return nil, fmt.Errorf("%w: everything is frozen", backends.ErrConflict)
	case x.facts.Busy:
		return nil, fmt.Errorf("%w: a rotation is writing to %q", backends.ErrConflict, backend)
	case x.p.Intent.Held("", e.Now()):
		return nil, fmt.Errorf("%w: it is being written to %q now", backends.ErrConflict, backend)
	case x.p.State() == rotation.InStep:
		return nil, fmt.Errorf("%w: %q is in step", backends.ErrConflict, backend)
	case x.p.Drift != nil && x.p.Drift.LabelOnly():
		return nil, fmt.Errorf("%w: %s, and the current version is where it should be: the next rotation moves that stage, or whoever moved it", backends.ErrConflict, x.p.Drift.Detail)
	case x.p.Drift != nil && x.p.Drift.Kind == rotation.DriftDestroyed:
		return nil, fmt.Errorf("%w: %s: it cannot be brought back there; reads of it are served from the broker's sealed copy until its overlap is over", backends.ErrConflict, x.p.Drift.Detail)
	}
	return x, nil
}

func (e *Engine) readOnly(backend string) bool {
	m, err := e.backend(backend)
	return err == nil && m.Capabilities().ReadOnly
}

// RestoreDrift writes the current version over what somebody else left in a vault,
// whatever the secret's rule says, because a person asks for it. Its errors are those
// of ForeseeRestore, and ErrUnavailable where the vault could not be written; that is
// tried again where the rule says so.
func (e *Engine) RestoreDrift(ctx context.Context, secretID, backend string, asked Asked) error {
	x, err := e.restorable(ctx, secretID, backend)
	if err != nil {
		return err
	}
	err = e.Store.Update(ctx, func(tx Tx) error { // who did it is in the log before it is done
		return tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: x.p.Ref.Tenant, Actor: asked.By, Action: "drift.restore", Path: x.p.Ref.Name, Secret: x.p.Ref.String(),
			Outcome: "ok", Detail: map[string]string{"backend": backend, "reason": asked.Reason, "version": fmt.Sprint(x.current.Number)}})
	})
	if err != nil {
		return err
	}
	key := placementJob{}.Kind() + x.p.ID
	if _, mine := e.runs.enter(key); !mine {
		return fmt.Errorf("%w: %q is being looked at, ask again", backends.ErrConflict, backend)
	}
	defer e.runs.drop(key)
	x.facts.Rule, x.asked = rotation.DriftRestore, true
	if err := e.placeNow(ctx, x); err != nil {
		return err
	}
	if x.p.State() != rotation.InStep {
		return fmt.Errorf("%w: %s", backends.ErrUnavailable, x.p.Error)
	}
	return nil
}
