package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// RepairRequest asks for a secret to be put in order.
type RepairRequest struct {
	Asked
	DryRun    bool // only say what is out of order, and what would be done
	Overwrite bool // write the current version over a stranger's value in the vault
}

// Kinds of findings.
const (
	findVault      = "vault"      // the vault does not hold the current version
	findPending    = "pending"    // a pending version that no rotation is working on
	findRotation   = "rotation"   // a rotation that is stuck
	findRetirement = "retirement" // a retirement that gets nowhere
)

// Repair looks for what is out of order with a secret and mends what can be
// mended without guessing: a pending version that nobody works on is retired, and
// the vault is given the current version again where it holds an older one of
// ours, nothing, or, with Overwrite, a stranger's value.
func (e *Engine) Repair(ctx context.Context, secretID string, req RepairRequest) ([]rotation.Finding, error) {
	x, seen, err := e.look(ctx, secretID)
	if err != nil {
		return nil, fmt.Errorf("looking for what is out of order: %w", err)
	}
	found := e.stuckPending(ctx, x, seen, req)
	found = append(found, e.stuckRotation(seen)...)
	found = append(found, stuckRetirements(x, seen)...)
	vault, err := e.repairVault(ctx, x, seen, req)
	if err != nil {
		return nil, err
	}
	return append(found, vault...), nil
}

// stuckPending finds pending versions whose rotation has ended or has moved on.
func (e *Engine) stuckPending(ctx context.Context, x *rotating, seen rotation.Seen, req RepairRequest) []rotation.Finding {
	var out []rotation.Finding
	for _, v := range x.versions {
		if v.Stage != rotation.StagePending || x.retirements[v.Number] != nil {
			continue
		}
		if r := seen.Rotation; r != nil && r.ID == v.RotationID && r.To == v.Number {
			continue // it is being worked on
		}
		f := rotation.Finding{Kind: findPending, Version: v.Number, Mendable: true,
			Detail: fmt.Sprintf("version %d is pending, and no rotation is working on it", v.Number),
			Mend:   "revoke it, if its issuer made it, and prove it dead"}
		if !req.DryRun {
			f.Mended, f.Error = result(e.Store.Update(ctx, func(tx Tx) error { return e.discardStuck(ctx, tx, x.secret, v, req.Asked) }))
		}
		out = append(out, f)
	}
	return out
}

func (e *Engine) discardStuck(ctx context.Context, tx Tx, s rotation.Secret, v rotation.Version, asked Asked) error {
	have, err := tx.Version(ctx, v.SecretID, v.Number)
	if err != nil || have.Stage != rotation.StagePending {
		return err
	}
	if _, err := tx.RetirementOf(ctx, v.SecretID, v.Number); !notFound(err) {
		return err
	}
	if have.Foreign() {
		have.Stage, have.Sealed = rotation.StageRetired, nil
		return tx.SaveVersion(ctx, &have)
	}
	have.Stage = rotation.StageRetired
	if err := tx.SaveVersion(ctx, &have); err != nil {
		return err
	}
	_, err = e.retire(ctx, tx, have, s.Definition.Plan.Confirm, rotation.CauseOrphan, asked, have.RotationID, e.Now())
	return err
}

func (e *Engine) stuckRotation(seen rotation.Seen) []rotation.Finding {
	r := seen.Rotation
	if r == nil || r.Failures == 0 { // one that waits for this repair goes on after it
		return nil
	}
	return []rotation.Finding{{Kind: findRotation, Version: r.To,
		Detail: fmt.Sprintf("rotation %s is %s and has failed %d times in a row: %s", r.ID, r.State, r.Failures, r.Error),
		Mend:   fmt.Sprintf("`keybroker rotation retry %s` once the cause is mended, or `keybroker rotation cancel %s`", r.ID, r.ID)}}
}

func stuckRetirements(x *rotating, seen rotation.Seen) []rotation.Finding {
	var out []rotation.Finding
	for _, t := range seen.Retirements {
		if t.State != rotation.Unconfirmed && t.State != rotation.Resurrected && (t.Failures == 0 || t.NeverMade) {
			continue
		}
		out = append(out, rotation.Finding{Kind: findRetirement, Version: t.Version,
			Detail: fmt.Sprintf("the retirement of version %d is %s: %s", t.Version, t.State, t.Error),
			Mend:   fmt.Sprintf("`keybroker retirement show %s` for every try; if issuer %q still accepts it, turn it off there by hand, then `keybroker retirement probe %s`", t.ID, issuerOf(x, t.Version), t.ID)})
	}
	return out
}

func issuerOf(x *rotating, number int) string {
	if v := x.version(number); v != nil {
		return v.Issuer
	}
	return ""
}

// repairVault compares what the vault holds with the current version.
func (e *Engine) repairVault(ctx context.Context, x *rotating, seen rotation.Seen, req RepairRequest) ([]rotation.Finding, error) {
	current := x.version(x.secret.Current)
	if current != nil && current.Backend != x.secret.Definition.Backend {
		return []rotation.Finding{{Kind: findVault, Version: current.Number,
			Detail: fmt.Sprintf("the current version is in %q, while the configuration says %q", current.Backend, x.secret.Definition.Backend),
			Mend:   "the next rotation writes to the vault that the configuration says"}}, nil
	}
	m, err := e.backend(x.secret.Definition.Backend)
	if err != nil {
		return []rotation.Finding{{Kind: findVault, Detail: err.Error(), Mend: "mend the configuration and `keybroker reload`"}}, nil
	}
	value, id, err := m.Read(ctx, x.secret.Ref, "")
	f := rotation.Finding{Kind: findVault, Version: x.secret.Current, Mendable: current != nil}
	switch {
	case notFound(err) && current == nil:
		return nil, nil
	case notFound(err):
		f.Detail, f.Mend = fmt.Sprintf("%q holds nothing of %s, whose current version is %d", m.Name(), x.secret.Ref, current.Number), "write the current version"
	case err != nil:
		return []rotation.Finding{{Kind: findVault, Version: f.Version, Detail: err.Error(), Mend: "make the vault usable; until then reads are served from the broker's sealed copy"}}, nil
	case current == nil:
		return []rotation.Finding{{Kind: findVault, Detail: fmt.Sprintf("%q holds a value of %s, of which the broker has no version", m.Name(), x.secret.Ref),
			Mend: fmt.Sprintf("`keybroker secret import %s` takes it over; or remove it from the vault if nobody uses it any more: the first rotation does not overwrite it", qualified(x.secret.Ref))}}, nil
	default:
		same, detail, err := e.compare(ctx, m, x, current, value)
		if err != nil || same {
			return nil, err
		}
		f.Detail, f.Mend = detail, "write the current version over it"
		if !e.isOurs(ctx, m, x.secret) {
			f.Mendable = req.Overwrite
			f.Mend += fmt.Sprintf("; with --overwrite only, since somebody may be using what is there: `keybroker drift adopt %s` takes it over instead, and `keybroker drift restore %s --backend %s` writes over it, too",
				qualified(x.secret.Ref), qualified(x.secret.Ref), m.Name())
		}
	}
	if r := seen.Rotation; f.Mendable && r != nil && (r.State == rotation.Publishing || r.RollBackBy != "") {
		f.Mendable, f.Mend = false, fmt.Sprintf("wait for rotation %s, which is writing to the vault", r.ID)
	}
	if f.Mendable && !req.DryRun {
		f.Mended, f.Error = result(e.writeCurrent(ctx, m, x, current, id, req.Asked))
	}
	return []rotation.Finding{f}, nil
}

// compare tells whether the vault holds the current version's value.
func (e *Engine) compare(ctx context.Context, m *backends.Mount, x *rotating, current *rotation.Version, held backends.Value) (same bool, detail string, err error) {
	ours, err := e.Open(ctx, *current)
	if err != nil {
		return false, "", fmt.Errorf("opening the current version: %w", err)
	}
	if ours.Equal(held) {
		return true, "", nil
	}
	v, err := e.heldVersion(ctx, m, x.secret)
	switch {
	case errors.Is(err, errOutOfStep):
		return false, fmt.Sprintf("%q holds a value of %s that was never one of its versions: somebody else wrote it, or a broker whose data was lost", m.Name(), x.secret.Ref), nil
	case err != nil:
		return false, "", err
	}
	return false, fmt.Sprintf("%q holds version %d of %s as the current one, which is version %d", m.Name(), v.Number, x.secret.Ref, current.Number), nil
}

func (e *Engine) isOurs(ctx context.Context, m *backends.Mount, s rotation.Secret) bool {
	_, err := e.heldVersion(ctx, m, s)
	return err == nil
}

// writeCurrent writes the current version to the vault, over what it holds there
// as id, and records which version of the vault it is from now on.
func (e *Engine) writeCurrent(ctx context.Context, m *backends.Mount, x *rotating, current *rotation.Version, id backends.VersionID, asked Asked) error {
	value, err := e.Open(ctx, *current)
	if err != nil {
		return err
	}
	err = e.Store.Update(ctx, func(tx Tx) error { // who did it is in the log before it is done
		s, err := tx.Secret(ctx, x.secret.ID)
		if err != nil {
			return err
		}
		if _, dying := tx.RetirementOf(ctx, s.ID, current.Number); s.Revision != x.secret.Revision || !notFound(dying) {
			return fmt.Errorf("%w: the secret was changed meanwhile, or its current version is being revoked", backends.ErrConflict)
		}
		return tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: x.secret.Ref.Tenant, Actor: asked.By, Action: "secret.repair", Path: x.secret.Ref.Name, Secret: x.secret.Ref.String(),
			Outcome: "ok", Detail: map[string]string{"version": fmt.Sprint(current.Number), "over": string(id), "reason": asked.Reason}})
	})
	if err != nil {
		return err
	}
	w := backends.Write{Value: value, Expect: id, Token: fmt.Sprintf("%s-repair-%s", writeToken(*current), newID()), Version: current.Number, Generation: x.secret.Generation}
	written, err := m.Publish(ctx, x.secret.Ref, w)
	if err != nil {
		return err
	}
	return e.keep(ctx, func(ctx context.Context, tx Tx) error {
		s, err := tx.Secret(ctx, x.secret.ID)
		if err != nil || s.Current != current.Number {
			return err // a rotation went on meanwhile; its own write was guarded
		}
		v, err := tx.Version(ctx, s.ID, s.Current)
		if err != nil {
			return err
		}
		v.BackendVersion = written
		if err := tx.SaveVersion(ctx, &v); err != nil {
			return err
		}
		if err := e.Place(ctx, tx, &s, e.Now()); err != nil {
			return err
		}
		r, err := tx.Occupying(ctx, s.ID)
		if notFound(err) || err == nil && r.WaitingFor != rotation.WaitRepair {
			return nil
		}
		if err != nil {
			return err
		}
		r.NextAt = e.Now()
		if err := tx.SaveRotation(ctx, &r); err != nil && !isConflict(err) {
			return err // whoever is at the row looks at the vault by itself
		}
		return tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, zeroTime, r.Emergency()))
	})
}

func result(err error) (mended bool, text string) {
	if err != nil {
		return false, err.Error()
	}
	return true, ""
}

// heal writes the current version over an older one of ours that the vault serves,
// such as a write that arrived late, where it is sure which of them is right: the
// current one is accepted by its probe, and no rotation is at work on the secret.
func (e *Engine) heal(ctx context.Context, secretID string) error {
	x, seen, err := e.look(ctx, secretID)
	if err != nil {
		return err
	}
	current := x.version(x.secret.Current)
	occupied := seen.Rotation != nil && seen.Rotation.State.Occupies()
	if current == nil || current.Probe == "" || occupied || x.retirements[current.Number] != nil {
		return nil
	}
	m, err := e.backend(current.Backend)
	if err != nil {
		return err
	}
	held, err := e.heldVersion(ctx, m, x.secret)
	if err != nil || held.Number == current.Number {
		return err
	}
	p, err := e.probe(current.Probe)
	if err != nil {
		return err
	}
	value, err := e.Open(ctx, *current)
	if err != nil {
		return err
	}
	if line := e.try(ctx, p, x.secret, *current, value, ""); line.Verdict != rotation.Accepted {
		return fmt.Errorf("%w: the current version %d was %s: %s", errOutOfStep, current.Number, line.Verdict, line.Detail)
	}
	e.Logger.Warn("the vault serves an older version: the current one, which works, is written over it", "secret", x.secret.Ref, "serves", held.Number, "current", current.Number)
	return e.writeCurrent(ctx, m, x, current, held.BackendVersion, Asked{By: "keybroker", Reason: fmt.Sprintf("the vault served version %d", held.Number)})
}
