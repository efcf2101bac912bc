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
		x.r.Fail(fmt.Sprintf("nobody handed in version %d until %s; if it was made, it has to be turned off by hand", x.r.To, stamp(x.r.ValueBy)), e.Now())
		return nil
	})
}

// Supply hands in the credential that a person was asked for; from then on it is
// verified, published and proven like any other. handle is what its issuer calls it,
// and may be nil. ErrConflict if the rotation waits for none, ErrInvalid if it is not
// what was asked for.
func (e *Engine) Supply(ctx context.Context, rotationID string, value backends.Value, handle map[string]string, asked Asked) (rotation.Rotation, error) {
	x, err := e.loadRotating(ctx, rotationID)
	if err != nil {
		return rotation.Rotation{}, err
	}
	v := x.version(x.r.To)
	if !x.r.AwaitsValue() || v == nil {
		return x.r, fmt.Errorf("%w: rotation %s waits for no value, it is %s", backends.ErrConflict, x.r.ID, x.r.State)
	}
	if !e.Now().Before(x.r.ValueBy) {
		return x.r, fmt.Errorf("%w: the value was to be handed in until %s; `keybroker secret rotate %s` asks for another", backends.ErrConflict, stamp(x.r.ValueBy), qualified(x.secret.Ref))
	}
	is, err := e.issuer(v.Issuer)
	if err != nil {
		return x.r, err
	}
	person, ok := is.(issuer.Person)
	if !ok {
		return x.r, fmt.Errorf("%w: issuer %s takes no values by hand", backends.ErrConflict, v.Issuer)
	}
	if err := person.Accept(e.subject(x.secret, *v), value, handle); err != nil {
		return x.r, err
	}
	if old, was, err := e.issuedBefore(ctx, x.secret, *v, value); err != nil || was {
		return x.r, errors.Join(err, fmt.Errorf("%w: this is the value of version %d: hand in a new one", backends.ErrInvalid, old.Number))
	}
	if err := e.seal(ctx, v, value); err != nil {
		return x.r, err
	}
	v.Handle = handle
	if len(handle) == 0 {
		v.Handle = map[string]string{"tag": v.Tag}
	}
	hashes := e.hashes(value)
	err = e.saveMinted(ctx, x, v, hashes, func(ctx context.Context, tx Tx) error {
		return e.auditBy(ctx, tx, v.Ref, asked, "rotation.supply", map[string]string{"rotation": x.r.ID, "version": fmt.Sprint(v.Number)})
	})
	if err != nil {
		return x.r, err
	}
	return x.r, e.Store.Update(ctx, func(tx Tx) error { return tx.Enqueue(ctx, wakeUp(rotationJob{x.r.ID}, zeroTime, x.r.Emergency())) })
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
	settled := t.Settled()
	if !t.TurnedOff(e.Now()) {
		return t, nil, fmt.Errorf("%w: version %d is not waiting to be turned off by hand: its retirement is %s", backends.ErrConflict, t.Version, t.State)
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
