package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// place is where the next credential goes, at an issuer that has slots.
type place struct {
	slot      string
	displaced []int // versions that end when it is set
	inPlace   bool  // what is current ends when it is set
}

// choosePlace picks the slot for the next credential. At an issuer without slots it
// is the empty place. ErrUnavailable, with the reason, if none may be set now.
func (e *Engine) choosePlace(is issuer.Issuer, x *rotating) (place, error) {
	def := x.secret.Definition
	slots := issuer.TraitsOf(is, def.Settings).Slots
	if len(slots) == 0 {
		return place{}, nil
	}
	held, unknown := e.holders(x.secret.Current, x.versions, x.retirements)
	if unknown > 0 && len(slots) > 1 && !x.r.Emergency() {
		return place{}, fmt.Errorf("%w: nobody knows in which account of issuer %s version %d is: `keybroker secret import %s --version %d --handle …` says so",
			backends.ErrUnavailable, def.Issuer, unknown, qualified(x.secret.Ref), unknown)
	}
	slot, displaced, ok := rotation.ChooseSlot(slots, held, x.r.Emergency())
	if !ok {
		return place{}, fmt.Errorf("%w: every account of issuer %s for this secret holds a version that may be alive", backends.ErrUnavailable, def.Issuer)
	}
	ends := slices.Contains(displaced, x.secret.Current) || unknown > 0 && unknown == x.secret.Current
	return place{slot: slot, displaced: displaced, inPlace: x.secret.Current > 0 && ends}, nil
}

// holders are the versions that are alive in accounts, whatever their issuer's block
// was called when they were set; unknown is one that is in nobody knows which. What was
// never heard of is none: whatever is set after it ends it.
func (e *Engine) holders(current int, versions []rotation.Version, retirements map[int]*rotation.Retirement) (held []rotation.Holder, unknown int) {
	for _, v := range versions {
		if v.Handle == nil && !v.Foreign() || gone(retirements[v.Number]) || v.NotAdopted() {
			continue
		}
		slot := v.Slot
		if slot == "" { // imported, or of an issuer that has none
			is, err := e.issuer(v.Issuer)
			setter, ok := is.(issuer.Setter)
			if err != nil || !ok {
				continue
			}
			if slot = setter.SlotOf(v.Handle); slot == "" {
				unknown = v.Number
				continue
			}
		}
		held = append(held, rotation.Holder{Slot: slot, Version: v.Number, Current: v.Number == current})
	}
	return held, unknown
}

// gone tells whether the issuer has turned the credential off, as far as it says.
func gone(t *rotation.Retirement) bool {
	return t != nil && (!t.AcknowledgedAt.IsZero() || t.NeverMade)
}

// tryOld tries the current version before a mint that ends it: nobody can
// afterwards, and without it its death proves nothing. false: the rotation was saved
// and waits. An emergency does not ask.
func (e *Engine) tryOld(ctx context.Context, x *rotating, at place) (bool, error) {
	v := x.version(x.secret.Current)
	switch {
	case !at.inPlace || x.r.Emergency() || v == nil || v.Probe == "" || v.Sealed == nil:
		return true, nil
	case x.r.InPlace != nil && (x.r.InPlace.Before != "" || x.r.InPlace.Begun):
		return true, nil
	}
	p, err := e.probe(v.Probe)
	if err != nil {
		return false, e.unheard(ctx, x, rotation.WaitProbe, err)
	}
	value, err := e.Open(ctx, *v)
	if err != nil {
		return false, e.unheard(ctx, x, rotation.WaitSeal, err)
	}
	line := e.try(ctx, p, x.secret, *v, value, "")
	line.RotationID, line.Purpose, line.Round = x.r.ID, rotation.PurposeBefore, 1
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	by := p.Scope() + " " + e.catalog.Load().ProbeDigests[v.Probe]
	err = e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		x.r.TriedOld(line.Verdict, by, line.Detail, p.LockoutAfter(), e.Now())
		return e.addTry(ctx, tx, x.secret.ID, x.secret.Ref, line)
	})
	return err == nil && x.r.InPlace.Before != "", err
}

// displace begins, with the intent to set a slot, the retirement of what ends by it
// in an emergency. In place of what is current nothing is retired before the new
// version is published.
func (e *Engine) displace(ctx context.Context, tx Tx, x *rotating, at place) error {
	if at.inPlace {
		if !x.r.Emergency() {
			x.r.SetsInPlace()
		}
		return nil
	}
	for _, n := range at.displaced {
		t, err := tx.RetirementOf(ctx, x.secret.ID, n)
		if err == nil && t.RevokeBegunAt.IsZero() { // it was to live until the end of an overlap
			if t.Hasten(e.Now()); x.r.Emergency() {
				t.Escalate(e.Now(), e.Now())
			}
			err = errors.Join(tx.SaveRetirement(ctx, &t), tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true)))
		}
		if !notFound(err) {
			if err != nil {
				return err
			}
			continue
		}
		v, err := tx.Version(ctx, x.secret.ID, n)
		if err != nil {
			return err
		}
		cause, why := rotation.CauseOrphan, fmt.Sprintf("another value is set in its account %s", at.slot)
		if x.r.Emergency() {
			cause, why = rotation.CauseEmergency, fmt.Sprintf("its account %s was needed for the replacement of a compromised version", at.slot)
		}
		if _, err := e.retire(ctx, tx, v, x.r.Plan.Confirm, cause, Asked{By: x.r.Actor, Reason: why}, "", e.Now()); err != nil {
			return err
		}
	}
	return nil
}

// putBack sets the value of the version that was current once more, after a mint
// that has ended it came to nothing (rule 2), or for a rollback.
func (e *Engine) putBack(ctx context.Context, x *rotating) error {
	if t := x.retirements[x.r.From]; t != nil {
		return e.notPutBack(ctx, x, fmt.Sprintf("version %d is being revoked", x.r.From))
	}
	old := x.version(x.r.From)
	if old == nil || old.Sealed == nil {
		return e.notPutBack(ctx, x, fmt.Sprintf("version %d is not kept", x.r.From))
	}
	is, err := e.issuer(old.Issuer)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitIssuer, err)
	}
	setter, ok := is.(issuer.Setter)
	if !ok {
		return e.notPutBack(ctx, x, fmt.Sprintf("issuer %s sets no values", old.Issuer))
	}
	value, err := e.Open(ctx, *old)
	if err != nil {
		return e.unheard(ctx, x, rotation.WaitSeal, err)
	}
	if err := e.begin(ctx, x, rotation.PutBack); err != nil {
		return err
	}
	cctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	req := e.request(x, old, value)
	if req.Slot == "" {
		req.Slot = setter.SlotOf(old.Handle)
	}
	switch err := setter.PutBack(cctx, req, old.Handle, x.r.To); {
	case isConflict(err), x.r.GivesUpPuttingBack(errors.Is(err, backends.ErrInvalid), errors.Is(err, backends.ErrDenied)):
		return e.notPutBack(ctx, x, err.Error())
	case err != nil:
		return errors.Join(e.unheard(ctx, x, rotation.WaitIssuer, err), e.tellDead(ctx, x))
	}
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		in := x.r.State
		x.r.WasPutBack(e.Now())
		detail := fmt.Sprintf("the value of version %d is set again at %s", x.r.From, old.Issuer)
		if err := e.endStep(ctx, tx, x.secret.Ref, x.r.ID, "put_back", "ok", detail, e.Now()); err != nil {
			return err
		}
		return e.gaveUp(ctx, tx, x, in)
	})
}

func (e *Engine) notPutBack(ctx context.Context, x *rotating, why string) error {
	if !x.r.PuttingBack() {
		return e.refuseRollback(ctx, x, why)
	}
	e.Logger.Error("the value that a mint has ended was not set again", "secret", x.secret.Ref, "version", x.r.From, "why", why)
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		in := x.r.State
		x.r.NotPutBack(why, e.Now())
		if err := e.endStep(ctx, tx, x.secret.Ref, x.r.ID, "put_back", "failed", why, e.Now()); err != nil {
			return err
		}
		if err := alertDead(ctx, tx, x); err != nil {
			return err
		}
		return e.gaveUp(ctx, tx, x, in)
	})
}

// tellDead raises the alert that no version works while the old value is not set again.
func (e *Engine) tellDead(ctx context.Context, x *rotating) error {
	if !x.r.PuttingBack() {
		return nil
	}
	return e.keep(ctx, func(ctx context.Context, tx Tx) error { return alertDead(ctx, tx, x) })
}

func alertDead(ctx context.Context, tx Tx, x *rotating) error {
	return alert(ctx, tx, AlertDeadCurrent, x.secret.Ref, x.r.ID, DeadCurrent(x.r, x.secret.Ref), "keybroker rotation show "+x.r.ID)
}

// gaveUp does for a rotation that is cancelled at last what cancelling does; what
// failed is dealt with where it is saved.
func (e *Engine) gaveUp(ctx context.Context, tx Tx, x *rotating, in rotation.State) error {
	if x.r.State != rotation.Cancelled {
		return nil
	}
	if err := tx.EndStep(ctx, x.r.ID, stepName(in), "cancelled", x.r.Error, e.Now()); err != nil || x.r.To == 0 {
		return err
	}
	return e.discardPending(ctx, tx, x.r, e.Now())
}

// fullFor tells whether the issuer has no place for another credential of the secret.
func (e *Engine) fullFor(def rotation.Definition, current int, versions []rotation.Version, retirements map[int]*rotation.Retirement, urgent bool) bool {
	is, err := e.issuer(def.Issuer)
	if err != nil {
		return false
	}
	traits := issuer.TraitsOf(is, def.Settings)
	if len(traits.Slots) > 0 {
		held, _ := e.holders(current, versions, retirements)
		_, _, ok := rotation.ChooseSlot(traits.Slots, held, urgent)
		return !ok
	}
	return full(traits, def.Issuer, versions, retirements)
}

// issuedBefore tells whether the secret ever had a version of exactly this value,
// other than v.
func (e *Engine) issuedBefore(ctx context.Context, s rotation.Secret, v rotation.Version, value backends.Value) (old rotation.Version, was bool, err error) {
	err = e.Store.View(ctx, func(tx Tx) (err error) {
		old, err = tx.VersionWith(ctx, s, e.fingerprints(s.Ref.Tenant, value.Reveal()))
		return err
	})
	if notFound(err) {
		return old, false, nil
	}
	return old, err == nil && old.Number != v.Number, err
}

func isSetter(is issuer.Issuer) bool {
	_, ok := is.(issuer.Setter)
	return ok
}
