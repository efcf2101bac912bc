package broker

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
)

// OwnToken shows what p calls with, which takes no permission: a token, or what the
// certificate stands for.
func (b *Broker) OwnToken(ctx context.Context, p authn.Principal) (out client.Token, err error) {
	err = b.own(ctx, p, "token.show", func() error {
		if !p.HasToken() {
			out = b.viewToken(store.Token{ID: p.ID, Name: p.Name, Tenant: p.Tenant, Environment: p.Environment, Role: p.Role, Policies: p.Policies,
				Method: p.Method, ExpiresAt: p.ExpiresAt}, authn.StateActive)
			return nil
		}
		return b.Store.View(ctx, func(tx *store.Tx) error {
			t, err := tx.Token(ctx, p.ID)
			if err != nil {
				return err
			}
			state, err := b.Authn.State(ctx, tx, t)
			out = b.viewToken(t, state)
			return err
		})
	})
	return out, err
}

// RenewOwnToken has p's token live for its ttl from now on, as far as it can, which
// takes no permission. What needs no renewal stays as it is.
func (b *Broker) RenewOwnToken(ctx context.Context, p authn.Principal) (out client.Token, err error) {
	err = b.own(ctx, p, "token.renew", func() error {
		if err := needsToken(p); err != nil {
			return err
		}
		return b.Store.Update(ctx, func(tx *store.Tx) error {
			t, err := b.Authn.Renew(ctx, tx, p)
			out = b.viewToken(t, authn.StateActive)
			return err
		})
	})
	return out, err
}

// RevokeOwnToken ends p's token, which takes no permission. It waits for no log: the
// token may be in the wrong hands.
func (b *Broker) RevokeOwnToken(ctx context.Context, p authn.Principal) (out client.Token, err error) {
	err = b.contained(ctx, p, ownRequest(p, "token.revoke"), anybody, func(tx *store.Tx) error {
		if err := needsToken(p); err != nil {
			return err
		}
		out, err = b.revoked(ctx, tx, p, p.ID)
		return err
	})
	return out, err
}

func ownRequest(p authn.Principal, action string) request {
	return request{action: action, path: tokensPath + "/self", detail: map[string]string{"token": p.ID}}
}

// anybody is decided of what takes no permission.
var anybody = decided{Decision: policy.Decision{Allowed: true}}

// own audits and runs what everybody may do with what they call with.
func (b *Broker) own(ctx context.Context, p authn.Principal, action string, act func() error) error {
	d := anybody
	d.changes = action != "token.show"
	return b.serve(ctx, p, ownRequest(p, action), d, func() (map[string]string, error) { return nil, act() })
}

func needsToken(p authn.Principal) error {
	if !p.HasToken() {
		return fmt.Errorf("%w: the caller has no token but a certificate, which ends by itself", backends.ErrUnsupported)
	}
	return nil
}
