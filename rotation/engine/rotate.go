package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/probe"
)

// rotating is all that a step of a rotation looks at, read in one snapshot.
type rotating struct {
	r           rotation.Rotation
	secret      rotation.Secret // with the definition that the rotation began with: never saved
	versions    []rotation.Version
	retirements map[int]*rotation.Retirement
	facts       rotation.Facts
	missing     []string // the consumers that facts.MissingAcks counts
	inSpite     bool     // it begins although its window is closed
}

func (x *rotating) version(n int) *rotation.Version {
	for i := range x.versions {
		if x.versions[i].Number == n {
			return &x.versions[i]
		}
	}
	return nil
}

// loadRotating reads what a rotation's state makes it look at.
func (e *Engine) loadRotating(ctx context.Context, id string) (*rotating, error) {
	x := &rotating{}
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		if x.r, err = tx.Rotation(ctx, id); err != nil {
			return err
		}
		if x.secret, err = tx.Secret(ctx, x.r.SecretID); err != nil {
			return err
		}
		if err := e.lookAtGates(ctx, tx, x, x.secret); err != nil {
			return err
		}
		if x.r.Under != nil {
			x.secret.Definition = *x.r.Under
			x.secret.Definition.Plan = x.r.Plan
		}
		if x.r.State == rotation.Retiring || x.r.State.Ended() {
			return e.awaited(ctx, tx, x)
		}
		if x.facts.Frozen, err = isFrozen(ctx, tx); err != nil {
			return err
		}
		if x.r.State == rotation.Overlap && x.r.RollBackBy == "" {
			if err := e.mirrorsBehind(ctx, tx, x); err != nil {
				return err
			}
			return e.missingAcks(ctx, tx, x)
		}
		if x.versions, err = tx.Versions(ctx, x.r.SecretID); err != nil {
			return err
		}
		x.retirements, err = retirementsByVersion(ctx, tx, x.r.SecretID)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading rotation %s: %w", id, err)
	}
	x.facts.Paused = x.secret.State == rotation.SecretPaused
	return x, nil
}

// awaited reads the retirements that the rotation waits for.
func (e *Engine) awaited(ctx context.Context, tx Tx, x *rotating) error {
	x.facts.Retirements = nil
	if x.r.State != rotation.Retiring {
		return nil
	}
	for _, n := range x.r.Retires() {
		t, err := tx.RetirementOf(ctx, x.r.SecretID, n)
		if notFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		x.facts.Retirements = append(x.facts.Retirements, t)
	}
	return nil
}

func (e *Engine) missingAcks(ctx context.Context, tx Tx, x *rotating) error {
	x.missing, x.facts.MissingAcks = nil, 0
	if x.r.State != rotation.Overlap {
		return nil
	}
	ds, err := tx.Deliveries(ctx, x.r.SecretID, x.secret.Generation)
	if err != nil || len(ds) == 0 {
		return err
	}
	s, err := tx.Secret(ctx, x.r.SecretID) // its consumers of now: nobody waits for those that were taken out
	if err != nil {
		return err
	}
	for _, d := range ds {
		if slices.Contains(s.Definition.Consumers, d.Consumer) && !d.Satisfies(x.r.Plan.Acknowledgement.Require) {
			x.missing = append(x.missing, d.Consumer)
		}
	}
	x.missing, err = waitedFor(ctx, tx, x.missing)
	x.facts.MissingAcks = len(x.missing)
	return err
}

// mirrorsBehind counts the mirrors that do not hold the new version yet, where the
// plan asks for that.
func (e *Engine) mirrorsBehind(ctx context.Context, tx Tx, x *rotating) error {
	x.facts.MirrorsBehind = 0
	if !x.r.Plan.WaitForMirrors || len(x.secret.Definition.Mirrors) == 0 {
		return nil
	}
	ps, err := tx.Placements(ctx, x.r.SecretID)
	for i := range ps {
		if ps[i].Lags() {
			x.facts.MirrorsBehind++
		}
	}
	return err
}

// stepRotation takes one rotation one step forward.
func (e *Engine) stepRotation(ctx context.Context, id string) (stepResult, error) {
	x, err := e.loadRotating(ctx, id)
	if err != nil {
		return stepResult{}, err
	}
	if x.r.State == rotation.Queued && x.facts.Gate == "" && x.facts.ClosedUntil.IsZero() {
		e.lookOutside(ctx, x)
		if x.facts.IssuerFull && x.r.Emergency() {
			if err := e.Store.Update(ctx, func(tx Tx) error { return e.makeRoom(ctx, tx, x.r.SecretID) }); err != nil {
				return stepResult{}, err
			}
		}
	}
	for {
		v := x.version(x.r.To)
		x.facts.NoProbe = v != nil && (v.Probe == "" || e.unseen(*v)) // the definition may have changed since
		act := x.r.Next(x.facts, e.owner, e.Now())
		if act.Effect == rotation.NoEffect {
			e.giveUpTurns(ctx, rotationJob{id}, "")
			return e.restRotation(ctx, x, act)
		}
		took, err := e.inTurn(ctx, shareOfMaking(x, act.Effect), rotationJob{id}, func() error { return e.perform(ctx, x, act.Effect) })
		if err != nil || !took {
			return stepResult{}, err
		}
		if x.r.State == rotation.Failed && x.r.Emergency() { // the vault may hold a compromised version that it was to replace
			if err := e.heal(ctx, x.secret.ID); err != nil {
				e.Logger.Warn("the vault could not be put in order", "secret", x.secret.Ref, "error", err)
			}
		}
		if !e.mayTryOn(x) {
			return e.restHere(x), nil
		}
	}
}

func (e *Engine) perform(ctx context.Context, x *rotating, effect rotation.Effect) error {
	switch effect {
	case rotation.Mint:
		return e.mint(ctx, x)
	case rotation.RecoverMint:
		return e.recoverMint(ctx, x)
	case rotation.Stage:
		return e.stage(ctx, x)
	case rotation.VerifyTry:
		return e.verify(ctx, x)
	case rotation.Publish:
		return e.publish(ctx, x)
	case rotation.PutBack:
		return e.putBack(ctx, x)
	case rotation.Restore:
		return e.restore(ctx, x)
	case rotation.BeginRetire:
		return e.beginRetire(ctx, x)
	case rotation.Finish:
		return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
			x.r.Finished(e.Now())
			return e.endStep(ctx, tx, x.secret.Ref, x.r.ID, "done", "ok", "", e.Now())
		})
	}
	return nil
}

// mayTryOn tells whether the next step is to try the new credential, for which
// nothing has to be read again: only the rotation's own row matters, and that is
// as it was just saved, or saving the verdict will show that it is not.
func (e *Engine) mayTryOn(x *rotating) bool {
	v := x.version(x.r.To)
	return x.r.State == rotation.Verifying && v != nil && v.Sealed != nil && v.Probe != "" && !e.Now().Before(x.r.NextAt)
}

// restHere says when to go on with a rotation that was just saved.
func (e *Engine) restHere(x *rotating) stepResult {
	switch {
	case x.r.State.Ended():
		return stepResult{}
	case x.r.NextAt.After(e.Now()):
		return stepResult{until: x.r.NextAt, job: rotationJob{x.r.ID}, urgent: x.r.Emergency()}
	}
	return stepResult{again: true}
}

// lookOutside finds what a queued rotation may have to wait for, before its
// first effect (rule 5).
func (e *Engine) lookOutside(ctx context.Context, x *rotating) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	x.r.Error = ""
	if x.r.Adopts != nil { // it is what brings them in step, and asks no issuer
		return
	}
	switch err := e.inStep(ctx, x.secret, x.version(x.secret.Current)); {
	case errors.Is(err, errOutOfStep):
		x.facts.OutOfStep, x.r.Error = true, err.Error()
	case err != nil:
		x.facts.BackendDown, x.r.Error = true, err.Error()
	}
	if name := x.secret.Definition.Issuer; e.fullFor(x.secret.Definition, x.secret.Current, x.versions, x.retirements, x.r.Emergency()) {
		x.facts.IssuerFull, x.r.Error = true, fmt.Sprintf("issuer %q holds as many live credentials of this secret as it can", name)
	} else if down := e.leftAlone(name); !down.Since.IsZero() && !x.r.Emergency() {
		x.facts.IssuerFull, x.facts.IssuerAlone, x.r.Error = true, down.Until, down.text(name)
	}
}

// errOutOfStep: the vault does not hold what the broker believes it does.
var errOutOfStep = errors.New("the vault and the broker are out of step")

func isFrozen(ctx context.Context, tx Tx) (bool, error) {
	_, err := tx.Freeze(ctx)
	if notFound(err) {
		return false, nil
	}
	return err == nil, err
}

// hasThawed tells whether the freeze that act waits for has ended meanwhile: who
// waits for it after its end is woken by nobody.
func hasThawed(ctx context.Context, tx Tx, act rotation.Action) (bool, error) {
	if act.WaitingFor != rotation.WaitFreeze {
		return false, nil
	}
	frozen, err := isFrozen(ctx, tx)
	return !frozen && err == nil, err
}

// wasLetGo tells whether the mirrors or consumers that an overlap is to wait for are
// not waited for any more: whoever let it go before the wait is recorded wakes nobody.
func (e *Engine) wasLetGo(ctx context.Context, tx Tx, x *rotating, act rotation.Action) (bool, error) {
	now := *x
	var err error
	switch act.WaitingFor {
	case rotation.WaitMirror:
		err = e.mirrorsBehind(ctx, tx, &now)
		return err == nil && now.facts.MirrorsBehind < x.facts.MirrorsBehind, err
	case rotation.WaitAcknowledgment:
		err = e.missingAcks(ctx, tx, &now)
		return err == nil && now.facts.MissingAcks < x.facts.MissingAcks, err
	case rotation.WaitPair, rotation.WaitConcurrency:
		return e.wasLetIn(ctx, tx, x)
	}
	return false, nil
}

// restRotation records a wait, unless the row says so already.
func (e *Engine) restRotation(ctx context.Context, x *rotating, act rotation.Action) (stepResult, error) {
	if x.r.State.Ended() {
		return stepResult{}, nil
	}
	held := x.r.Intent.Held(e.owner, e.Now())
	if !held && (!x.r.NextAt.Equal(act.Until) || x.r.WaitingFor != act.WaitingFor) {
		var thawed bool
		err := e.Store.Update(ctx, func(tx Tx) (err error) {
			if thawed, err = hasThawed(ctx, tx, act); err != nil || thawed {
				return err
			}
			if thawed, err = e.wasLetGo(ctx, tx, x, act); err != nil || thawed {
				return err
			}
			r := x.r // Update may run this again
			r.Wait(act)
			if err := e.moved(ctx, tx, x.r, r); err != nil {
				return err
			}
			return tx.SaveRotation(ctx, &r)
		})
		if err != nil || thawed {
			return stepResult{again: thawed}, err
		}
	}
	return stepResult{until: act.Until, job: rotationJob{x.r.ID}, urgent: x.r.Emergency()}, nil
}

// Results are kept also while the process is stopping: what has happened
// outside must not be forgotten. A store that is away for a moment is waited for.
const (
	keepTries   = 4
	keepTimeout = 10 * time.Second
)

// keep commits a result.
func (e *Engine) keep(ctx context.Context, fn func(context.Context, Tx) error) error {
	return keepBy(ctx, func(ctx context.Context, fn func(context.Context, Tx) error) error {
		return e.Store.Update(ctx, func(tx Tx) error { return fn(ctx, tx) })
	}, fn)
}

// keepBy is keep with transactions that update makes.
func keepBy(ctx context.Context, update func(context.Context, func(context.Context, Tx) error) error, fn func(context.Context, Tx) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	for n := 1; ; n++ {
		err := update(ctx, fn)
		if !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, ErrKeyGone) || n == keepTries || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(time.Duration(n) * 200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// saveRotation commits a change of the rotation together with what fn adds. fn
// may run more than once: it starts from the same record each time.
func (e *Engine) saveRotation(ctx context.Context, x *rotating, fn func(context.Context, Tx) error) error {
	before, secret := x.r, x.secret
	err := e.keep(ctx, func(ctx context.Context, tx Tx) error {
		x.r, x.secret = before, secret
		if before.Intent != nil {
			intent := *before.Intent
			x.r.Intent = &intent
		}
		if err := fn(ctx, tx); err != nil {
			return err
		}
		if x.r.State == rotation.Failed && before.State != rotation.Failed {
			if err := e.failed(ctx, tx, x, before.State); err != nil {
				return err
			}
		}
		if err := e.moved(ctx, tx, before, x.r); err != nil {
			return err
		}
		return tx.SaveRotation(ctx, &x.r)
	})
	if err == nil && x.r.State != before.State {
		e.Logger.Info("rotation", "secret", x.secret.Ref, "rotation", x.r.ID, "from", before.State, "to", x.r.State)
	}
	if err == nil && x.r.State.Ended() && e.Observer != nil {
		e.Observer.RotationEnded(x.r.Trigger, x.r.State, x.r.EndedAt.Sub(x.r.CreatedAt))
	}
	return err
}

// failed ends the timeline of a rotation that failed and retires what it minted.
func (e *Engine) failed(ctx context.Context, tx Tx, x *rotating, in rotation.State) error {
	e.Logger.Error("rotation failed", "secret", x.secret.Ref, "rotation", x.r.ID, "in", in, "error", x.r.Error)
	if err := tx.EndStep(ctx, x.r.ID, stepName(in), "failed", x.r.Error, e.Now()); err != nil {
		return err
	}
	if err := e.audit(ctx, tx, x.secret.Ref, "rotation.fail", "failed", map[string]string{"rotation": x.r.ID, "error": x.r.Error}); err != nil {
		return err
	}
	if err := e.containNow(ctx, tx, x, e.Now()); err != nil {
		return err // there is no replacement to wait for any more
	}
	if err := e.dueAfterFailure(ctx, tx, x.r); err != nil {
		return err
	}
	if x.r.To == 0 {
		return nil
	}
	v, err := tx.Version(ctx, x.r.SecretID, x.r.To)
	if err != nil || v.Stage != rotation.StagePending {
		return err
	}
	return e.discard(ctx, tx, x.r, v, rotation.CauseFailed, e.Now())
}

// discard retires a version that was, or may have been, minted in vain.
func (e *Engine) discard(ctx context.Context, tx Tx, r rotation.Rotation, v rotation.Version, cause rotation.Cause, at time.Time) error {
	v.Stage = rotation.StageRetired
	if v.Handle == nil && v.Sealed == nil && e.byHand(v.Issuer) { // nobody has handed it in
		return tx.SaveVersion(ctx, &v)
	}
	if v.Foreign() { // a stranger's value that was to be adopted: it stays theirs
		v.Sealed = nil
		return tx.SaveVersion(ctx, &v)
	}
	if err := tx.SaveVersion(ctx, &v); err != nil {
		return err
	}
	t, err := e.retire(ctx, tx, v, r.Plan.Confirm, cause, Asked{By: "keybroker", Reason: r.Error}, r.ID, at)
	if err != nil || r.Refusals == 0 {
		return err
	}
	t.Tried(r.Refusals, e.Now()) // its account may count them together
	return tx.SaveRetirement(ctx, &t)
}

func stepName(s rotation.State) string { return rotation.StepName(s) }

// begin commits the intent to perform effect.
func (e *Engine) begin(ctx context.Context, x *rotating, effect rotation.Effect) error {
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		if err := e.stillAllowed(ctx, tx, x, effect); err != nil {
			return err
		}
		x.r.Begin(effect, x.r.To, e.owner, lease, e.Now())
		return tx.StartStep(ctx, x.r.ID, stepName(x.r.State), e.Now())
	})
}

// stillAllowed refuses to begin what a freeze holds that came since the rotation
// was looked at. What may have begun outside already is finished, and a rollback
// is what somebody asked for.
func (e *Engine) stillAllowed(ctx context.Context, tx Tx, x *rotating, effect rotation.Effect) error {
	if x.r.Emergency() || x.r.Intent != nil || x.r.EndsOld() || !x.r.UnheardAt.IsZero() || effect != rotation.Mint && effect != rotation.Publish {
		return nil
	}
	frozen, err := isFrozen(ctx, tx)
	switch {
	case err == nil && frozen:
		err = errFrozen
	case err == nil && effect == rotation.Mint:
		err = e.pass(ctx, tx, x)
	}
	return err
}

// unheard records that an effect failed in a way that another try may mend, or
// that may have happened.
func (e *Engine) unheard(ctx context.Context, x *rotating, waitingFor string, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err() // we are stopping: the intent stays as it is
	}
	e.Logger.Warn("a step did not succeed and will be taken up again", "secret", x.secret.Ref, "rotation", x.r.ID, "state", x.r.State, "error", cause)
	return e.saveRotation(ctx, x, func(context.Context, Tx) error {
		x.r.Unheard(waitingFor, cause.Error(), e.Now())
		return nil
	})
}

// verify tries the new credential once. A try changes nothing at the endpoint and
// may be repeated after a crash: it takes no intent.
func (e *Engine) verify(ctx context.Context, x *rotating) error {
	v := x.version(x.r.To)
	p, err := e.probe(v.Probe)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitProbe, err)
	}
	value, err := e.Open(ctx, *v)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitProbe, err)
	}
	if limit := p.LockoutAfter(); limit > 0 && x.r.Refusals+1 >= limit {
		return e.saveRotation(ctx, x, func(context.Context, Tx) error {
			x.r.Fail(fmt.Sprintf("the new credential was not accepted %d times, and one more try would lock its account: %s", x.r.Refusals, x.r.Error), e.Now())
			return nil
		})
	}
	line := e.try(ctx, p, x.secret, *v, value, "")
	line.RotationID, line.Purpose, line.Round = x.r.ID, rotation.PurposeVerify, x.r.Successes+1
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		x.r.Verified(line.Verdict, line.Detail, e.Now())
		if line.Verdict == rotation.Rejected && x.r.State == rotation.Verifying {
			x.r.Spread(p.LockoutAfter(), e.Now())
		}
		if x.r.State == rotation.Publishing {
			detail := fmt.Sprintf("accepted %d times in a row (%s)", x.r.Plan.Verify.Successes, line.Detail)
			if err := e.endStep(ctx, tx, x.secret.Ref, x.r.ID, "verify", "ok", detail, e.Now()); err != nil {
				return err
			}
		}
		return e.addTry(ctx, tx, x.secret.ID, x.secret.Ref, line)
	})
}

// try tries value at one address and returns the line for the record.
func (e *Engine) try(ctx context.Context, p probe.Probe, s rotation.Secret, v rotation.Version, value backends.Value, address string) rotation.Try {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	at := e.Now()
	res := p.Try(ctx, probe.Try{Subject: probe.Subject{Ref: s.Ref, Labels: s.Definition.Labels}, Value: value, Address: address})
	return rotation.Try{Version: v.Number, At: at, Probe: v.Probe, Node: e.Node, Address: res.Address,
		Verdict: res.Verdict, Detail: res.Detail, Latency: res.Latency}
}

// beginRetire ends the overlap: the retirement of what was replaced starts.
func (e *Engine) beginRetire(ctx context.Context, x *rotating) error {
	use, known := e.lastUsed(ctx, x)
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		if frozen, err := isFrozen(ctx, tx); err != nil || frozen {
			return errors.Join(err, errFrozen) // since it was looked at
		}
		now := e.Now()
		detail := ""
		if x.facts.MissingAcks > 0 {
			detail = Unacknowledged(x.missing)
			e.Logger.Warn("revoking although consumers have not acknowledged", "secret", x.secret.Ref, "missing", x.missing)
			err := e.audit(ctx, tx, x.secret.Ref, "rotation.unacknowledged", "failed", map[string]string{"rotation": x.r.ID, "missing": fmt.Sprint(x.facts.MissingAcks), "consumers": strings.Join(x.missing, ", ")})
			if err == nil {
				err = alert(ctx, tx, AlertMissingAcknowledgement, x.secret.Ref, x.r.ID,
					fmt.Sprintf("version %d of %s is being revoked although %s", x.r.From, x.secret.Ref, detail), "keybroker secret consumers "+x.secret.Ref.String())
			}
			if err != nil {
				return err
			}
		}
		if x.facts.MirrorsBehind > 0 {
			detail = strings.TrimPrefix(detail+fmt.Sprintf("; %s not brought to the new version", counted(x.facts.MirrorsBehind, "mirror")), "; ")
			e.Logger.Warn("revoking although mirrors are behind", "secret", x.secret.Ref, "behind", x.facts.MirrorsBehind)
			err := e.audit(ctx, tx, x.secret.Ref, "rotation.mirrors_behind", "failed", map[string]string{"rotation": x.r.ID, "behind": fmt.Sprint(x.facts.MirrorsBehind)})
			if err != nil {
				return err
			}
		}
		if known {
			detail = strings.TrimPrefix(detail+"; version "+fmt.Sprint(x.r.From)+" was "+lastUse(use), "; ")
		}
		if err := e.endStep(ctx, tx, x.secret.Ref, x.r.ID, "overlap", "ok", detail, now); err != nil {
			return err
		}
		x.r.RetireBegun(now)
		if err := e.retireReplaced(ctx, tx, x.r, now); err != nil {
			return err
		}
		if known {
			if err := noteUse(ctx, tx, x.r, use); err != nil {
				return err
			}
		}
		if err := e.awaited(ctx, tx, x); err != nil {
			return err
		}
		if act := x.r.Next(x.facts, e.owner, now); act.Effect == rotation.NoEffect {
			x.r.Wait(act)
		}
		return nil
	})
}

func (e *Engine) subject(s rotation.Secret, v rotation.Version) issuer.Subject {
	return issuer.Subject{Ref: s.Ref, Labels: s.Definition.Labels, Settings: v.Settings}
}

func notFound(err error) bool { return errors.Is(err, backends.ErrNotFound) }

var zeroTime time.Time
