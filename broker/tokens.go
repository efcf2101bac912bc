package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

const (
	tokensPath     = "sys/tokens"
	breakGlassPath = "sys/break-glass"
	maxTokenName   = 200 // bytes
)

// TokenRevoked is the event that is committed with the revocation of a token, its id
// in the detail "token": a store that has lost the one has lost the other.
const TokenRevoked = "token.revoked"

// CreateToken makes a token. Nobody can hand out what they do not hold: each of
// its policies, or of its role's, must be one of the caller's own, unless the caller
// has the root policy; it is where the caller is, in tenant and environment; and it
// ends with the caller's token. Who is bound to no tenant may bind it to one. See
// authn.Callers.Make.
func (b *Broker) CreateToken(ctx context.Context, p authn.Principal, r client.CreateTokenRequest) (out client.Token, err error) {
	req := request{action: "token.create", path: tokensPath, detail: map[string]string{
		"token_name": r.Name, "role": r.Role, "policies": strings.Join(r.Policies, ","), "ttl": r.TTL, "tenant": cmp.Or(r.Tenant, p.Tenant)}}
	if r.BreakGlass {
		req.path = breakGlassPath
		req.detail["break_glass"] = strconv.FormatBool(true)
	}
	err = b.doSensitive(ctx, p, []policy.Capability{policy.Create}, req, func() (map[string]string, error) {
		wanted, err := b.wanted(r)
		if err != nil {
			return nil, err
		}
		rec, text, err := b.Authn.Make(p, wanted)
		if err != nil {
			return nil, err
		}
		req.detail["token"] = rec.ID
		var ended []string
		err = b.Store.Update(ctx, func(tx *store.Tx) (err error) {
			ended, err = b.keepToken(ctx, tx, p, rec)
			return err
		})
		if err != nil {
			return nil, err
		}
		out = b.viewToken(rec, authn.StateActive)
		out.EndedRoots = ended
		out.Token = client.SecretText(text.Reveal())
		return map[string]string{"token": text.Reveal()}, nil
	})
	return out, err
}

// wanted reads a request.
func (b *Broker) wanted(r client.CreateTokenRequest) (w authn.Wanted, err error) {
	w = authn.Wanted{Name: r.Name, Tenant: r.Tenant, Role: r.Role, Policies: r.Policies, Uses: r.Uses, BreakGlass: r.BreakGlass}
	if r.Name == "" || len(r.Name) > maxTokenName || strings.ContainsFunc(r.Name, unicode.IsControl) {
		return w, fmt.Errorf("%w: a token needs a name, of at most %d bytes and without control characters", backends.ErrInvalid, maxTokenName)
	}
	if r.Tenant != "" {
		if err := backends.ParseTenant(r.Tenant); err != nil {
			return w, err
		}
	}
	rules := b.rules.Load()
	for _, name := range r.Policies {
		if _, ok := rules.byName[name]; !ok {
			return w, fmt.Errorf("%w: there is no policy %q in the configuration", backends.ErrInvalid, name)
		}
	}
	for _, d := range []struct {
		what, text string
		into       *time.Duration
	}{{"ttl", r.TTL, &w.TTL}, {"max_ttl", r.MaxTTL, &w.MaxTTL}, {"max_idle", r.Idle, &w.Idle}} {
		if d.text == "" {
			continue
		}
		*d.into, err = time.ParseDuration(d.text)
		if *d.into = d.into.Truncate(time.Microsecond); err != nil || *d.into <= 0 {
			return w, fmt.Errorf("%w: the %s %q is no duration such as 24h", backends.ErrInvalid, d.what, d.text)
		}
	}
	if r.Uses < 0 {
		return w, fmt.Errorf("%w: a token is good for one request at least", backends.ErrInvalid)
	}
	for _, text := range r.CIDRs {
		n, err := netip.ParsePrefix(text)
		if err != nil || n != n.Masked() || n.Addr().Is4In6() {
			return w, fmt.Errorf("%w: %q is no network such as 10.0.0.0/8", backends.ErrInvalid, text)
		}
		w.CIDRs = append(w.CIDRs, n)
	}
	return w, nil
}

// keepToken stores a token that by has made, or that was made for by's login. The
// first of an admin role ends the root tokens, with the transaction: it tells which.
func (b *Broker) keepToken(ctx context.Context, tx *store.Tx, by authn.Principal, rec store.Token) (ended []string, err error) {
	if err := tx.AddToken(ctx, rec); err != nil || !b.administers(rec) {
		return nil, err
	}
	roots, err := tx.RootTokens(ctx, b.Now())
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if err := b.endToken(ctx, tx, by, root.ID); err != nil {
			return nil, err
		}
		ended = append(ended, root.ID)
	}
	return ended, nil
}

// administers tells whether a token is of an admin role, so that no root token is
// needed any more: one that makes and revokes tokens, of the operators and not of a
// tenant or an environment alone, and under no conditions.
func (b *Broker) administers(rec store.Token) bool {
	role := b.Authn.Rules().Roles[rec.Role]
	if role == nil || cmp.Or(rec.Tenant, role.Tenant, rec.Environment, role.Environment) != "" {
		return false
	}
	holder := authn.Principal{Name: rec.Name, Role: role.Name, Policies: role.Policies}
	for _, c := range []policy.Capability{policy.Create, policy.Delete} {
		if !b.rules.Load().decide(holder, tokensPath, c, policy.Facts{}).Allowed {
			return false
		}
	}
	return true
}

// endToken revokes a token, with the event that tells of it.
func (b *Broker) endToken(ctx context.Context, tx *store.Tx, by authn.Principal, id string) error {
	if err := tx.RevokeToken(ctx, id, b.Now()); err != nil {
		return err
	}
	return tx.AddAudit(ctx, rotation.AuditEvent{At: b.Now(), Request: by.Request, Tenant: by.Tenant, Actor: by.ID, Role: by.Role, Method: by.Method,
		Address: by.Address.String(), Action: TokenRevoked, Path: tokensPath, Outcome: outcomeOK, Detail: map[string]string{"token": id}})
}

// Tokens lists tokens, never the tokens themselves.
func (b *Broker) Tokens(ctx context.Context, p authn.Principal, pg client.Page) (client.List[client.Token], error) {
	list := client.List[client.Token]{Items: []client.Token{}}
	err := b.do(ctx, p, policy.List, request{action: "token.list", path: tokensPath}, func() error {
		return b.Store.View(ctx, func(tx *store.Tx) error {
			found, next, err := tx.Tokens(ctx, store.TokenFilter{Tenant: p.Tenant, Environment: p.Environment}, page(pg))
			if err != nil {
				return err
			}
			list.Next = next
			for _, t := range found {
				state, err := b.Authn.State(ctx, tx, t)
				if err != nil {
					return err
				}
				list.Items = append(list.Items, b.viewToken(t, state))
			}
			return nil
		})
	})
	return list, err
}

// RevokeToken ends a token at once, and all that descend from it.
func (b *Broker) RevokeToken(ctx context.Context, p authn.Principal, id string) (out client.Token, err error) {
	r := request{action: "token.revoke", path: tokensPath, detail: map[string]string{"token": id}}
	err = b.contain(ctx, p, policy.Delete, r, func(tx *store.Tx) error {
		t, err := tx.Token(ctx, id)
		hidden := err == nil && (p.Tenant != "" && t.Tenant != p.Tenant || p.Environment != "" && t.Environment != p.Environment)
		if errors.Is(err, backends.ErrNotFound) || hidden {
			return notThere("token", id)
		}
		if err != nil {
			return err
		}
		out, err = b.revoked(ctx, tx, p, id)
		return err
	})
	return out, err
}

// revoked ends a token and shows it.
func (b *Broker) revoked(ctx context.Context, tx *store.Tx, by authn.Principal, id string) (client.Token, error) {
	if err := b.endToken(ctx, tx, by, id); err != nil {
		return client.Token{}, err
	}
	t, err := tx.Token(ctx, id)
	return b.viewToken(t, authn.StateRevoked), err
}

func (b *Broker) viewToken(t store.Token, state string) client.Token {
	out := client.Token{ID: t.ID, Name: t.Name, State: state, Kind: t.Kind, Tenant: t.Tenant, Environment: t.Environment, Role: t.Role, Policies: t.Policies,
		Method: t.Method, Identity: t.Identity, Parent: t.Parent, Uses: t.Uses, UsesLeft: t.UsesLeft,
		CreatedAt: utc(t.CreatedAt), ExpiresAt: utc(t.ExpiresAt), EndsAt: utc(t.EndsAt), LastUsedAt: utc(t.LastUsedAt), RevokedAt: utc(t.RevokedAt)}
	if role := b.Authn.Rules().Roles[t.Role]; role != nil {
		out.Policies = role.Policies
	}
	if out.Policies == nil {
		out.Policies = []string{}
	}
	for _, n := range t.CIDRs {
		out.CIDRs = append(out.CIDRs, n.String())
	}
	if t.TTL > 0 {
		out.TTL = t.TTL.String()
	}
	if t.Idle > 0 {
		out.MaxIdle = t.Idle.String()
	}
	return out
}
