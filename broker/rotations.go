package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// sees tells whether p may know of a secret: it is within p's walls, and listed or
// read by one of its policies.
func (b *Broker) sees(p authn.Principal, s rotation.Secret) bool {
	return b.reaches(p, s) && (b.allows(p, s.Ref.Name, s, policy.List) || b.allows(p, s.Ref.Name, s, policy.Read))
}

// unseen audits that p asked for what it may not see, which is answered as if it
// were not there.
func (b *Broker) unseen(ctx context.Context, p authn.Principal, r request, kind, name string) error {
	return b.refuse(ctx, p, r, decided{capability: policy.List}, notThere(kind, name))
}

func notThere(kind, name string) error {
	return fmt.Errorf("%w: there is no %s %q", backends.ErrNotFound, kind, name)
}

// recordPath is where records are, by their ids, that belong to a secret: it is in
// the audit log where the secret is not known.
var recordPath = map[string]string{"rotation": "sys/rotations/", "retirement": "sys/retirements/", "delivery": "sys/deliveries/"}

// owners finds the secrets that records belong to, each once.
func owners(ctx context.Context, tx *store.Tx) func(backends.Ref) (rotation.Secret, error) {
	known := map[backends.Ref]rotation.Secret{}
	return func(ref backends.Ref) (rotation.Secret, error) {
		if s, ok := known[ref]; ok {
			return s, nil
		}
		s, err := tx.SecretByRef(ctx, ref)
		if err == nil {
			known[ref] = s
		}
		return s, err
	}
}

// listOf serves one page of what belongs to secrets: what p may not see is left out.
func listOf[T, W any](ctx context.Context, b *Broker, p authn.Principal, action, secret string,
	read func(*store.Tx, string) ([]T, string, error), ref func(T) backends.Ref, view func(*store.Tx, T) (W, error)) (client.List[W], error) {
	list := client.List[W]{Items: []W{}}
	r := request{action: action, path: pathOf(secret)}
	var of rotation.Secret
	if secret != "" {
		var missing error
		of, r, missing = b.resolve(ctx, p, secret, r)
		if !b.allows(p, r.path, of, policy.List) && !b.allows(p, r.path, of, policy.Read) {
			return list, b.unseen(ctx, p, r, "secret", secret)
		}
		if missing != nil {
			return list, b.refuse(ctx, p, r, itemwise, missing)
		}
	}
	err := b.serve(ctx, p, r, itemwise, func() (map[string]string, error) {
		return nil, b.Store.View(ctx, func(tx *store.Tx) error {
			found, next, err := read(tx, of.ID)
			if err != nil {
				return err
			}
			list.Items, list.Next = list.Items[:0], next
			owner := owners(ctx, tx)
			for _, item := range found {
				s, err := owner(ref(item))
				if err != nil {
					return err
				}
				if !b.sees(p, s) {
					continue
				}
				w, err := view(tx, item)
				if err != nil {
					return err
				}
				list.Items = append(list.Items, w)
			}
			return nil
		})
	})
	return list, err
}

// itemwise is decided for every item of a list by itself.
var itemwise = decided{Decision: policy.Decision{Allowed: true}}

// one serves a single record of a secret: what p may not see is not there.
func one[T, W any](ctx context.Context, b *Broker, p authn.Principal, action, kind, id string,
	read func(*store.Tx) (T, rotation.Secret, error), view func(*store.Tx, T, rotation.Secret) (W, error)) (W, error) {
	var out, none W
	var of rotation.Secret
	r := request{action: action, path: recordPath[kind] + id, detail: map[string]string{kind: id}}
	err := b.Store.View(ctx, func(tx *store.Tx) error {
		item, s, err := read(tx)
		if err != nil {
			return err
		}
		of = s
		out, err = view(tx, item, s)
		return err
	})
	if of.ID != "" {
		if b.reaches(p, of) { // else not even a tenant's own audit log names it
			r = r.about(of.Ref.Name, of)
			r.path = of.Ref.Name
		}
		if !b.sees(p, of) {
			return none, b.unseen(ctx, p, r, kind, id)
		}
	}
	if errors.Is(err, backends.ErrNotFound) {
		err = notThere(kind, id)
	}
	if err != nil {
		return none, b.refuse(ctx, p, r, itemwise, err)
	}
	if err := b.serve(ctx, p, r, itemwise, func() (map[string]string, error) { return nil, nil }); err != nil {
		return none, err
	}
	return out, nil
}

// Rotations lists rotations, the newest first.
func (b *Broker) Rotations(ctx context.Context, p authn.Principal, q client.RotationQuery) (client.List[client.Rotation], error) {
	return listOf(ctx, b, p, "rotation.list", q.Secret,
		func(tx *store.Tx, id string) ([]store.RotationOf, string, error) {
			return tx.Rotations(ctx, store.RotationFilter{Tenant: p.Tenant, SecretID: id, State: rotation.State(q.State), Live: q.Live}, page(q.Page))
		},
		func(r store.RotationOf) backends.Ref { return r.Ref },
		func(tx *store.Tx, r store.RotationOf) (client.Rotation, error) {
			steps, err := tx.Steps(ctx, r.ID)
			return viewRotation(r, steps), err
		})
}

// Rotation returns one rotation with its steps.
func (b *Broker) Rotation(ctx context.Context, p authn.Principal, id string) (client.Rotation, error) {
	return one(ctx, b, p, "rotation.show", "rotation", id,
		func(tx *store.Tx) (r rotation.Rotation, s rotation.Secret, err error) {
			if r, err = tx.Rotation(ctx, id); err == nil {
				s, err = tx.Secret(ctx, r.SecretID)
			}
			return r, s, err
		},
		func(tx *store.Tx, r rotation.Rotation, s rotation.Secret) (client.Rotation, error) {
			steps, err := tx.Steps(ctx, r.ID)
			return viewRotation(store.RotationOf{Rotation: r, Ref: s.Ref}, steps), err
		})
}

// Retirements lists retirements, the newest first, without their tries.
func (b *Broker) Retirements(ctx context.Context, p authn.Principal, q client.RetirementQuery) (client.List[client.Retirement], error) {
	return listOf(ctx, b, p, "retirement.list", q.Secret,
		func(tx *store.Tx, id string) ([]store.RetirementOf, string, error) {
			return tx.RetirementsPage(ctx, store.RetirementFilter{Tenant: p.Tenant, SecretID: id, State: rotation.RetirementState(q.State)}, page(q.Page))
		},
		func(t store.RetirementOf) backends.Ref { return t.Ref },
		func(_ *store.Tx, t store.RetirementOf) (client.Retirement, error) { return viewRetirement(t, nil), nil })
}

// Retirement returns one retirement with every try: the proof record.
func (b *Broker) Retirement(ctx context.Context, p authn.Principal, id string) (client.Retirement, error) {
	return one(ctx, b, p, "retirement.show", "retirement", id,
		func(tx *store.Tx) (t rotation.Retirement, s rotation.Secret, err error) {
			if t, err = tx.Retirement(ctx, id); err == nil {
				s, err = tx.Secret(ctx, t.SecretID)
			}
			return t, s, err
		},
		func(tx *store.Tx, t rotation.Retirement, s rotation.Secret) (client.Retirement, error) {
			tries, err := allTries(ctx, tx, t.ID)
			return viewRetirement(store.RetirementOf{Retirement: t, Ref: s.Ref}, tries), err
		})
}

func allTries(ctx context.Context, tx *store.Tx, retirementID string) ([]rotation.Try, error) {
	var all []rotation.Try
	p := store.Page{Limit: 1000}
	for {
		tries, next, err := tx.TriesOfRetirement(ctx, retirementID, p)
		all = append(all, tries...)
		if err != nil || next == "" {
			return all, err
		}
		p.After = next
	}
}

// Deliveries lists deliveries, the newest first.
func (b *Broker) Deliveries(ctx context.Context, p authn.Principal, q client.DeliveryQuery) (client.List[client.Delivery], error) {
	return listOf(ctx, b, p, "delivery.list", q.Secret,
		func(tx *store.Tx, id string) ([]rotation.Delivery, string, error) {
			f := store.DeliveryFilter{Tenant: p.Tenant, SecretID: id, Consumer: q.Consumer, State: rotation.DeliveryState(q.State)}
			return tx.DeliveriesPage(ctx, f, page(q.Page))
		},
		func(d rotation.Delivery) backends.Ref { return d.Ref },
		func(_ *store.Tx, d rotation.Delivery) (client.Delivery, error) { return viewDelivery(d), nil })
}

// Delivery returns one delivery.
func (b *Broker) Delivery(ctx context.Context, p authn.Principal, id string) (client.Delivery, error) {
	return one(ctx, b, p, "delivery.show", "delivery", id,
		func(tx *store.Tx) (d rotation.Delivery, s rotation.Secret, err error) {
			if d, err = tx.Delivery(ctx, id); err == nil {
				s, err = tx.Secret(ctx, d.SecretID)
			}
			return d, s, err
		},
		func(_ *store.Tx, d rotation.Delivery, _ rotation.Secret) (client.Delivery, error) {
			return viewDelivery(d), nil
		})
}

// Acknowledge records that a consumer uses what was delivered to it. Who may neither
// do that nor see the secret is told that there is no such delivery.
func (b *Broker) Acknowledge(ctx context.Context, p authn.Principal, id string, r client.AcknowledgeRequest) (out client.Delivery, err error) {
	var of rotation.Secret
	missing := b.Store.View(ctx, func(tx *store.Tx) (err error) {
		of, _, err = onDelivery(id).of(ctx, tx)
		return err
	})
	if errors.Is(missing, backends.ErrNotFound) || missing == nil && !b.reaches(p, of) {
		missing = notThere("delivery", id)
	}
	req := request{action: "delivery.acknowledge", path: recordPath["delivery"] + id, detail: map[string]string{"delivery": id, "generation": fmt.Sprint(r.Generation)}}
	if missing != nil { // nobody needs a permission to be told
		return out, b.refuse(ctx, p, req, itemwise, missing)
	}
	req = req.about(of.Ref.Name, of)
	if req.path = of.Ref.Name; !b.sees(p, of) && !b.allows(p, req.path, of, policy.Update) {
		return out, b.unseen(ctx, p, req, "delivery", id)
	}
	err = b.do(ctx, p, policy.Update, req, func() error {
		return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
			d, err := b.Engine.Acknowledge(ctx, tx, id, r.Generation)
			out = viewDelivery(d)
			return err
		})
	})
	return out, err
}
