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

// placing is all that a step of a placement looks at, read in one snapshot.
type placing struct {
	p       rotation.Placement
	secret  rotation.Secret
	current *rotation.Version // nil if the secret has none, or it is being turned off itself
	overlap int               // the version that is in its overlap, 0 = none
	facts   rotation.PlacementFacts
	catalog *Catalog // as it was when the step began
	asked   bool     // a person asks for the write
}

// Place brings the placements of a secret in line with its definition and its
// current version: the primary holds it, the mirrors want it, and a vault that is
// neither any more is only relieved of dead versions. Call it inside tx whenever
// one of these changes.
func (e *Engine) Place(ctx context.Context, tx Tx, s *rotation.Secret, now time.Time) error {
	if s.Current == 0 {
		return nil // there is nothing to hold
	}
	current, err := tx.Version(ctx, s.ID, s.Current)
	if err != nil {
		return err
	}
	have, err := tx.Placements(ctx, s.ID)
	if err != nil {
		return err
	}
	urgent := e.isUrgent(ctx, tx, current)
	roles := map[string]rotation.Role{current.Backend: rotation.RolePrimary}
	names := []string{current.Backend}
	for _, name := range s.Definition.Mirrors {
		if roles[name] == "" {
			roles[name], names = rotation.RoleMirror, append(names, name)
		}
	}
	for i := range have {
		p := &have[i]
		role := roles[p.Backend]
		names = slices.DeleteFunc(names, func(n string) bool { return n == p.Backend })
		if err := e.replaceIn(ctx, tx, s, p, role, current, urgent, now); err != nil {
			return err
		}
	}
	for _, name := range names { // that have none yet
		p := rotation.Placement{ID: newID(), SecretID: s.ID, Ref: s.Ref, Backend: name}
		p.Wanted(roles[name], current.Number, urgent, now)
		if p.Role == rotation.RolePrimary {
			p.Placed(current.Number, current.BackendVersion, s.Generation, now)
		}
		p.CheckAt = e.nextCheck(&p, now)
		if err := tx.AddPlacement(ctx, &p); err != nil {
			return err
		}
		if err := e.wakePlacement(ctx, tx, &p); err != nil {
			return err
		}
	}
	return nil
}

// replaceIn brings one placement that exists in line; role is empty where the
// secret has nothing to do with that vault any more.
func (e *Engine) replaceIn(ctx context.Context, tx Tx, s *rotation.Secret, p *rotation.Placement, role rotation.Role, current rotation.Version, urgent bool, now time.Time) error {
	if role == "" && p.Lags() { // nobody waits for it any more
		if err := e.wakeWaiting(ctx, tx, p.SecretID); err != nil {
			return err
		}
	}
	switch {
	case role == "" && len(p.Held) == 0:
		return tx.RemovePlacement(ctx, p)
	case role == "" && p.Role == rotation.RoleFormer:
		return nil
	case role == "":
		p.Wanted(rotation.RoleFormer, p.Have, false, now)
		p.Drift = nil
	case role == rotation.RolePrimary && p.Role == role && p.Have == current.Number && p.Want == current.Number && p.HaveID == current.BackendVersion:
		return nil
	case role == rotation.RolePrimary:
		p.Wanted(role, current.Number, urgent, now)
		p.Placed(current.Number, current.BackendVersion, s.Generation, now)
		p.CheckAt = e.nextCheck(p, now)
	case p.Role == role && p.Want == current.Number:
		return nil
	default:
		p.Wanted(role, current.Number, urgent, now)
		if p.Drift != nil { // what it was found to hold may be just this version, which was adopted
			p.CheckNow(now)
		}
	}
	if err := tx.SavePlacement(ctx, p); err != nil {
		return err
	}
	if role == rotation.RoleMirror {
		return e.wakePlacement(ctx, tx, p)
	}
	return nil
}

func (e *Engine) wakePlacement(ctx context.Context, tx Tx, p *rotation.Placement) error {
	if p.Role == rotation.RolePrimary && p.Drift == nil && !p.Asked {
		return nil // its row says when to look again
	}
	return tx.Enqueue(ctx, wakeUp(placementJob{p.ID}, zeroTime, p.Urgent))
}

// isUrgent tells whether an emergency brought the version.
func (e *Engine) isUrgent(ctx context.Context, tx Tx, v rotation.Version) bool {
	if v.RotationID == "" {
		return false
	}
	r, err := tx.Rotation(ctx, v.RotationID)
	return err == nil && r.Emergency()
}

// nextCheck spreads comparisons: one interval from now, less up to a fifth by the
// secret, so that a vault with many secrets is asked evenly.
func (e *Engine) nextCheck(p *rotation.Placement, now time.Time) time.Time {
	every := e.catalog.Load().DriftEvery[p.Backend]
	if every <= 0 {
		return time.Time{}
	}
	var sum uint32
	for _, c := range p.SecretID + p.Backend + fmt.Sprint(now.UnixMicro()/int64(every/time.Microsecond+1)) {
		sum = sum*31 + uint32(c)
	}
	return now.Add(every - every/5*time.Duration(sum%1000)/1000)
}

// loadPlacing reads a placement; what else a step looks at only if one is due.
func (e *Engine) loadPlacing(ctx context.Context, id string) (*placing, error) {
	return e.loadPlacingIf(ctx, id, func(p rotation.Placement) bool { return !e.Now().Before(p.NextAt) })
}

// readPlacing reads all of it.
func (e *Engine) readPlacing(ctx context.Context, id string) (*placing, error) {
	return e.loadPlacingIf(ctx, id, func(rotation.Placement) bool { return true })
}

func (e *Engine) loadPlacingIf(ctx context.Context, id string, wanted func(rotation.Placement) bool) (*placing, error) {
	x := &placing{catalog: e.catalog.Load()}
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		*x = placing{catalog: x.catalog}
		if x.p, err = tx.Placement(ctx, id); err != nil {
			return err
		}
		if !wanted(x.p) {
			return nil
		}
		if x.secret, err = tx.Secret(ctx, x.p.SecretID); err != nil {
			return err
		}
		if x.facts.Fates, err = fates(ctx, tx, x); err != nil {
			return err
		}
		if err := e.readCurrent(ctx, tx, x); err != nil {
			return err
		}
		frozen, err := isFrozen(ctx, tx)
		urgent := x.p.Urgent && x.p.Drift == nil && x.p.State() == rotation.Behind // for what an emergency brought, and nothing else
		x.facts.Frozen = frozen && !urgent
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading placement %s: %w", id, err)
	}
	x.facts.Rule, x.facts.Every = x.secret.Definition.OnDrift, x.catalog.DriftEvery[x.p.Backend]
	if e.Doubts != nil && e.Doubts(x.p.Ref, x.secret.Current) {
		x.facts.Rule, x.facts.Current = rotation.DriftReport, 0
	}
	return x, nil
}

// readCurrent reads the version that may be written, and whether a rotation may be
// writing to the same vault.
func (e *Engine) readCurrent(ctx context.Context, tx Tx, x *placing) error {
	if x.secret.Current > 0 {
		_, err := tx.RetirementOf(ctx, x.secret.ID, x.secret.Current)
		if err != nil && !notFound(err) {
			return err
		}
		if err != nil {
			v, err := tx.Version(ctx, x.secret.ID, x.secret.Current)
			if err != nil {
				return err
			}
			x.current, x.facts.Current = &v, v.Number
		}
	}
	r, err := tx.Occupying(ctx, x.secret.ID)
	if notFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.State == rotation.Overlap {
		x.overlap = r.From
	}
	x.facts.Busy = x.p.Role == rotation.RolePrimary && writing(r)
	return nil
}

// writing tells whether a rotation may be writing to its vault now.
func writing(r rotation.Rotation) bool {
	return r.State == rotation.Staging || r.State == rotation.Publishing || !r.UnheardAt.IsZero() || r.RollBackBy != ""
}

// stepPlacement takes one placement one step forward.
func (e *Engine) stepPlacement(ctx context.Context, id string) (stepResult, error) {
	x, err := e.loadPlacing(ctx, id)
	if err != nil {
		return stepResult{}, err
	}
	act := x.p.Next(x.facts, e.owner, e.Now())
	switch act.Effect {
	case rotation.NoEffect:
		return e.restPlacement(ctx, x, act)
	case rotation.Place:
		err = e.placeNow(ctx, x)
	case rotation.Compare:
		err = e.compareNow(ctx, x)
	case rotation.TakeOut:
		err = e.takeOut(ctx, x)
	}
	return stepResult{again: err == nil}, err
}

func (e *Engine) restPlacement(ctx context.Context, x *placing, act rotation.Action) (stepResult, error) {
	left := x.p.Intent != nil // by a process that died; a comparison finds what came of it
	if !x.p.Intent.Held(e.owner, e.Now()) && (left || !x.p.NextAt.Equal(act.Until)) {
		err := e.Store.Update(ctx, func(tx Tx) error {
			p := x.p
			p.NextAt, p.Intent = act.Until, nil
			if p.Role == rotation.RoleFormer && len(p.Held) == 0 {
				return tx.RemovePlacement(ctx, &p)
			}
			return tx.SavePlacement(ctx, &p)
		})
		if err != nil {
			return stepResult{}, err
		}
	}
	return stepResult{until: act.Until, job: placementJob{x.p.ID}, urgent: x.p.Urgent}, nil
}

// savePlacement commits an outcome. What a rotation wants of the vault may have
// changed meanwhile: the outcome is added to the row as it is now. Another outcome
// since then (ErrConflict) makes this one worthless: whoever had it is asked again.
func (e *Engine) savePlacement(ctx context.Context, x *placing, fn func(context.Context, Tx, *rotation.Placement) error) error {
	var saved rotation.Placement
	err := e.keep(ctx, func(ctx context.Context, tx Tx) error {
		p, err := tx.Placement(ctx, x.p.ID)
		if err != nil {
			return err
		}
		if p.HaveID != x.p.HaveID || !sameIntent(p.Intent, x.p.Intent) || p.Role != x.p.Role {
			return fmt.Errorf("%w: what %s holds of %s has changed meanwhile", backends.ErrConflict, p.Backend, x.p.Ref)
		}
		before := p
		if err := fn(ctx, tx, &p); err != nil {
			return err
		}
		if p.Want != x.p.Want {
			p.NextAt = e.Now() // another version is wanted by now
		}
		if err := tx.SavePlacement(ctx, &p); err != nil {
			return err
		}
		saved = p
		return e.placed(ctx, tx, x, &before, &p)
	})
	if err != nil {
		return err
	}
	x.p = saved
	return nil
}

func sameIntent(a, b *rotation.Intent) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Owner == b.Owner && a.At.Equal(b.At)
}

// placed records in the audit log what changed, and wakes a rotation that waits for
// its mirrors.
func (e *Engine) placed(ctx context.Context, tx Tx, x *placing, before, p *rotation.Placement) error {
	say := func(action, outcome, detail string) error {
		return e.audit(ctx, tx, x.p.Ref, action, outcome, map[string]string{"backend": p.Backend, "version": fmt.Sprint(p.Have), "detail": detail})
	}
	switch {
	case p.Drift != nil && (before.Drift == nil || before.Drift.FoundAt != p.Drift.FoundAt):
		e.Logger.Error("a vault holds something else than it was given", "secret", x.p.Ref, "backend", p.Backend, "kind", p.Drift.Kind, "detail", p.Drift.Detail)
		if e.Observer != nil {
			e.Observer.DriftFound(p.Backend, p.Drift.Kind)
		}
		if err := say("drift.find", "failed", p.Drift.Detail); err != nil {
			return err
		}
	case p.Drift == nil && before.Drift != nil:
		if err := say("drift.end", "ok", string(before.Drift.Kind)); err != nil {
			return err
		}
	}
	if before.Lags() == p.Lags() || p.Lags() {
		return nil
	}
	return e.wakeWaiting(ctx, tx, p.SecretID)
}

// wakeWaiting lets a rotation look again whose overlap waits for mirrors.
func (e *Engine) wakeWaiting(ctx context.Context, tx Tx, secretID string) error {
	r, err := tx.Occupying(ctx, secretID)
	if notFound(err) || err == nil && r.WaitingFor != rotation.WaitMirror {
		return nil
	}
	if err != nil {
		return err
	}
	r.NextAt = e.Now()
	if err := tx.SaveRotation(ctx, &r); err != nil && !isConflict(err) {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, zeroTime, r.Emergency()))
}

// placeNow brings the vault to the current version by one guarded write.
func (e *Engine) placeNow(ctx context.Context, x *placing) error {
	m, err := e.backend(x.p.Backend)
	if err != nil {
		return e.notPlaced(ctx, x, err)
	}
	value, err := e.Open(ctx, *x.current)
	if err != nil {
		return e.notPlaced(ctx, x, err)
	}
	if err := e.mayOverwrite(ctx, x, value); err != nil {
		return e.notPlaced(ctx, x, err)
	}
	if err := e.beginPlace(ctx, x); err != nil {
		return err
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	id, err := e.guardedPlace(cctx, m, x, e.placeWrite(x, value))
	if ctx.Err() != nil && err != nil {
		return ctx.Err() // we are stopping: the intent stays
	}
	if err != nil {
		return e.notPlaced(ctx, x, err)
	}
	return e.savePlacement(ctx, x, func(ctx context.Context, tx Tx, p *rotation.Placement) error {
		if p.Drift != nil && !x.asked {
			err := e.audit(ctx, tx, x.p.Ref, "drift.restore", "ok", map[string]string{"backend": p.Backend, "version": fmt.Sprint(x.current.Number), "over": string(p.Drift.ID)})
			if err != nil {
				return err
			}
		}
		p.Placed(x.current.Number, id, x.secret.Generation, e.Now())
		p.CheckAt = e.nextCheck(p, e.Now())
		if p.Role != rotation.RolePrimary {
			return e.audit(ctx, tx, x.p.Ref, "mirror.write", "ok", map[string]string{"backend": p.Backend, "version": fmt.Sprint(p.Have)})
		}
		v, err := tx.Version(ctx, p.SecretID, x.current.Number)
		if err != nil {
			return err
		}
		v.BackendVersion = id
		return tx.SaveVersion(ctx, &v)
	})
}

// mayOverwrite makes sure, before the rule writes over somebody else's value, that
// the current version works: data that was restored from a backup may take a dead
// one for it. A person who asks for it has decided.
func (e *Engine) mayOverwrite(ctx context.Context, x *placing, value backends.Value) error {
	if x.asked || x.p.Drift == nil || x.current.Probe == "" {
		return nil
	}
	p, err := e.probe(x.current.Probe)
	if err != nil {
		return err
	}
	if line := e.try(ctx, p, x.secret, *x.current, value, ""); line.Verdict != rotation.Accepted {
		return fmt.Errorf("%w: the current version %d was %s (%s): it is not written over what %s holds", backends.ErrUnavailable, x.current.Number, line.Verdict, line.Detail, x.p.Backend)
	}
	return nil
}

// beginPlace commits the intent, unless the version is not to be written any more.
func (e *Engine) beginPlace(ctx context.Context, x *placing) error {
	return e.keep(ctx, func(ctx context.Context, tx Tx) error {
		s, err := tx.Secret(ctx, x.secret.ID)
		if err != nil {
			return err
		}
		if _, dying := tx.RetirementOf(ctx, s.ID, x.current.Number); s.Current != x.current.Number || !notFound(dying) {
			return errors.Join(backends.ErrConflict, fmt.Errorf("version %d of %s is not to be written any more", x.current.Number, s.Ref))
		}
		if frozen, err := isFrozen(ctx, tx); err != nil || frozen && x.facts.Frozen == frozen {
			return errors.Join(err, errFrozen)
		}
		if r, err := tx.Occupying(ctx, s.ID); err == nil && writing(r) && (x.p.Role == rotation.RolePrimary || r.Under != nil && r.Under.Backend == x.p.Backend) {
			return fmt.Errorf("%w: rotation %s is writing to %s", backends.ErrConflict, r.ID, x.p.Backend)
		} else if err != nil && !notFound(err) {
			return err
		}
		p := x.p
		p.Begin(rotation.Place, e.owner, lease, e.Now())
		if err := tx.SavePlacement(ctx, &p); err != nil {
			return err
		}
		x.p = p
		return nil
	})
}

func (e *Engine) placeWrite(x *placing, value backends.Value) backends.Write {
	w := backends.Write{Value: value, Expect: x.p.HaveID, Token: writeToken(*x.current) + "@" + x.p.Backend,
		Version: x.current.Number, Generation: x.secret.Generation, Urgent: x.p.Urgent}
	if x.p.Drift != nil { // it was there before: this write is another one
		w.Expect = x.p.Drift.ID
		w.Token += "@" + string(x.p.Drift.ID)
	}
	return w
}

// writeToken names the writes of one version; see backends.Write.
func writeToken(v rotation.Version) string {
	if v.Foreign() {
		return fmt.Sprintf("kb-%s-v%d", v.SecretID, v.Number)
	}
	return v.Tag
}

// guardedPlace writes. On a conflict it looks what the vault holds: a version of
// ours is taken as the one to replace, a stranger's value only where the secret's
// rule is to restore.
func (e *Engine) guardedPlace(ctx context.Context, m *backends.Mount, x *placing, w backends.Write) (backends.VersionID, error) {
	id, err := m.PublishOnce(ctx, x.p.Ref, w) // and not again before it is certain that this version is still wanted
	if !errors.Is(err, backends.ErrConflict) {
		return id, err
	}
	held, heldErr := e.heldVersion(ctx, m, x.secret)
	switch {
	case notFound(heldErr):
		w.Expect = ""
	case errors.Is(heldErr, errOutOfStep):
		if x.facts.Rule != rotation.DriftRestore || held.BackendVersion == "" {
			return "", heldErr
		}
		w.Expect = held.BackendVersion
	case heldErr != nil:
		return "", fmt.Errorf("after a conflict, looking what the vault holds: %w", heldErr)
	case held.Number > x.current.Number:
		return "", fmt.Errorf("%w: %s holds version %d already, which is newer", backends.ErrUnavailable, m.Name(), held.Number)
	default:
		w.Expect = held.BackendVersion
	}
	viewErr := e.Store.View(ctx, func(tx Tx) error { // who slept must not write over what came after
		p, err := tx.Placement(ctx, x.p.ID)
		if err == nil && (p.Want != x.p.Want || !sameIntent(p.Intent, x.p.Intent)) {
			err = fmt.Errorf("%w: another version is wanted by now", backends.ErrUnavailable)
		}
		return err
	})
	if viewErr != nil {
		return "", viewErr
	}
	return m.PublishOnce(ctx, x.p.Ref, w)
}

// notPlaced records that a vault could not be brought to the current version.
func (e *Engine) notPlaced(ctx context.Context, x *placing, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e.Logger.Warn("a vault was not brought to the current version, and is tried again", "secret", x.p.Ref, "backend", x.p.Backend, "error", cause)
	return e.savePlacement(ctx, x, func(_ context.Context, _ Tx, p *rotation.Placement) error {
		p.Failed(cause.Error(), e.Now())
		if errors.Is(cause, errOutOfStep) { // a comparison tells what it is
			p.Asked, p.Blind = true, false
		}
		return nil
	})
}
