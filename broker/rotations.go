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

// sight is what p may know of a secret.
type sight struct {
	reaches bool    // it is within p's walls
	sees    bool    // and listed or read by one of p's policies
	by      decided // which was decided by that
}

func (b *Broker) sight(ctx context.Context, tx *store.Tx, p authn.Principal, s rotation.Secret) (may sight, err error) {
	if may.reaches, err = b.reaches(ctx, tx, p, s); err != nil || !may.reaches {
		return may, err
	}
	for _, c := range []policy.Capability{policy.List, policy.Read} {
		may.by = decided{capability: c, Decision: b.rulesOf(p).decide(p, s.Ref.Name, c, b.facts(p, s))}
		if may.sees = may.by.Allowed; may.sees {
			break
		}
	}
	return may, nil
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

// sees tells in a transaction what its caller sees of what is listed.
type sees[T any] func(context.Context, *store.Tx) func(T) (bool, error)

// bySecret is that p sees what belongs to secrets that it sees, each of which is read
// once.
func bySecret[T any](b *Broker, p authn.Principal, ref func(T) backends.Ref) sees[T] {
	return func(ctx context.Context, tx *store.Tx) func(T) (bool, error) {
		known := map[backends.Ref]bool{}
		return func(item T) (bool, error) {
			of := ref(item)
			if seen, ok := known[of]; ok {
				return seen, nil
			}
			s, err := tx.SecretByRef(ctx, of)
			if err != nil {
				return false, err
			}
			may, err := b.sight(ctx, tx, p, s)
			if err == nil {
				known[of] = may.sees
			}
			return may.sees, err
		}
	}
}

// listOf serves one page of what belongs to secrets: what p may not see is left out.
func listOf[T, W any](ctx context.Context, b *Broker, p authn.Principal, action, secret string, q client.Page,
	read func(*store.Tx, string, store.Page) ([]T, string, error), may sees[T], view func(*store.Tx, T) (W, error)) (client.List[W], error) {
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
		at, err := b.Pages.open(p, action, q)
		if err != nil {
			return nil, err
		}
		return nil, b.Store.View(ctx, func(tx *store.Tx) error {
			found, next, err := read(tx, of.ID, at)
			if err != nil {
				return err
			}
			list.Items, list.Next = list.Items[:0], b.Pages.next(p, action, next)
			seen := may(ctx, tx)
			for _, item := range found {
				visible, err := seen(item)
				if err != nil {
					return err
				}
				if !visible {
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
	var may sight
	r := request{action: action, path: recordPath[kind] + id, detail: map[string]string{kind: id}}
	err := b.Store.View(ctx, func(tx *store.Tx) error {
		item, s, err := read(tx)
		if err != nil {
			return err
		}
		of = s
		if may, err = b.sight(ctx, tx, p, s); err != nil {
			return err
		}
		out, err = view(tx, item, s)
		return err
	})
	if of.ID != "" {
		if may.reaches { // else not even a tenant's own audit log names it
			r = r.about(of.Ref.Name, of)
			r.path = of.Ref.Name
		}
		if !may.sees {
			return none, b.unseen(ctx, p, r, kind, id)
		}
	}
	if errors.Is(err, backends.ErrNotFound) {
		err = notThere(kind, id)
	}
	if err != nil {
		return none, b.refuse(ctx, p, r, itemwise, err)
	}
	if err := b.serve(ctx, p, r, may.by, func() (map[string]string, error) { return nil, nil }); err != nil {
		return none, err
	}
	return out, nil
}

// Rotations lists rotations, the newest first.
func (b *Broker) Rotations(ctx context.Context, p authn.Principal, q client.RotationQuery) (client.List[client.Rotation], error) {
	return listOf(ctx, b, p, "rotation.list", q.Secret, q.Page,
		func(tx *store.Tx, id string, at store.Page) ([]store.RotationOf, string, error) {
			return tx.Rotations(ctx, store.RotationFilter{Tenant: p.Tenant, SecretID: id, State: rotation.State(q.State), Live: q.Live}, at)
		},
		bySecret(b, p, func(r store.RotationOf) backends.Ref { return r.Ref }),
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
	return listOf(ctx, b, p, "retirement.list", q.Secret, q.Page,
		func(tx *store.Tx, id string, at store.Page) ([]store.RetirementOf, string, error) {
			return tx.RetirementsPage(ctx, store.RetirementFilter{Tenant: p.Tenant, SecretID: id, State: rotation.RetirementState(q.State)}, at)
		},
		bySecret(b, p, func(t store.RetirementOf) backends.Ref { return t.Ref }),
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
