package broker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
)

const tokensPath = "sys/tokens"

// CreateToken makes a token. Nobody can hand out what they do not hold: each of
// its policies must be one of the caller's own, unless the caller has the root
// policy.
func (b *Broker) CreateToken(ctx context.Context, p authn.Principal, r client.CreateTokenRequest) (out client.Token, err error) {
	detail := map[string]string{"token_name": r.Name, "policies": strings.Join(r.Policies, ","), "ttl": r.TTL}
	if err := b.authorize(p, policy.Create, request{action: "token.create", path: tokensPath, detail: detail}); err != nil {
		return out, err
	}
	ttl, err := b.checkToken(p, r)
	if err != nil {
		return out, err
	}
	rec, text := b.Authn.Make(p.Tenant, r.Name, r.Policies, ttl)
	if err := b.Store.Update(ctx, func(tx *store.Tx) error { return tx.AddToken(ctx, rec) }); err != nil {
		return out, err
	}
	out = viewToken(rec)
	out.Token = client.SecretText(text.Reveal())
	return out, nil
}

func (b *Broker) checkToken(p authn.Principal, r client.CreateTokenRequest) (ttl time.Duration, err error) {
	if r.Name == "" {
		return 0, fmt.Errorf("%w: a token needs a name", backends.ErrInvalid)
	}
	if len(r.Policies) == 0 {
		return 0, fmt.Errorf("%w: a token without policies could do nothing", backends.ErrInvalid)
	}
	rules := b.rules.Load()
	held := map[string]bool{}
	for _, name := range p.Policies {
		held[name] = true
	}
	for _, name := range r.Policies {
		if _, ok := rules.byName[name]; !ok {
			return 0, fmt.Errorf("%w: there is no policy %q in the configuration", backends.ErrInvalid, name)
		}
		if !held[name] && !held[RootPolicy] {
			return 0, fmt.Errorf("%w: policy %q is not one of the caller's own, so it cannot be given to a token", backends.ErrDenied, name)
		}
	}
	if r.TTL != "" {
		if ttl, err = time.ParseDuration(r.TTL); err != nil || ttl <= 0 {
			return 0, fmt.Errorf("%w: the ttl %q is no duration such as 24h", backends.ErrInvalid, r.TTL)
		}
	}
	return ttl, nil
}

// Tokens lists tokens, never the tokens themselves.
func (b *Broker) Tokens(ctx context.Context, p authn.Principal, pg client.Page) (client.List[client.Token], error) {
	list := client.List[client.Token]{Items: []client.Token{}}
	if err := b.authorize(p, policy.List, request{action: "token.list", path: tokensPath}); err != nil {
		return list, err
	}
	err := b.Store.View(ctx, func(tx *store.Tx) error {
		found, next, err := tx.Tokens(ctx, p.Tenant, page(pg))
		list.Next = next
		for _, t := range found {
			list.Items = append(list.Items, viewToken(t))
		}
		return err
	})
	return list, err
}

// RevokeToken ends a token at once.
func (b *Broker) RevokeToken(ctx context.Context, p authn.Principal, id string) (out client.Token, err error) {
	if err := b.authorize(p, policy.Delete, request{action: "token.revoke", path: tokensPath, detail: map[string]string{"token": id}}); err != nil {
		return out, err
	}
	err = b.Store.Update(ctx, func(tx *store.Tx) error {
		t, err := tx.Token(ctx, id)
		if err == nil && p.Tenant != "" && t.Tenant != p.Tenant {
			err = backends.ErrNotFound
		}
		if err != nil {
			return err
		}
		if err := tx.RevokeToken(ctx, id, b.Now()); err != nil {
			return err
		}
		t, err = tx.Token(ctx, id)
		out = viewToken(t)
		return err
	})
	return out, err
}

func viewToken(t store.Token) client.Token {
	return client.Token{ID: t.ID, Name: t.Name, Policies: t.Policies, CreatedAt: utc(t.CreatedAt), ExpiresAt: utc(t.ExpiresAt),
		LastUsedAt: utc(t.LastUsedAt), RevokedAt: utc(t.RevokedAt)}
}
