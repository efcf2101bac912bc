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

const freezePath = "sys/freeze"

// Frozen tells whether everything is frozen.
func (b *Broker) Frozen(ctx context.Context, p authn.Principal) (out client.Freeze, err error) {
	err = b.do(ctx, p, policy.Read, request{action: "freeze.show", path: freezePath}, func() error {
		return b.Store.View(ctx, func(tx *store.Tx) error {
			f, err := tx.Freeze(ctx)
			if errors.Is(err, backends.ErrNotFound) {
				return nil
			}
			if out = viewFreeze(f); wallsOf(p) != (policy.Walls{}) {
				out.By, out.Reason = "", "" // they tell of others
			}
			return err
		})
	})
	return out, err
}

func viewFreeze(f rotation.Freeze) client.Freeze {
	return client.Freeze{Frozen: true, By: f.By, Reason: f.Reason, At: utc(f.At)}
}

// Freeze keeps everything as it is, for all tenants, except in emergencies.
func (b *Broker) Freeze(ctx context.Context, p authn.Principal, r client.InterventionRequest) (out client.FreezeIntervention, err error) {
	err = b.forEverybody(ctx, p, "freeze.begin", r, func(tx *store.Tx) (err error) {
		if r.Reason == "" {
			return fmt.Errorf("%w: a freeze needs a reason: whoever waits for its end will read it", backends.ErrInvalid)
		}
		f, will, err := b.Engine.Freeze(ctx, tx, asked(p, r.Reason))
		if err != nil {
			return err
		}
		out.Freeze = viewFreeze(f)
		out.Foretold, err = foretold(r, will)
		return err
	})
	return out, err
}

// Unfreeze ends a freeze.
func (b *Broker) Unfreeze(ctx context.Context, p authn.Principal, r client.InterventionRequest) (out client.FreezeIntervention, err error) {
	err = b.forEverybody(ctx, p, "freeze.end", r, func(tx *store.Tx) error {
		will, err := b.Engine.Unfreeze(ctx, tx, asked(p, r.Reason))
		if err != nil {
			return err
		}
		out.Foretold, err = foretold(r, will)
		return err
	})
	return out, err
}

// forEverybody authorises p for what concerns all tenants, then runs fn in a
// read-write transaction.
func (b *Broker) forEverybody(ctx context.Context, p authn.Principal, action string, r client.InterventionRequest, fn func(*store.Tx) error) error {
	return b.do(ctx, p, policy.Update, request{action: action, path: freezePath, detail: interventionDetail(r.Reason, r.DryRun)}, func() error {
		return b.change(ctx, r.DryRun, fn)
	})
}
