package broker

import (
	"context"
	"fmt"
	"strconv"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
)

// Supply hands in the credential that a rotation waits for, which a person has made.
// It is a write of the secret's value: update, on its path. The audit log has keyed
// hashes of the fields, by which it can be told who handed in what, and of the handle how
// many parts it has: what it says stands with the mint, once it was looked at.
func (b *Broker) Supply(ctx context.Context, p authn.Principal, id string, r client.SupplyRequest) (out client.Rotation, err error) {
	of, may, emergency, missing := b.targeted(ctx, p, onRotation(id))
	req := request{action: "rotation.supply", path: recordPath["rotation"] + id,
		detail: map[string]string{"rotation": id, "reason": r.Reason, "fields": strconv.Itoa(len(r.Fields)), "handle": strconv.Itoa(len(r.Handle))}}
	if missing != nil { // nobody needs a permission to be told
		return out, b.refuse(ctx, p, req, itemwise, missing)
	}
	req = req.about(of.Ref.Name, of)
	if req.path = of.Ref.Name; !may.sees && !b.allows(p, req.path, of, policy.Update) {
		return out, b.unseen(ctx, p, req, "rotation", id)
	}
	wrong := r.Decode()
	supply := func() error {
		if wrong != nil {
			return fmt.Errorf("%w: %w", backends.ErrInvalid, wrong)
		}
		if len(r.Fields) == 0 {
			return fmt.Errorf("%w: the credential is missing: which fields does it have?", backends.ErrInvalid)
		}
		rot, err := b.Engine.Supply(ctx, id, backends.NewValue(r.Fields), r.Handle, r.NotAfter, asked(p, r.Reason))
		out = viewRotation(store.RotationOf{Rotation: rot, Ref: of.Ref}, nil)
		return err
	}
	sensitive := handedOut(client.Value{Fields: r.Fields})
	if emergency { // it goes on with a containment, which waits for no log
		d, err := b.decide(p, req, policy.Update)
		if err != nil {
			return out, b.refuse(ctx, p, req, d, err)
		}
		return out, b.containing(ctx, p, req, d, supply)
	}
	err = b.doSensitive(ctx, p, []policy.Capability{policy.Update}, req, func() (map[string]string, error) { return sensitive, supply() })
	return out, err
}

// TurnedOff records that a person says to have turned a credential off which only a
// person can. It is tried at once: the proof decides.
func (b *Broker) TurnedOff(ctx context.Context, p authn.Principal, id string, r client.InterventionRequest) (out client.RetirementIntervention, err error) {
	err = b.intervene(ctx, p, policy.Rotate, "retirement.done", onRetirement(id), r, func(tx *store.Tx, of backends.Ref) error {
		t, will, err := b.Engine.TurnedOff(ctx, tx, id, asked(p, r.Reason))
		if err != nil {
			return err
		}
		out.Retirement = viewRetirement(store.RetirementOf{Retirement: t, Ref: of}, nil)
		out.Foretold, err = foretold(r, will)
		return err
	})
	return out, err
}
