package engine

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// mintByHand asks a person for the next credential: its version's row is committed,
// and the rotation waits for the value to be handed in.
func (e *Engine) mintByHand(ctx context.Context, x *rotating, person issuer.Person) error {
	def := x.secret.Definition
	v := &rotation.Version{SecretID: x.secret.ID, Ref: x.secret.Ref, Stage: rotation.StagePending, RotationID: x.r.ID, Attempt: x.r.Attempt + 1,
		Tag: fmt.Sprintf("kb-%s-%d", x.r.ID, x.r.Attempt+1), Environment: def.Environment(), Backend: def.Backend, Issuer: def.Issuer,
		Probe: def.Probe, Settings: def.Settings, CreatedAt: e.Now()}
	task := person.Task(e.subject(x.secret, *v), v.Tag)
	return e.saveRotation(ctx, x, func(ctx context.Context, tx Tx) error {
		if err := e.stillAllowed(ctx, tx, x, rotation.Mint); err != nil {
			return err
		}
		row := *v // this may run again
		if err := tx.AddVersion(ctx, &row); err != nil {
			return err
		}
		if x.r.State == rotation.Queued {
			x.r.From = x.secret.Current
		}
		now := e.Now()
		x.r.AwaitValue(row.Number, now.Add(task.Deadline), now)
		if err := tx.StartStep(ctx, x.r.ID, "mint", now); err != nil {
			return err
		}
		err := e.audit(ctx, tx, row.Ref, "rotation.value_wanted", "ok", map[string]string{"rotation": x.r.ID, "version": fmt.Sprint(row.Number), "until": stamp(x.r.ValueBy)})
		if err != nil {
			return err
		}
		return alert(ctx, tx, AlertValueWanted, row.Ref, x.r.ID, valueWanted(x.r, row, task), supplyCommand(x.r))
	})
}

func valueWanted(r rotation.Rotation, v rotation.Version, task issuer.Task) string {
	return fmt.Sprintf("version %d of %s is to be made by hand until %s: %s", v.Number, v.Ref, stamp(r.ValueBy), task.Mint)
}

func supplyCommand(r rotation.Rotation) string { return "keybroker rotation supply " + r.ID }

// valueMissing fails a rotation that nobody handed a value in for.
func (e *Engine) valueMissing(ctx context.Context, x *rotating) error {
	return e.saveRotation(ctx, x, func(context.Context, Tx) error {
		x.r.Fail(fmt.Sprintf("nobody handed in version %d until %s; %s", x.r.To, stamp(x.r.ValueBy), x.r.IfMade()), e.Now())
		return nil
	})
}

// Supply hands in the credential that a person was asked for; from then on it is
// verified, published and proven like any other. handle is what its issuer calls it,
// and may be nil; notAfter when it ends by itself, and may be zero. ErrConflict if the
// rotation waits for none, ErrInvalid if it is not what was asked for.
func (e *Engine) Supply(ctx context.Context, rotationID string, value backends.Value, handle map[string]string, notAfter time.Time, asked Asked) (rotation.Rotation, error) {
	x, err := e.loadRotating(ctx, rotationID)
	if err != nil {
		return rotation.Rotation{}, err
	}
	v := x.version(x.r.To)
	if x.r.State.Ended() {
		return x.r, e.supplyLate(ctx, x, value, handle, notAfter, asked)
	}
	if !x.r.AwaitsValue() || v == nil {
		return x.r, fmt.Errorf("%w: rotation %s waits for no value, it is %s", backends.ErrConflict, x.r.ID, x.r.State)
	}
	if !e.Now().Before(x.r.ValueBy) {
		return x.r, fmt.Errorf("%w: the value was to be handed in until %s; `keybroker secret rotate %s` asks for another, and once this rotation has ended what is handed in is turned off",
			backends.ErrConflict, stamp(x.r.ValueBy), qualified(x.secret.Ref))
	}
	if !notAfter.IsZero() && !notAfter.After(e.Now()) {
		return x.r, fmt.Errorf("%w: not_after is %s, so the credential has ended already: make another", backends.ErrInvalid, stamp(notAfter))
	}
	if short(value, x.r.Plan.MinLength) {
		return x.r, fmt.Errorf("%w: no field has the %d characters that a min_length of its rotation policies asks for: make a longer one", backends.ErrInvalid, x.r.Plan.MinLength)
	}
	if err := e.acceptByHand(ctx, x, v, value, handle, notAfter); err != nil {
		return x.r, err
	}
	hashes, detail := e.hashes(value), map[string]string{"rotation": x.r.ID, "version": fmt.Sprint(v.Number)}
	if !notAfter.IsZero() {
		detail["not_after"] = stamp(notAfter)
	}
	err = e.saveMinted(ctx, x, v, hashes, func(ctx context.Context, tx Tx) error {
		if err := handleIsFree(ctx, tx, v.Issuer, v.Handle); err != nil {
			return err
		}
		return e.auditBy(ctx, tx, v.Ref, asked, "rotation.supply", detail)
	})
	if err != nil {
		return x.r, err
	}
	err = e.Store.Update(ctx, func(tx Tx) error { return tx.Enqueue(ctx, wakeUp(rotationJob{x.r.ID}, zeroTime, x.r.Emergency())) })
	if err != nil { // it is kept, and the rotation found again before long
		e.Logger.Warn("a rotation was not woken", "rotation", x.r.ID, "error", err)
	}
	return x.r, nil
}

// short tells whether even the longest field has less than so many characters: which of
// several is the secret one, nobody knows.
func short(value backends.Value, least int) bool {
	for _, text := range value.Reveal() {
		if utf8.RuneCountInString(text) >= least {
			return false
		}
	}
	return least > 0
}

// acceptByHand checks what a person hands in for version v, and seals it.
func (e *Engine) acceptByHand(ctx context.Context, x *rotating, v *rotation.Version, value backends.Value, handle map[string]string, notAfter time.Time) error {
	is, err := e.issuer(v.Issuer)
	if err != nil {
		return err
	}
	person, ok := is.(issuer.Person)
	if !ok {
		return fmt.Errorf("%w: issuer %s takes no values by hand", backends.ErrConflict, v.Issuer)
	}
	if err := person.Accept(e.subject(x.secret, *v), value, handle); err != nil {
		return err
	}
	switch old, was, err := e.issuedBefore(ctx, x.secret, *v, value); {
	case err != nil:
		return err
	case was:
		return fmt.Errorf("%w: this is the value of version %d: hand in a new one", backends.ErrInvalid, old.Number)
	}
	if err := e.seal(ctx, v, value); err != nil {
		return err
	}
	v.Handle, v.NotAfter = handle, notAfter
	if len(handle) == 0 {
		v.Handle = map[string]string{"tag": v.Tag}
	}
	return nil
}

// supplyLate records what a person made for a rotation that has ended meanwhile, so
// that it is turned off and proven dead. It is ErrConflict all the same: nobody uses it.
func (e *Engine) supplyLate(ctx context.Context, x *rotating, value backends.Value, handle map[string]string, notAfter time.Time, asked Asked) error {
	late := fmt.Errorf("%w: rotation %s waits for no value, it is %s", backends.ErrConflict, x.r.ID, x.r.State)
	if x.r.To == 0 {
		return late
	}
	var v rotation.Version
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		v, err = tx.Version(ctx, x.r.SecretID, x.r.To)
		return err
	})
	switch {
	case err != nil:
		return err
	case !e.byHand(v.Issuer) || v.Handle != nil:
		return late
	}
	if err := e.acceptByHand(ctx, x, &v, value, handle, notAfter); err != nil {
		return err
	}
	var t rotation.Retirement
	err = e.keep(ctx, func(ctx context.Context, tx Tx) error {
		now, err := tx.Version(ctx, v.SecretID, v.Number)
		if err != nil || now.Handle != nil {
			return errors.Join(err, late)
		}
		if err := handleIsFree(ctx, tx, v.Issuer, v.Handle); err != nil {
			return err
		}
		row := v
		row.Stage = rotation.StageRetired
		if err := tx.SaveVersion(ctx, &row); err != nil {
			return err
		}
		if t, err = e.retire(ctx, tx, row, x.r.Plan.Confirm, rotation.CauseFailed, Asked{By: asked.By, Reason: "handed in too late"}, x.r.ID, e.Now()); err != nil {
			return err
		}
		return e.auditBy(ctx, tx, v.Ref, asked, "rotation.supply_late", map[string]string{"rotation": x.r.ID, "version": fmt.Sprint(v.Number)})
	})
	if err != nil {
		return err
	}
	return fmt.Errorf("%w; what was handed in is kept as version %d, which is to be turned off: `keybroker retirement done %s` says that it is", late, v.Number, t.ID)
}

// TurnedOff records, inside tx, that a person says to have turned a credential off.
// It is tried at once; the proof decides.
func (e *Engine) TurnedOff(ctx context.Context, tx Tx, retirementID string, asked Asked) (rotation.Retirement, []string, error) {
	t, err := tx.Retirement(ctx, retirementID)
	if err != nil {
		return t, nil, err
	}
	s, err := tx.Secret(ctx, t.SecretID)
	if err != nil {
		return t, nil, err
	}
	v, err := tx.Version(ctx, t.SecretID, t.Version)
	if err != nil {
		return t, nil, err
	}
	settled := t.Settled()
	if err := e.mayBeTurnedOff(v, t); err != nil {
		return t, nil, err
	}
	if !t.TurnedOff(e.Now()) {
		return t, nil, fmt.Errorf("%w: version %d is not waiting to be turned off by hand: its retirement is %s", backends.ErrConflict, t.Version, t.State)
	}
	if v.Stage == rotation.StagePrevious || v.Stage == rotation.StagePending { // nobody is given it any more
		v.Stage = rotation.StageRetired
		if err := errors.Join(tx.SaveVersion(ctx, &v), e.endOverlap(ctx, tx, t.SecretID, t.Version)); err != nil {
			return t, nil, err
		}
	}
	if err := tx.SaveRetirement(ctx, &t); err != nil {
		return t, nil, fmt.Errorf("%w: %w", errStale, err)
	}
	if err := e.auditBy(ctx, tx, s.Ref, asked, "retirement.turned_off", map[string]string{"retirement": t.ID, "version": fmt.Sprint(t.Version)}); err != nil {
		return t, nil, err
	}
	if t.Settled() != settled {
		if err := e.wakeRetiring(ctx, tx, t.SecretID); err != nil {
			return t, nil, err
		}
	}
	will := []string{fmt.Sprintf("%s is noted as saying that version %d is turned off", asked.By, t.Version)}
	if t.HasProbe {
		will = append(will, "it is tried now, at every address, beside its control; the proof decides")
	}
	return t, will, tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true))
}

// mayBeTurnedOff refuses a person's word where the issuer is asked, and has not refused.
func (e *Engine) mayBeTurnedOff(v rotation.Version, t rotation.Retirement) error {
	switch {
	case v.Stage == rotation.StageCurrent && !t.Emergency():
		return fmt.Errorf("%w: version %d is the current one, which applications are using", backends.ErrConflict, v.Number)
	case v.Foreign() && v.Handle == nil, e.byHand(v.Issuer), t.ByHand, t.RevokeFailures > 0:
		return nil
	}
	if _, err := e.issuer(v.Issuer); err != nil { // nobody can be asked
		return nil //nolint:nilerr // that is what makes room for a person
	}
	return fmt.Errorf("%w: issuer %q turns version %d off, and has not refused to; its retirement is %s", backends.ErrConflict, v.Issuer, v.Number, t.State)
}

func (e *Engine) auditBy(ctx context.Context, tx Tx, ref backends.Ref, asked Asked, action string, detail map[string]string) error {
	detail["reason"] = asked.Reason
	return tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: ref.Tenant, Actor: asked.By, Action: action, Path: ref.Name, Secret: ref.String(), Outcome: "ok", Detail: detail})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// byHand tells whether an issuer is a person.
func (e *Engine) byHand(name string) bool {
	is, err := e.issuer(name)
	if err != nil {
		return false
	}
	_, ok := is.(issuer.Person)
	return ok
}

// unseen tells whether nobody accepts the version before it is published.
func (e *Engine) unseen(v rotation.Version) bool {
	is, err := e.issuer(v.Issuer)
	return err == nil && issuer.TraitsOf(is, v.Settings).Unseen
}
