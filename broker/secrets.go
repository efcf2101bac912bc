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
	"github.com/keybroker/keybroker/rotation/engine"
)

// Secrets lists the secrets that p may list.
func (b *Broker) Secrets(ctx context.Context, p authn.Principal, q client.SecretQuery) (client.List[client.Secret], error) {
	list := client.List[client.Secret]{Items: []client.Secret{}}
	if err := b.note(p, "secret.list", q.Prefix); err != nil {
		return list, err
	}
	err := b.Store.View(ctx, func(tx *store.Tx) error {
		found, next, err := tx.Secrets(ctx, store.SecretFilter{Tenant: p.Tenant, Prefix: q.Prefix}, page(q.Page))
		if err != nil {
			return err
		}
		list.Next = next
		for _, s := range found {
			if !b.allows(p, s.Ref.Name, policy.List).Allowed && !b.allows(p, s.Ref.Name, policy.Read).Allowed {
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
	return list, err
}

// note audits a list, whose items are authorised one by one.
func (b *Broker) note(p authn.Principal, action, path string) error {
	err := b.Audit.Record(rotation.AuditEvent{At: b.Now(), Tenant: p.Tenant, Actor: p.ID, Address: p.Address.String(),
		Action: action, Path: path, Outcome: "ok", Detail: map[string]string{"name": p.Name}})
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}

func page(p client.Page) store.Page { return store.Page{After: p.After, Limit: p.Limit} }

func viewWhole(ctx context.Context, tx *store.Tx, s rotation.Secret) (client.Secret, error) {
	versions, err := tx.Versions(ctx, s.ID)
	if err != nil {
		return client.Secret{}, err
	}
	retirements, err := tx.Retirements(ctx, s.ID)
	if err != nil {
		return client.Secret{}, err
	}
	_, err = tx.Occupying(ctx, s.ID)
	if err != nil && !errors.Is(err, backends.ErrNotFound) {
		return client.Secret{}, err
	}
	return viewSecret(s, versions, retirements, err == nil), nil
}

// Secret returns one secret without its value.
func (b *Broker) Secret(ctx context.Context, p authn.Principal, name string) (out client.Secret, err error) {
	c := policy.List
	if !b.allows(p, pathOf(name), c).Allowed {
		c = policy.Read // who may read the value may know of it
	}
	if err := b.authorize(p, c, request{action: "secret.show", path: pathOf(name)}); err != nil {
		return out, err
	}
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		s, err := b.find(ctx, tx, p, name)
		if err != nil {
			return err
		}
		out, err = viewWhole(ctx, tx, s)
		return err
	})
	return out, err
}

// Rotate starts a rotation.
func (b *Broker) Rotate(ctx context.Context, p authn.Principal, name string, r client.RotateRequest) (out client.Rotation, err error) {
	err = b.onSecret(ctx, p, policy.Rotate, "secret.rotate", name, map[string]string{"reason": r.Reason}, func(tx *store.Tx, s rotation.Secret) error {
		rot, err := b.Engine.Rotate(ctx, tx, s.ID, rotation.TriggerManual, asked(p, r.Reason))
		out = viewRotation(store.RotationOf{Rotation: rot, Ref: s.Ref}, nil)
		return err
	})
	return out, err
}

// Emergency turns compromised versions off and replaces them.
func (b *Broker) Emergency(ctx context.Context, p authn.Principal, name string, r client.EmergencyRequest) (out client.Rotation, err error) {
	if r.Contain != "" && r.Contain != client.RevokeFirst && r.Contain != client.ReplaceFirst {
		return out, fmt.Errorf("%w: contain is %q or %q", backends.ErrInvalid, client.ReplaceFirst, client.RevokeFirst)
	}
	if r.Reason == "" {
		return out, fmt.Errorf("%w: an emergency needs a reason", backends.ErrInvalid)
	}
	detail := map[string]string{"reason": r.Reason, "contain": r.Contain, "versions": fmt.Sprint(r.Versions)}
	err = b.onSecret(ctx, p, policy.Emergency, "secret.emergency", name, detail, func(tx *store.Tx, s rotation.Secret) error {
		rot, err := b.Engine.Declare(ctx, tx, s.ID, engine.Emergency{Asked: asked(p, r.Reason), Versions: r.Versions, Contain: r.Contain})
		out = viewRotation(store.RotationOf{Rotation: rot, Ref: s.Ref}, nil)
		return err
	})
	return out, err
}

// Revoke retires one version that is not current.
func (b *Broker) Revoke(ctx context.Context, p authn.Principal, name string, r client.RevokeRequest) (out client.Retirement, err error) {
	detail := map[string]string{"reason": r.Reason, "version": fmt.Sprint(r.Version)}
	err = b.onSecret(ctx, p, policy.Revoke, "secret.revoke", name, detail, func(tx *store.Tx, s rotation.Secret) error {
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

// Event lets a configured trigger act on the secret that the event names. An
// event with an id that came before starts nothing.
func (b *Broker) Event(ctx context.Context, p authn.Principal, trigger string, r client.EventRequest) (out client.Rotation, err error) {
	path := "sys/events/" + trigger
	detail := map[string]string{"event": r.ID, "secret": r.Secret, "reason": r.Reason}
	if err := b.authorize(p, policy.Create, request{action: "event.receive", path: path, detail: detail}); err != nil {
		return out, err
	}
	t, ok := b.rules.Load().Triggers[trigger]
	switch {
	case !ok:
		return out, fmt.Errorf("%w: there is no trigger %q in the configuration", backends.ErrNotFound, trigger)
	case r.ID == "" || r.Secret == "":
		return out, fmt.Errorf("%w: an event needs an id and a secret", backends.ErrInvalid)
	case !t.Covers(pathOf(r.Secret)):
		return out, fmt.Errorf("%w: trigger %q does not act on %q", backends.ErrDenied, trigger, r.Secret)
	}
	err = b.Store.Update(ctx, func(tx *store.Tx) error {
		s, err := b.find(ctx, tx, p, r.Secret)
		if err != nil {
			return err
		}
		out, err = b.react(ctx, tx, p, trigger, t, s, r)
		return err
	})
	return out, err
}

func (b *Broker) react(ctx context.Context, tx *store.Tx, p authn.Principal, name string, t Trigger, s rotation.Secret, r client.EventRequest) (client.Rotation, error) {
	if seen, err := tx.Event(ctx, name, r.ID); err == nil {
		return b.rotationIn(ctx, tx, seen.RotationID)
	} else if !errors.Is(err, backends.ErrNotFound) {
		return client.Rotation{}, err
	}
	var rot rotation.Rotation
	var err error
	if t.Emergency {
		rot, err = b.Engine.Declare(ctx, tx, s.ID, engine.Emergency{Asked: asked(p, r.Reason)})
	} else {
		rot, err = b.Engine.Rotate(ctx, tx, s.ID, rotation.TriggerEvent, asked(p, r.Reason))
	}
	if err != nil {
		return client.Rotation{}, err
	}
	if _, _, err := tx.AddEvent(ctx, store.Event{Trigger: name, ID: r.ID, RotationID: rot.ID, ReceivedAt: b.Now()}); err != nil {
		return client.Rotation{}, err
	}
	return viewRotation(store.RotationOf{Rotation: rot, Ref: s.Ref}, nil), nil
}
