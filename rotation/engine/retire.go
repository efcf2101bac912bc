package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// retiring is all that a step of a retirement looks at, read in one snapshot.
type retiring struct {
	t       rotation.Retirement
	secret  rotation.Secret
	version rotation.Version
	current *rotation.Version // nil if the secret has none, or it is being retired itself
	facts   rotation.RetirementFacts
	catalog *Catalog // as it was when the step began
	spared  []string // addresses that the last round left out, so as not to lock the account
}

// loadRetiring reads a retirement and tells what is due; the rest is read only if
// anything is.
func (e *Engine) loadRetiring(ctx context.Context, id string) (*retiring, rotation.Action, error) {
	x := &retiring{catalog: e.catalog.Load()}
	var act rotation.Action
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		if x.t, err = tx.Retirement(ctx, id); err != nil {
			return err
		}
		if x.t.State == rotation.Requested || x.t.WaitingFor == rotation.WaitFreeze {
			if x.facts.Frozen, err = isFrozen(ctx, tx); err != nil {
				return err
			}
		}
		if act = x.t.Next(x.facts, e.owner, e.Now()); act.Effect == rotation.NoEffect {
			return nil
		}
		if x.secret, err = tx.Secret(ctx, x.t.SecretID); err != nil {
			return err
		}
		if x.version, err = tx.Version(ctx, x.t.SecretID, x.t.Version); err != nil {
			return err
		}
		if purposeOf[act.Effect] == "" {
			return nil
		}
		return e.readControl(ctx, tx, x)
	})
	if err != nil {
		return nil, act, fmt.Errorf("reading retirement %s: %w", id, err)
	}
	return x, act, nil
}

// readControl reads the current version, which a round tries beside the retiring
// one, unless it is being retired itself.
func (e *Engine) readControl(ctx context.Context, tx Tx, x *retiring) error {
	if x.secret.Current == 0 || x.secret.Current == x.t.Version {
		return nil
	}
	_, err := tx.RetirementOf(ctx, x.t.SecretID, x.secret.Current)
	if !notFound(err) {
		return err
	}
	current, err := tx.Version(ctx, x.t.SecretID, x.secret.Current)
	x.current = &current
	return err
}

// stepRetirement takes one retirement one step forward.
func (e *Engine) stepRetirement(ctx context.Context, id string) (stepResult, error) {
	x, act, err := e.loadRetiring(ctx, id)
	if err != nil {
		return stepResult{}, err
	}
	if x.t.Emergency() && x.t.ContainedAt.IsZero() {
		ctx = First(ctx)
	}
	if act.Effect == rotation.NoEffect {
		e.giveUpTurns(ctx, retirementJob{id}, "")
		return e.restRetirement(ctx, x, act)
	}
	took, err := e.inTurn(ctx, shareOfRetiring(x, act.Effect), retirementJob{id}, func() error { return e.turnOff(ctx, x, act.Effect) })
	switch {
	case err != nil || !took:
		return stepResult{}, err
	case x.t.NextAt.After(e.Now()):
		return stepResult{until: x.t.NextAt, job: retirementJob{x.t.ID}, urgent: true}, nil
	}
	return stepResult{again: true}, nil
}

// turnOff does what is due for a retirement.
func (e *Engine) turnOff(ctx context.Context, x *retiring, effect rotation.Effect) error {
	switch effect {
	case rotation.Revoke:
		return e.revoke(ctx, x)
	case rotation.ProbeBefore, rotation.DeathRound, rotation.RecheckRound:
		return e.round(ctx, x, effect)
	case rotation.Remove:
		return e.remove(ctx, x)
	case rotation.Purge:
		return e.purge(ctx, x)
	}
	return nil
}

func (e *Engine) restRetirement(ctx context.Context, x *retiring, act rotation.Action) (stepResult, error) {
	held := x.t.Intent.Held(e.owner, e.Now())
	if !held && x.t.PurgedAt.IsZero() && (!x.t.NextAt.Equal(act.Until) || x.t.WaitingFor != act.WaitingFor) {
		var thawed bool
		err := e.Store.Update(ctx, func(tx Tx) (err error) {
			if thawed, err = hasThawed(ctx, tx, act); err != nil || thawed {
				return err
			}
			t := x.t
			t.Wait(act)
			return tx.SaveRetirement(ctx, &t)
		})
		if err != nil || thawed {
			return stepResult{again: thawed}, err
		}
	}
	return stepResult{until: act.Until, job: retirementJob{x.t.ID}, urgent: true}, nil
}

// saveRetirement commits a change of the retirement together with what fn adds,
// records what it means for the rotation that waits, and wakes whoever does.
func (e *Engine) saveRetirement(ctx context.Context, x *retiring, fn func(context.Context, Tx) error) error {
	before := x.t
	err := e.keep(ctx, func(ctx context.Context, tx Tx) error {
		x.t = before
		if err := fn(ctx, tx); err != nil {
			return err
		}
		x.t.MindRemoval()
		if err := tx.SaveRetirement(ctx, &x.t); err != nil {
			return err
		}
		return e.report(ctx, tx, before, x)
	})
	if err == nil && x.t.State != before.State {
		e.observeRetirement(before, x)
	}
	return err
}

// report adds what changed to the timeline and the audit log.
func (e *Engine) report(ctx context.Context, tx Tx, before rotation.Retirement, x *retiring) error {
	now, t := e.Now(), x.t
	line := func(step, outcome, detail string) error {
		if t.RotationID != "" {
			if err := tx.EndStep(ctx, t.RotationID, step, outcome, fmt.Sprintf("version %d%s", t.Version, detail), now); err != nil {
				return err
			}
		}
		return e.audit(ctx, tx, x.secret.Ref, "retirement."+step, outcome, map[string]string{
			"retirement": t.ID, "version": fmt.Sprint(t.Version), "detail": detail})
	}
	if !t.AcknowledgedAt.Equal(before.AcknowledgedAt) && !t.AcknowledgedAt.IsZero() {
		if err := line("revoke", "ok", ", acknowledged by "+x.version.Issuer); err != nil {
			return err
		}
	}
	if t.NeverMade && !before.NeverMade {
		if err := line("revoke", "ok", ": "+t.Why()); err != nil {
			return err
		}
	}
	if t.Fate() != before.Fate() {
		if err := e.relieve(ctx, tx, t.SecretID, t.Version); err != nil {
			return err
		}
	}
	if !t.ContainedAt.Equal(before.ContainedAt) && !t.ContainedAt.IsZero() {
		if err := line("contain", "ok", " is rejected"); err != nil {
			return err
		}
	}
	if t.State != before.State {
		switch t.State {
		case rotation.ProvenDead:
			detail := fmt.Sprintf(": %d rejected rounds over %s, control %s", t.Rejections, t.LastAt.Sub(t.FirstAt).Round(time.Millisecond), t.Control)
			if err := line("prove", "ok", detail); err != nil {
				return err
			}
		case rotation.Unconfirmed, rotation.Resurrected, rotation.Unprovable:
			if err := line("prove", "failed", " is "+string(t.State)+": "+t.Why()); err != nil {
				return err
			}
			if t.State == rotation.Resurrected {
				if err := e.resurrected(ctx, tx, x); err != nil {
					return err
				}
			}
			if kind, text, next := AlertOf(t, x.secret.Ref); kind != "" {
				if err := alert(ctx, tx, kind, x.secret.Ref, t.ID, text, next); err != nil {
					return err
				}
			}
		}
	}
	if err := e.tellOfRetirement(ctx, tx, before, x); err != nil {
		return err
	}
	if t.Settled() == before.Settled() {
		return nil
	}
	return e.wakeRetiring(ctx, tx, t.SecretID)
}

// wakeRetiring lets the rotations that wait for proofs look again. That it is
// time is in their rows too: a wake-up alone may come to nobody.
func (e *Engine) wakeRetiring(ctx context.Context, tx Tx, secretID string) error {
	live, err := tx.LiveRotations(ctx, secretID)
	if err != nil {
		return err
	}
	for _, r := range live {
		if r.State != rotation.Retiring {
			continue
		}
		r.NextAt = e.Now()
		if err := tx.SaveRotation(ctx, &r); err != nil && !isConflict(err) {
			return err // whoever is at the row is woken below
		}
		if err := tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, zeroTime, r.Emergency())); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) observeRetirement(before rotation.Retirement, x *retiring) {
	log := e.Logger.With("secret", x.secret.Ref, "version", x.t.Version, "retirement", x.t.ID)
	switch x.t.State {
	case rotation.Unconfirmed, rotation.Unprovable:
		log.Error("a revoked credential could not be proven dead", "state", x.t.State, "why", x.t.Why())
	case rotation.Resurrected:
		log.Error("a credential that was proven dead is accepted again; revoking it once more")
	default:
		log.Info("retirement", "from", before.State, "to", x.t.State)
	}
	if e.Observer == nil {
		return
	}
	e.Observer.RetirementState(x.t.State)
	if x.t.State == rotation.ProvenDead {
		e.Observer.RetirementProven(x.t.ContainedAt.Sub(x.t.RequestedAt))
	}
}

// errFrozen: everything was frozen while a step was about to begin. It is looked
// at again, and waits.
var errFrozen = fmt.Errorf("%w: everything was frozen meanwhile", backends.ErrConflict)

func (e *Engine) beginRetirement(ctx context.Context, x *retiring, effect rotation.Effect, also func(context.Context, Tx) error) error {
	return e.saveRetirement(ctx, x, func(ctx context.Context, tx Tx) error {
		x.t.Begin(effect, e.owner, lease, e.Now())
		if also != nil {
			return also(ctx, tx)
		}
		return nil
	})
}

// revoke asks the issuer to turn the credential off; from the intent on, nobody
// is given this version any more.
func (e *Engine) revoke(ctx context.Context, x *retiring) error {
	if why, err := e.servedByMirror(ctx, x); err != nil || why != "" {
		if err != nil {
			return err
		}
		return e.saveRetirement(ctx, x, func(context.Context, Tx) error {
			x.t.HeldUp(rotation.WaitMirror, why, e.Now())
			return nil
		})
	}
	if why := e.inUse(ctx, x); why != nil {
		waitingFor := rotation.WaitBackend
		if errors.Is(why, errOutOfStep) {
			waitingFor = rotation.WaitRepair
			if err := e.heal(ctx, x.secret.ID); err != nil {
				e.Logger.Warn("the vault could not be put in order", "secret", x.secret.Ref, "error", err)
			}
		}
		return e.saveRetirement(ctx, x, func(context.Context, Tx) error {
			x.t.HeldUp(waitingFor, why.Error(), e.Now())
			return nil
		})
	}
	exempt := x.t.Exempt() // before the intent, with which it has begun
	err := e.beginRetirement(ctx, x, rotation.Revoke, func(ctx context.Context, tx Tx) error {
		if x.t.RotationID != "" {
			if err := tx.StartStep(ctx, x.t.RotationID, "revoke", e.Now()); err != nil {
				return err
			}
		}
		if frozen, err := isFrozen(ctx, tx); err != nil || frozen && !exempt {
			return errors.Join(err, errFrozen) // since it was looked at
		}
		v, err := tx.Version(ctx, x.t.SecretID, x.t.Version)
		if err != nil || v.Stage == rotation.StageCurrent || v.Stage == rotation.StageRetired {
			return err // a compromised current version stays the current one until it is replaced
		}
		v.Stage = rotation.StageRetired
		return tx.SaveVersion(ctx, &v)
	})
	if err != nil {
		return err
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	err = e.revokeAtIssuer(cctx, x)
	after := e.afterRevoke(cctx, x, err)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && !errors.Is(err, errNothingFound) && !errors.Is(err, issuer.ErrByHand) {
		e.Logger.Warn("revoking failed and will be tried again", "secret", x.secret.Ref, "version", x.t.Version, "error", err)
	}
	if err == nil && x.t.NeverMade {
		e.Logger.Error("a credential whose mint was given up was made after all, and is revoked", "secret", x.secret.Ref, "version", x.t.Version, "issuer", x.version.Issuer)
	}
	return e.saveRetirement(ctx, x, func(context.Context, Tx) error {
		switch {
		case errors.Is(err, errNothingFound) && x.t.FoundNothing(e.Now()):
		case errors.Is(err, issuer.ErrByHand):
			x.t.ByHandOnly(err.Error(), e.Now())
		case errors.Is(err, errForeign):
			x.t.NotRevocable(err.Error(), e.Now())
		case errors.Is(err, errNoHandle):
			x.t.CannotRevoke(err.Error(), e.Now())
		case err != nil:
			x.t.RevokeFailed(err.Error(), x.version.Handle != nil, e.Now())
		default:
			x.t.Revoked(e.Now())
			after(&x.t)
		}
		return nil
	})
}

// inUse tells whether the vault still serves the version that is about to be
// revoked, whatever the store says: data that was restored from a backup may not
// know of a rollback, and a write that nobody heard of may have arrived (rule 21).
// An emergency does not ask, nor is a vault asked that the secret has moved away from.
func (e *Engine) inUse(ctx context.Context, x *retiring) error {
	if x.t.Emergency() || !x.t.RevokeBegunAt.IsZero() {
		return nil
	}
	current, err := e.currentOf(ctx, x)
	if err != nil || current != nil && current.Backend != x.version.Backend {
		return err
	}
	m, err := e.backend(x.version.Backend)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	held, err := m.Describe(ctx, x.version.Ref)
	switch {
	case backends.Retryable(err) && x.version.BackendVersion != "":
		return err
	case err != nil, held.Current == "", current != nil && held.Current == current.BackendVersion:
		return nil // what cannot be described, or was never known to be there: the store is all there is to go by
	}
	ours, err := e.heldVersion(ctx, m, x.secret)
	switch {
	case errors.Is(err, errOutOfStep) && x.version.Handle == nil && x.version.Sealed == nil:
		return err // the answer to its mint was never heard: what the vault holds may be it
	case errors.Is(err, errOutOfStep): // what somebody else wrote does not keep this one alive
		return nil
	case backends.Retryable(err):
		return err
	case err == nil && ours.Number == x.version.Number:
		return fmt.Errorf("%w: %q serves version %d, which was to be revoked, as the current one; `keybroker secret repair %s` tells what can be done",
			errOutOfStep, m.Name(), x.version.Number, qualified(x.version.Ref))
	}
	return nil
}

// servedByMirror tells whether a version that was rolled back is to live on for a
// mirror that still serves it: as the overlap of what is replaced does, to the
// maximum overlap at most.
func (e *Engine) servedByMirror(ctx context.Context, x *retiring) (why string, err error) {
	plan := x.secret.Definition.Plan
	if x.t.Cause != rotation.CauseRolledBack || x.t.Hastened || !x.t.RevokeBegunAt.IsZero() || !plan.WaitForMirrors || !e.Now().Before(x.t.RequestedAt.Add(plan.MaxOverlap)) {
		return "", nil
	}
	err = e.Store.View(ctx, func(tx Tx) error {
		ps, err := tx.Placements(ctx, x.secret.ID)
		for i := range ps {
			if ps[i].Lags() && ps[i].Have == x.t.Version {
				why = fmt.Sprintf("the mirror %s serves version %d", ps[i].Backend, x.t.Version)
			}
		}
		return err
	})
	return why, err
}

// currentOf reads the version that the store takes for current; nil if there is none.
func (e *Engine) currentOf(ctx context.Context, x *retiring) (current *rotation.Version, err error) {
	if x.secret.Current == 0 {
		return nil, nil
	}
	err = e.Store.View(ctx, func(tx Tx) error {
		v, err := tx.Version(ctx, x.secret.ID, x.secret.Current)
		current = &v
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the current version: %w", err)
	}
	return current, nil
}

// lateArrival is how long after a request to an issuer or vault began it may still
// arrive there, although nobody waits for the answer any more.
const lateArrival = 5 * time.Minute

// errNothingFound: the issuer has nothing under the version's tag, and it is too
// late for that to change.
var errNothingFound = errors.New("the issuer has nothing under this tag")

// errNoHandle: what the issuer may have made cannot be named to it.
var errNoHandle = errors.New("suspected orphan: nobody knows the handle")

// errForeign: the version was not minted by the broker, and nobody has said what
// its issuer calls it (rule 6).
var errForeign = errors.New("nobody has given the handle of this version at its issuer")

// revokeAtIssuer revokes by handle; a version whose handle nobody heard of is
// looked up by its tag first, again and again until its mint cannot arrive late.
func (e *Engine) revokeAtIssuer(ctx context.Context, x *retiring) error {
	if x.version.Foreign() && x.version.Handle == nil {
		return fmt.Errorf("%w: turn it off there by hand, which is then proven, or give it with `keybroker secret import %s --version %d --handle NAME=VALUE`",
			errForeign, qualified(x.version.Ref), x.version.Number)
	}
	is, err := e.issuer(x.version.Issuer)
	if err != nil {
		return err
	}
	sub := e.subject(x.secret, x.version)
	if x.version.Handle != nil {
		return is.Revoke(ctx, sub, x.version.Handle)
	}
	found, err := e.findMint(ctx, is, sub, x.version)
	if err != nil {
		return err
	}
	revoked := 0
	for _, f := range found {
		if err := e.noteHandle(ctx, x, f.Handle); err != nil {
			return err
		}
		if err := is.Revoke(ctx, sub, f.Handle); err != nil {
			return err
		}
		revoked++
	}
	end := latest(x.version.CreatedAt, x.t.RequestedAt).Add(lateArrival) // recovery may have asked again until it was superseded
	switch {
	case revoked > 0:
		return nil
	case isSetter(is) && !x.t.LastAcceptedAt.IsZero():
		return nil // it was there, and another value has been set in its place
	case e.Now().Before(end):
		return fmt.Errorf("%w: nothing under tag %s yet; its mint may still arrive until %s", backends.ErrUnavailable, x.version.Tag, end.UTC().Format(time.RFC3339))
	}
	return errNothingFound
}

// noteHandle records a handle that was found, before it is used: an issuer may
// list what it has revoked no more, and then it could not be found again. ErrUnavailable
// if another version was found to have it meanwhile: then another one is this one's.
func (e *Engine) noteHandle(ctx context.Context, x *retiring, h issuer.Handle) error {
	err := e.keep(ctx, func(ctx context.Context, tx Tx) error {
		if err := tx.Serialize(ctx, "handles "+x.version.Issuer); err != nil {
			return err
		}
		v, err := tx.Version(ctx, x.t.SecretID, x.t.Version)
		if err != nil || sameHandle(v.Handle, h) {
			return err
		}
		if err := handleIsFree(ctx, tx, v.Issuer, h); err != nil || v.Handle != nil {
			return err
		}
		v.Handle = h
		return tx.SaveVersion(ctx, &v)
	})
	if isConflict(err) {
		return fmt.Errorf("%w: what was found at issuer %s is another version's by now; it is looked up again", backends.ErrUnavailable, x.version.Issuer)
	}
	return err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// purge forgets the sealed copy: the proof stays, the plaintext does not.
func (e *Engine) purge(ctx context.Context, x *retiring) error {
	return e.saveRetirement(ctx, x, func(ctx context.Context, tx Tx) error {
		x.t.Purged(e.Now())
		v, err := tx.Version(ctx, x.t.SecretID, x.t.Version)
		if err != nil || v.Sealed == nil {
			return err
		}
		v.Sealed = nil
		return tx.SaveVersion(ctx, &v)
	})
}
