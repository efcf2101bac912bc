package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// Secrets lists the secrets that p may list.
func (b *Broker) Secrets(ctx context.Context, p authn.Principal, q client.SecretQuery) (client.List[client.Secret], error) {
	list := client.List[client.Secret]{Items: []client.Secret{}}
	const action = "secret.list"
	err := b.serve(ctx, p, request{action: action, path: q.Prefix}, itemwise, func() (map[string]string, error) {
		at, err := b.Pages.open(p, action, q.Page)
		if err != nil {
			return nil, err
		}
		return nil, b.Store.View(ctx, func(tx *store.Tx) error {
			found, next, err := tx.Secrets(ctx, store.SecretFilter{Tenant: p.Tenant, Prefix: q.Prefix}, at)
			if err != nil {
				return err
			}
			list.Items, list.Next = list.Items[:0], b.Pages.next(p, action, next)
			for _, s := range found {
				may, err := b.sight(ctx, tx, p, s)
				if err != nil {
					return err
				}
				if !may.sees {
					continue
				}
				v, err := viewWhole(ctx, tx, s)
				if err != nil {
					return err
				}
				list.Items = append(list.Items, v)
			}
			return nil
		})
	})
	return list, err
}

func page(p client.Page) store.Page { return store.Page{After: p.After, Limit: p.Limit} }

func viewWhole(ctx context.Context, tx *store.Tx, s rotation.Secret) (client.Secret, error) {
	versions, retirements, err := shown(ctx, tx, s.ID)
	if err != nil {
		return client.Secret{}, err
	}
	occupying, err := occupyingOf(ctx, tx, s.ID)
	if err != nil {
		return client.Secret{}, err
	}
	placements, err := tx.Placements(ctx, s.ID)
	return viewSecret(s, versions, retirements, placements, occupying), err
}

// occupyingOf reads the rotation that occupies a secret; nil: there is none.
func occupyingOf(ctx context.Context, tx *store.Tx, secretID string) (*rotation.Rotation, error) {
	r, err := tx.Occupying(ctx, secretID)
	if errors.Is(err, backends.ErrNotFound) {
		return nil, nil
	}
	return &r, err
}

// shownVersions is how many of a secret's versions are shown besides those that
// are open.
const shownVersions = 50

// shown returns the newest versions of a secret and every older one that is still
// open, with their retirements.
func shown(ctx context.Context, tx *store.Tx, secretID string) ([]rotation.Version, []rotation.Retirement, error) {
	newest, err := tx.RecentVersions(ctx, secretID, shownVersions)
	if err != nil || len(newest) == 0 {
		return nil, nil, err
	}
	from := newest[0].Number
	versions, err := tx.Versions(ctx, secretID)
	if err != nil {
		return nil, nil, err
	}
	versions = slices.DeleteFunc(versions, func(v rotation.Version) bool { return v.Number >= from })
	open, err := tx.Retirements(ctx, secretID)
	if err != nil {
		return nil, nil, err
	}
	open = slices.DeleteFunc(open, func(t rotation.Retirement) bool { return t.Version >= from })
	retirements, err := tx.RetirementsOf(ctx, secretID, from)
	return append(versions, newest...), append(open, retirements...), err
}

// Secret returns one secret without its value.
func (b *Broker) Secret(ctx context.Context, p authn.Principal, name string) (out client.Secret, err error) {
	found, r, missing := b.resolve(ctx, p, name, request{action: "secret.show", path: pathOf(name)})
	c := policy.List
	if !b.allows(p, r.path, found, c) {
		c = policy.Read // who may read the value may know of it
	}
	err = b.do(ctx, p, c, r, func() error {
		if missing != nil {
			return missing
		}
		return b.Store.View(ctx, func(tx *store.Tx) error {
			s, err := tx.Secret(ctx, found.ID)
			if err != nil {
				return err
			}
			out, err = viewWhole(ctx, tx, s)
			return err
		})
	})
	return out, err
}

// Rotate starts a rotation.
func (b *Broker) Rotate(ctx context.Context, p authn.Principal, name string, r client.RotateRequest) (out client.Rotation, err error) {
	detail, ask := map[string]string{"reason": r.Reason}, asked(p, r.Reason)
	if ask.IgnoreWindow = r.IgnoreWindow; r.IgnoreWindow {
		detail["ignore_window"] = "true"
	}
	err = b.onSecret(ctx, p, policy.Rotate, "secret.rotate", name, detail, func(tx *store.Tx, s rotation.Secret) error {
		rot, err := b.Engine.Rotate(ctx, tx, s.ID, rotation.TriggerManual, ask)
		out = viewRotation(store.RotationOf{Rotation: rot, Ref: s.Ref}, nil)
		return err
	})
	return out, err
}

// Revoke retires one version that is not current.
func (b *Broker) Revoke(ctx context.Context, p authn.Principal, name string, r client.RevokeRequest) (out client.Retirement, err error) {
	detail := map[string]string{"reason": r.Reason, "version": fmt.Sprint(r.Version)}
	err = b.containSecret(ctx, p, policy.Revoke, "secret.revoke", name, detail, func(tx *store.Tx, s rotation.Secret) error {
		t, err := b.Engine.Revoke(ctx, tx, s.ID, r.Version, asked(p, r.Reason))
		out = viewRetirement(store.RetirementOf{Retirement: t, Ref: s.Ref}, nil)
		return err
	})
	return out, err
}

// Pause keeps a secret from rotating, except in an emergency.
func (b *Broker) Pause(ctx context.Context, p authn.Principal, name string, r client.PauseRequest) (client.Secret, error) {
	return b.setPaused(ctx, p, name, true, r.Reason)
}

// Resume ends a pause.
func (b *Broker) Resume(ctx context.Context, p authn.Principal, name string) (client.Secret, error) {
	return b.setPaused(ctx, p, name, false, "")
}

func (b *Broker) setPaused(ctx context.Context, p authn.Principal, name string, paused bool, reason string) (out client.Secret, err error) {
	action := map[bool]string{true: "secret.pause", false: "secret.resume"}[paused]
	err = b.onSecret(ctx, p, policy.Update, action, name, map[string]string{"reason": reason}, func(tx *store.Tx, s rotation.Secret) error {
		s, err := b.Engine.SetPaused(ctx, tx, s.ID, paused, asked(p, reason))
		if err != nil {
			return err
		}
		out, err = viewWhole(ctx, tx, s)
		return err
	})
	return out, err
}
