package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

const tokensPath = "sys/tokens"

// TokenRevoked is the event that is committed with the revocation of a token, its id
// in the detail "token": a store that has lost the one has lost the other.
const TokenRevoked = "token.revoked"

// CreateToken makes a token. Nobody can hand out what they do not hold: each of
// its policies must be one of the caller's own, unless the caller has the root
// policy; it is bound to the caller's tenant; and it lives no longer than the
// token of the caller. Who is bound to no tenant may bind it to one.
func (b *Broker) CreateToken(ctx context.Context, p authn.Principal, r client.CreateTokenRequest) (out client.Token, err error) {
	req := request{action: "token.create", path: tokensPath, detail: map[string]string{
		"token_name": r.Name, "policies": strings.Join(r.Policies, ","), "ttl": r.TTL, "tenant": cmp.Or(r.Tenant, p.Tenant)}}
	err = b.do(p, policy.Create, req, func() error {
		ttl, err := b.checkToken(p, r)
		if err != nil {
			return err
		}
		rec, text := b.Authn.Make(p, cmp.Or(p.Tenant, r.Tenant), r.Name, r.Policies, ttl)
		if err := b.Store.Update(ctx, func(tx *store.Tx) error { return tx.AddToken(ctx, rec) }); err != nil {
			return err
		}
		out = viewToken(rec)
		out.Token = client.SecretText(text.Reveal())
		return nil
	})
	return out, err
}

func (b *Broker) checkToken(p authn.Principal, r client.CreateTokenRequest) (ttl time.Duration, err error) {
	if r.Name == "" {
		return 0, fmt.Errorf("%w: a token needs a name", backends.ErrInvalid)
	}
	if err := b.checkPolicies(p, r.Policies); err != nil {
		return 0, err
	}
	if r.Tenant != "" {
		if err := backends.ParseTenant(r.Tenant); err != nil {
			return 0, err
		}
		if p.Tenant != "" {
			return 0, fmt.Errorf("%w: the caller is bound to the tenant %q, and so are the tokens it makes: name none", backends.ErrDenied, p.Tenant)
		}
	}
	return b.lifetime(p, r.TTL)
}

func (b *Broker) checkPolicies(p authn.Principal, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("%w: a token without policies could do nothing", backends.ErrInvalid)
	}
	rules := b.rules.Load()
	for _, name := range names {
		if _, ok := rules.byName[name]; !ok {
			return fmt.Errorf("%w: there is no policy %q in the configuration", backends.ErrInvalid, name)
		}
		if !slices.Contains(p.Policies, name) && !slices.Contains(p.Policies, RootPolicy) {
			return fmt.Errorf("%w: policy %q is not one of the caller's own, so it cannot be given to a token", backends.ErrDenied, name)
		}
	}
	return nil
}

// lifetime reads a ttl, which is at most what remains of the caller's own; 0 is
// for ever.
func (b *Broker) lifetime(p authn.Principal, text string) (ttl time.Duration, err error) {
	if text != "" {
		if ttl, err = time.ParseDuration(text); err != nil || ttl <= 0 {
			return 0, fmt.Errorf("%w: the ttl %q is no duration such as 24h", backends.ErrInvalid, text)
		}
	}
	if p.ExpiresAt.IsZero() {
		return ttl, nil
	}
	if left := p.ExpiresAt.Sub(b.Now()); ttl == 0 || ttl > left {
		return 0, fmt.Errorf("%w: the caller's own token expires in %s: give a ttl of at most that", backends.ErrDenied, left.Truncate(time.Second))
	}
	return ttl, nil
}

// Tokens lists tokens, never the tokens themselves.
func (b *Broker) Tokens(ctx context.Context, p authn.Principal, pg client.Page) (client.List[client.Token], error) {
	list := client.List[client.Token]{Items: []client.Token{}}
	err := b.do(p, policy.List, request{action: "token.list", path: tokensPath}, func() error {
		return b.Store.View(ctx, func(tx *store.Tx) error {
			found, next, err := tx.Tokens(ctx, p.Tenant, page(pg))
			list.Next = next
			for _, t := range found {
				list.Items = append(list.Items, viewToken(t))
			}
			return err
		})
	})
	return list, err
}

// RevokeToken ends a token at once.
func (b *Broker) RevokeToken(ctx context.Context, p authn.Principal, id string) (out client.Token, err error) {
	r := request{action: "token.revoke", path: tokensPath, detail: map[string]string{"token": id}}
	err = b.do(p, policy.Delete, r, func() error {
		return b.Store.Update(ctx, func(tx *store.Tx) error {
			t, err := tx.Token(ctx, id)
			if errors.Is(err, backends.ErrNotFound) || err == nil && p.Tenant != "" && t.Tenant != p.Tenant {
				return notThere("token", id)
			}
			if err != nil {
				return err
			}
			if err := tx.RevokeToken(ctx, id, b.Now()); err != nil {
				return err
			}
			if t, err = tx.Token(ctx, id); err != nil {
				return err
			}
			out = viewToken(t)
			return tx.AddAudit(ctx, rotation.AuditEvent{At: b.Now(), Tenant: p.Tenant, Actor: p.ID, Address: p.Address.String(),
				Action: TokenRevoked, Path: tokensPath, Outcome: outcomeOK, Detail: map[string]string{"token": id}})
		})
	})
	return out, err
}

func viewToken(t store.Token) client.Token {
	return client.Token{ID: t.ID, Name: t.Name, Tenant: t.Tenant, Policies: t.Policies, CreatedAt: utc(t.CreatedAt), ExpiresAt: utc(t.ExpiresAt),
		LastUsedAt: utc(t.LastUsedAt), RevokedAt: utc(t.RevokedAt)}
}
