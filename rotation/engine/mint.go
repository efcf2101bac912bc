package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// mint opens the next attempt: the version's row, its tag and, where the broker
// makes the value itself, the sealed value are committed before the issuer is asked.
func (e *Engine) mint(ctx context.Context, x *rotating) error {
	if x.r.AwaitsValue() { // its time is over
		return e.valueMissing(ctx, x)
	}
	if v := x.version(x.r.To); v != nil && v.Stage == rotation.StagePending && v.Handle == nil && x.r.State == rotation.Minting {
		return e.mintAgain(ctx, x, v)
	}
	if x.r.Adopts != nil {
		return e.mintAdopted(ctx, x)
	}
	def := x.secret.Definition
	is, err := e.issuer(def.Issuer)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitIssuer, err)
	}
	if err := e.canSeal(ctx); err != nil {
		return e.unheard(ctx, x, rotation.WaitSeal, err)
	}
	if person, ok := is.(issuer.Person); ok {
		return e.mintByHand(ctx, x, person)
	}
	at, err := e.choosePlace(is, x)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitIssuer, err)
	}
	if ready, err := e.tryOld(ctx, x, at); err != nil || !ready {
		return err
	}
	attempt := x.r.Attempt + 1
	v := &rotation.Version{SecretID: x.secret.ID, Ref: x.secret.Ref, Number: x.secret.LastVersion + 1, Stage: rotation.StagePending,
		RotationID: x.r.ID, Attempt: attempt, Tag: fmt.Sprintf("kb-%s-%d", x.r.ID, attempt),
		Environment: def.Environment(), Backend: def.Backend, Issuer: def.Issuer, Probe: def.Probe, Settings: def.Settings, Slot: at.slot, CreatedAt: e.Now()}
	if v.Seen, err = e.seen(ctx, is, e.subject(x.secret, *v)); err != nil {
		return e.notListed(ctx, x, err)
	}
	if p, ok := is.(issuer.Preparer); ok {
		value, err := e.prepare(ctx, x, p, v)
		if backends.Retryable(err) {
			return e.unheard(ctx, x, rotation.WaitIssuer, err)
		}
		if err != nil {
			return e.saveRotation(ctx, x, func(context.Context, Tx) error { // nothing was asked of anybody, and it would fail again
				x.r.Fail(err.Error(), e.Now())
				return nil
			})
		}
		if err := e.seal(ctx, v, value); err != nil {
			return e.unheard(ctx, x, rotation.WaitSeal, err)
		}
	}
	want := v.Number
	err = e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		if err := tx.AddVersion(ctx, v); err != nil {
			return err
		}
		if v.Number != want {
			return fmt.Errorf("%w: another version was added meanwhile", backends.ErrConflict)
		}
		if err := e.stillAllowed(ctx, tx, x, rotation.Mint); err != nil {
			return err
		}
		if x.r.State == rotation.Queued { // another one may have ended since this was asked for
			x.r.From = x.secret.Current
		}
		x.r.Begin(rotation.Mint, v.Number, e.owner, lease, e.Now())
		if err := e.displace(ctx, tx, x, at); err != nil {
			return err
		}
		return tx.StartStep(ctx, x.r.ID, "mint", e.Now())
	})
	if errors.Is(err, ErrKeyGone) {
		return e.unheard(ctx, x, rotation.WaitSeal, err)
	}
	if err != nil {
		return err
	}
	x.versions = append(x.versions, *v)
	return e.issue(ctx, x, is, &x.versions[len(x.versions)-1], false)
}

// prepare makes a value that the secret never had. An error is final unless it is
// retryable.
func (e *Engine) prepare(ctx context.Context, x *rotating, p issuer.Preparer, v *rotation.Version) (backends.Value, error) {
	for n := 1; ; n++ {
		value, err := p.Prepare(e.request(x, v, backends.Value{}))
		if err != nil {
			return value, err
		}
		old, was, err := e.issuedBefore(ctx, x.secret, *v, value)
		if err != nil {
			return value, fmt.Errorf("%w: looking whether a value was issued before: %w", backends.ErrUnavailable, err)
		}
		if !was {
			return value, nil
		}
		if n == MaxPrepares {
			return value, fmt.Errorf("%w: issuer %s prepares the value of version %d again and again", backends.ErrInvalid, v.Issuer, old.Number)
		}
	}
}

// MaxPrepares is how often a value is prepared that turns out to have been issued before.
const MaxPrepares = 3

// mintAgain repeats an attempt whose request certainly did not reach the issuer.
func (e *Engine) mintAgain(ctx context.Context, x *rotating, v *rotation.Version) error {
	is, err := e.issuer(v.Issuer)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitIssuer, err)
	}
	if err := e.canSeal(ctx); err != nil {
		return e.unheard(ctx, x, rotation.WaitSeal, err)
	}
	if err := e.begin(ctx, x, rotation.Mint); err != nil {
		return err
	}
	return e.issue(ctx, x, is, v, false)
}

// canSeal tells whether a value that is sealed now will be kept. It is asked before an
// issuer makes a credential: one that cannot be kept would be alive, and lost.
func (e *Engine) canSeal(ctx context.Context) error {
	if s, ok := e.Sealer.(Readier); ok {
		return s.Ready(ctx)
	}
	return nil
}

func (e *Engine) request(x *rotating, v *rotation.Version, prepared backends.Value) issuer.Request {
	return issuer.Request{Subject: e.subject(x.secret, *v), Tag: v.Tag, Attempt: v.Attempt, Version: v.Number,
		Key: issuer.KeySpec(x.r.Plan.Key), Slot: v.Slot, Urgent: x.r.Emergency(), Prepared: prepared}
}

// issue asks the issuer for version v, whose row is committed, and commits what
// comes of it. again tells that it may have been made already.
func (e *Engine) issue(ctx context.Context, x *rotating, is issuer.Issuer, v *rotation.Version, again bool) error {
	var prepared backends.Value
	if _, ok := is.(issuer.Preparer); ok {
		var err error
		if prepared, err = e.Open(ctx, *v); err != nil {
			return e.unheard(ctx, x, rotation.WaitSeal, err)
		}
	}
	answered, err := e.asking(v.Issuer, v.SecretID, x.r.Emergency())
	if err != nil {
		return e.notMinted(ctx, x, err, again)
	}
	cred, err := e.ask(ctx, is, e.request(x, v, prepared), answered)
	switch {
	case err == nil:
		return e.minted(ctx, x, v, cred)
	case errors.Is(err, issuer.ErrNotSent) && backends.Retryable(err) && ctx.Err() == nil:
		return e.notMinted(ctx, x, err, again)
	case backends.Retryable(err) && len(cred.Handle) > 0:
		return e.notWhole(ctx, x, v, cred.Handle, err)
	case backends.Retryable(err):
		return e.unheard(ctx, x, rotation.WaitIssuer, err)
	case isConflict(err) && limited(is, *v): // somebody else's credential takes the place, or one of ours that is not gone yet
		return e.notMinted(ctx, x, err, again)
	default:
		mayExist := again || errors.Is(err, backends.ErrConflict)
		return e.mintLost(ctx, x, err, mayExist)
	}
}

// limited tells whether a conflict means that the issuer holds all it can, and has
// made nothing: where values are prepared it is about the tag.
func limited(is issuer.Issuer, v rotation.Version) bool {
	_, prepares := is.(issuer.Preparer)
	return !prepares && issuer.TraitsOf(is, v.Settings).MaxLive > 0
}

// ask makes one request to the issuer and tells the breaker what came of it, also
// if the issuer's code panics.
func (e *Engine) ask(ctx context.Context, is issuer.Issuer, req issuer.Request, answered func(error)) (cred issuer.Credential, err error) {
	ctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	err = fmt.Errorf("%w: the issuer gave no answer", backends.ErrUnavailable)
	defer func() { answered(err) }()
	cred, err = is.Issue(ctx, req)
	return cred, err
}

// notMinted records that the issuer was not asked, or certainly has not heard it.
// Where an earlier request may have arrived (again) it is still to be recovered.
func (e *Engine) notMinted(ctx context.Context, x *rotating, cause error, again bool) error {
	if again {
		return e.unheard(ctx, x, rotation.WaitIssuer, cause)
	}
	e.Logger.Warn("the issuer was not reached", "secret", x.secret.Ref, "rotation", x.r.ID, "error", cause)
	return e.saveRotation(ctx, x, func(context.Context, Tx) error {
		x.r.NotMinted(cause.Error(), e.Now())
		return nil
	})
}

// minted commits a credential that the issuer made.
func (e *Engine) minted(ctx context.Context, x *rotating, v *rotation.Version, cred issuer.Credential) error {
	v.Handle, v.NotAfter = cred.Handle, cred.NotAfter
	if v.Sealed == nil {
		if err := e.seal(ctx, v, cred.Value); err != nil {
			return e.notKept(ctx, x, v, err)
		}
	}
	value := cred.Value
	if len(value.FieldNames()) == 0 { // it was prepared
		value, _ = e.Open(ctx, *v)
	}
	if old, was, err := e.issuedBefore(ctx, x.secret, *v, value); err == nil && was {
		return e.reissued(ctx, x, v, old)
	}
	hashes := e.hashes(value)
	err := e.saveMinted(ctx, x, v, hashes, nil)
	if errors.Is(err, ErrKeyGone) {
		if err := e.reseal(ctx, v); err != nil {
			return e.notKept(ctx, x, v, err)
		}
		err = e.saveMinted(ctx, x, v, hashes, nil)
	}
	switch {
	case errors.Is(err, ErrKeyGone):
		return e.notKept(ctx, x, v, err)
	case errors.Is(err, backends.ErrConflict):
		return e.adoptOrphan(ctx, x, v)
	case err != nil: // its recovery looks for it; where that cannot be, this line is what is left
		e.Logger.Error("a credential was minted and could not be recorded", "secret", v.Ref, "issuer", v.Issuer, "tag", v.Tag, "handle", handleText(v.Handle), "error", err)
	}
	return err
}

// reissued fails a rotation whose issuer gave a value that it had given before. Of
// one that is in use nothing is revoked: it is the same credential.
func (e *Engine) reissued(ctx context.Context, x *rotating, v *rotation.Version, old rotation.Version) error {
	why := fmt.Sprintf("issuer %s gave the value of version %d again", v.Issuer, old.Number)
	e.Logger.Error("an issuer gave a credential that it had given before", "secret", v.Ref, "issuer", v.Issuer, "version", old.Number)
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		if err := alert(ctx, tx, AlertReissued, v.Ref, x.r.ID, fmt.Sprintf("%s: %s", v.Ref, why), "keybroker rotation show "+x.r.ID); err != nil {
			return err
		}
		t, err := tx.RetirementOf(ctx, v.SecretID, old.Number)
		if err != nil && !notFound(err) {
			return err
		}
		again := *v
		if inUse := err != nil || t.MayLive(); inUse || sameHandle(again.Handle, old.Handle) {
			again.Stage, again.Sealed, again.Handle = rotation.StageRetired, nil, nil
			why += ", which may be in use: nothing is revoked"
		}
		again.Fingerprints = nil // they are the older one's
		if err := tx.SaveVersion(ctx, &again); err != nil {
			return err
		}
		x.r.Fail(why, e.Now())
		return nil
	})
}

func sameHandle(a, b map[string]string) bool { return maps.Equal(a, b) }

// saveMinted commits what the issuer made, after what also adds or refuses; also may be nil.
func (e *Engine) saveMinted(ctx context.Context, x *rotating, v *rotation.Version, hashes map[string]string, also func(context.Context, Tx) error) error {
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		if also != nil {
			if err := also(ctx, tx); err != nil {
				return err
			}
		}
		if err := tx.SaveVersion(ctx, v); err != nil {
			return err
		}
		x.r.Minted(e.Now())
		if err := tx.EndStep(ctx, x.r.ID, "mint", "ok", fmt.Sprintf("version %d by %s", v.Number, v.Issuer), e.Now()); err != nil {
			return err
		}
		if m, err := e.backend(v.Backend); err == nil && !stages(m) {
			if err := e.stagedHere(ctx, tx, x); err != nil {
				return err
			}
		}
		return e.auditValue(ctx, tx, v.Ref, "rotation.mint", "ok", map[string]string{"rotation": x.r.ID, "version": fmt.Sprint(v.Number), "handle": handleText(v.Handle)}, hashes)
	})
}

// reseal seals a version's value by the key that seals now. The old one has been
// removed from the store, but not from this node's memory.
func (e *Engine) reseal(ctx context.Context, v *rotation.Version) error {
	if err := e.canSeal(ctx); err != nil {
		return err
	}
	value, err := e.Open(ctx, *v)
	if err != nil {
		return err
	}
	return e.seal(ctx, v, value)
}

// notListed records that what the issuer holds before a mint could not be listed: nothing
// was asked for. What it refuses is asked again as often as a mint would be.
func (e *Engine) notListed(ctx context.Context, x *rotating, err error) error {
	e.noteFailure(x.secret.Definition.Issuer, x.secret.ID, err)
	again := x.r.Emergency() && !errors.Is(err, backends.ErrInvalid)
	if backends.Retryable(err) || again || x.r.Failures+1 < rotation.MaxMints {
		return e.unheard(ctx, x, rotation.WaitIssuer, err)
	}
	return e.saveRotation(ctx, x, func(context.Context, Tx) error {
		x.r.Fail(err.Error(), e.Now())
		return nil
	})
}

// notWhole retires a credential of which the issuer gave the handle, and nothing that
// can be used.
func (e *Engine) notWhole(ctx context.Context, x *rotating, v *rotation.Version, h issuer.Handle, cause error) error {
	v.Handle = h
	err := e.mintLost(ctx, x, cause, true)
	if isConflict(err) {
		return e.adoptOrphan(ctx, x, v)
	}
	return err
}

// notKept records the handle of a credential whose value cannot be sealed, so that it
// is revoked.
func (e *Engine) notKept(ctx context.Context, x *rotating, v *rotation.Version, cause error) error {
	e.Logger.Error("a fresh credential cannot be sealed; it is retired, and another is minted", "secret", v.Ref, "handle", handleText(v.Handle), "error", cause)
	v.Sealed = nil
	return errors.Join(cause, e.adoptOrphan(ctx, x, v))
}

// adoptOrphan records a credential whose rotation has moved on without it, so
// that it is retired (rule 7). ErrConflict tells the caller to read again.
func (e *Engine) adoptOrphan(ctx context.Context, x *rotating, v *rotation.Version) error {
	err := e.saveOrphan(ctx, x, v)
	if errors.Is(err, ErrKeyGone) && v.Sealed != nil { // the handle is worth more than the value
		v.Sealed = nil
		err = e.saveOrphan(ctx, x, v)
	}
	if err != nil {
		return fmt.Errorf("recording the orphan %s at issuer %s: %w", handleText(v.Handle), v.Issuer, err)
	}
	return fmt.Errorf("%w: rotation %s moved on while its credential was minted", backends.ErrConflict, x.r.ID)
}

func (e *Engine) saveOrphan(ctx context.Context, x *rotating, v *rotation.Version) error {
	return e.keep(ctx, func(ctx context.Context, tx Tx) error {
		have, err := tx.Version(ctx, v.SecretID, v.Number)
		if err != nil {
			return err
		}
		if have.Handle != nil || have.Stage != rotation.StagePending && have.Stage != rotation.StageRetired {
			return nil // somebody recovered it and knows its handle
		}
		have.Handle, have.Sealed, have.Fingerprints = v.Handle, v.Sealed, v.Fingerprints
		if err := tx.SaveVersion(ctx, &have); err != nil {
			return err
		}
		t, err := tx.RetirementOf(ctx, v.SecretID, v.Number)
		if err == nil {
			t.Reopen(have.Sealed != nil && have.Probe != "", e.Now())
			if err := tx.SaveRetirement(ctx, &t); err != nil {
				return err
			}
			return tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true))
		}
		if !notFound(err) {
			return err
		}
		r, err := tx.Rotation(ctx, x.r.ID)
		if err != nil || (!r.State.Ended() && r.To == v.Number) {
			return err // the rotation still has it: its recovery decides
		}
		return e.discard(ctx, tx, x.r, have, rotation.CauseOrphan, e.Now())
	})
}

// mintLost gives up the present attempt. Where the issuer may have made
// something, the version is retired; else its row is only closed.
func (e *Engine) mintLost(ctx context.Context, x *rotating, cause error, mayExist bool) error {
	why := cause.Error()
	e.Logger.Warn("a mint left nothing to use", "secret", x.secret.Ref, "rotation", x.r.ID, "attempt", x.r.Attempt, "error", why)
	to := x.r.To
	var handle issuer.Handle // heard just now
	if v := x.version(to); v != nil {
		handle = v.Handle
	}
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		x.r.Error = why
		v, err := tx.Version(ctx, x.r.SecretID, to)
		if err == nil && v.Stage == rotation.StagePending {
			if mayExist {
				if v.Handle == nil {
					v.Handle = handle
				}
				err = e.discard(ctx, tx, x.r, v, rotation.CauseOrphan, e.Now())
			} else {
				v.Stage, v.Sealed = rotation.StageRetired, nil
				err = tx.SaveVersion(ctx, &v)
			}
		}
		if err != nil && !notFound(err) {
			return err
		}
		x.r.MintLost(why, errors.Is(cause, backends.ErrInvalid), e.Now())
		return e.endStep(ctx, tx, x.secret.Ref, x.r.ID, "mint", "retry", why, e.Now())
	})
}

// recoverMint finds out what became of a mint whose answer nobody has (rules 1
// and 2): a prepared value is asked for again; elsewhere the tag is looked up,
// and what is found is retired, since its value was shown to nobody.
func (e *Engine) recoverMint(ctx context.Context, x *rotating) error {
	v := x.version(x.r.To)
	if v.Handle != nil && v.Sealed != nil { // whoever minted it lost the row, and has kept what it got
		return e.minted(ctx, x, v, issuer.Credential{Handle: v.Handle, NotAfter: v.NotAfter})
	}
	if v.Handle != nil {
		return e.mintLost(ctx, x, fmt.Errorf("%w: the credential %s was minted and its value could not be sealed", backends.ErrUnavailable, handleText(v.Handle)), true)
	}
	if err := e.begin(ctx, x, rotation.RecoverMint); err != nil {
		return err
	}
	is, err := e.issuer(v.Issuer)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitIssuer, err)
	}
	if _, ok := is.(issuer.Preparer); ok {
		return e.issue(ctx, x, is, v, true)
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	found, err := e.findMint(cctx, is, e.subject(x.secret, *v), *v)
	e.noteFailure(v.Issuer, v.SecretID, err)
	if errors.Is(err, errNoHandle) {
		return e.saveRotation(ctx, x, func(context.Context, Tx) error {
			x.r.Fail(fmt.Sprintf("the answer to a mint was lost: %v", err), e.Now())
			return nil
		})
	}
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitIssuer, err)
	}
	// Also with nothing found the version is retired: the lost request may still
	// arrive, and its retirement looks for the tag again.
	return e.mintLost(ctx, x, fmt.Errorf("the answer to the mint was lost%s; looked up at its issuer, %d found", lostBy(x.r.Error), len(found)), true)
}

// lostBy quotes what was heard instead of an answer.
func lostBy(why string) string {
	if why == "" || strings.HasPrefix(why, "the answer to the mint was lost") {
		return ""
	}
	return " (" + why + ")"
}

func handleText(h map[string]string) string {
	b, _ := json.Marshal(h)
	return string(b)
}
