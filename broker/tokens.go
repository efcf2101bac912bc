package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

const (
	tokensPath     = "sys/tokens"
	breakGlassPath = "sys/break-glass"
	maxTokenName   = 200 // bytes
	maxTokenLife   = 100 * 365 * 24 * time.Hour
	// maxLogins is how many tokens of one role live by logins of one identity.
	maxLogins = 1000
	// minAdminTTL is how long a token lives at least that a root token ends for.
	minAdminTTL = 10 * time.Minute
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
		wanted, err := b.wanted(p, r)
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
		if rec.Parent != "" {
			out.ParentName = p.Name
		}
		return map[string]string{"token": text.Reveal()}, nil
	})
	return out, err
}

// wanted reads a request of p.
func (b *Broker) wanted(p authn.Principal, r client.CreateTokenRequest) (w authn.Wanted, err error) {
	w = authn.Wanted{Name: r.Name, Tenant: r.Tenant, Role: r.Role, Policies: r.Policies, Uses: r.Uses, BreakGlass: r.BreakGlass}
	if r.Name == "" || len(r.Name) > maxTokenName || strings.ContainsFunc(r.Name, unicode.IsControl) {
		return w, fmt.Errorf("%w: a token needs a name, of at most %d bytes and without control characters", backends.ErrInvalid, maxTokenName)
	}
	if r.Tenant != "" {
		if err := backends.ParseTenant(r.Tenant); err != nil {
			return w, err
		}
	}
	rules := b.rulesOf(p)
	if role := rules.Roles[r.Role]; r.BreakGlass && role != nil && r.Role != p.Role && !p.IsRoot() && rules.set(role.Policies).uses.Role != "" {
		return w, fmt.Errorf("%w: what the role %q may depends on its name, so that only who has it, or the root policy, makes a break-glass token of it", backends.ErrDenied, r.Role)
	}
	for _, name := range r.Policies {
		if _, ok := rules.byName[name]; !ok {
			return w, rules.unknown(p, "policy", name)
		}
	}
	if r.Role != "" && rules.Roles[r.Role] == nil && p.Tenant == "" && p.Environment == "" { // else see authn.Callers.Make
		return w, rules.unknown(p, "role", r.Role)
	}
	for _, d := range []struct {
		what, text string
		into       *time.Duration
	}{{"ttl", r.TTL, &w.TTL}, {"max_ttl", r.MaxTTL, &w.MaxTTL}, {"max_idle (--idle)", r.Idle, &w.Idle}} {
		if d.text == "" {
			continue
		}
		*d.into, err = config.ParseDuration(d.text)
		switch *d.into = d.into.Truncate(time.Microsecond); {
		case err != nil:
			return w, fmt.Errorf("%w: the %s %q is no duration such as 24h or 7d", backends.ErrInvalid, d.what, d.text)
		case *d.into <= 0 || *d.into > maxTokenLife:
			return w, fmt.Errorf("%w: the %s %q is not more than nothing and at most %d years", backends.ErrInvalid, d.what, d.text, maxTokenLife/(365*24*time.Hour))
		}
	}
	if r.Uses < 0 {
		return w, fmt.Errorf("%w: a token is good for one request at least", backends.ErrInvalid)
	}
	for _, text := range r.CIDRs {
		n, err := netip.ParsePrefix(text)
		if a, one := netip.ParseAddr(text); one == nil {
			n, err = a.Prefix(a.BitLen())
		}
		if err != nil || n != n.Masked() || n.Addr().Is4In6() {
			return w, fmt.Errorf("%w: %q is no network such as 10.0.0.0/8, and no address", backends.ErrInvalid, text)
		}
		w.CIDRs = append(w.CIDRs, n)
	}
	return w, nil
}

// unknown is the error of a role or policy that is not there. Whoever is bound to no
// wall is told what is.
func (c *compiled) unknown(p authn.Principal, kind, name string) error {
	names, other, hint := slices.Sorted(maps.Keys(c.Roles)), c.byName[name].Name != "", "it is a policy: --policy"
	if kind == "policy" {
		names, other, hint = slices.Sorted(maps.Keys(c.byName)), c.Roles[name] != nil, "it is a role: --role"
	}
	text := fmt.Sprintf("there is no %s %q in the configuration", kind, name)
	switch {
	case p.Tenant != "" || p.Environment != "":
	case other:
		text += "; " + hint
	case len(names) > maxNamed:
		text += fmt.Sprintf(", but %d others", len(names))
	case len(names) > 0:
		text += ", but " + strings.Join(names, ", ")
	}
	return fmt.Errorf("%w: %s", backends.ErrInvalid, text)
}

// maxNamed is how many names an error tells.
const maxNamed = 30

// keepToken stores a token that by has made, or that was made for by's login. The
// first of an admin role ends the root tokens, with the transaction: it tells which. A
// break-glass token is locked away, and ends none.
func (b *Broker) keepToken(ctx context.Context, tx *store.Tx, by authn.Principal, rec store.Token) (ended []string, err error) {
	if rec.Kind != store.TokenBreakGlass {
		if err := keptOut(ctx, tx, rec.Role); err != nil {
			return nil, err
		}
	}
	if rec.Method != "" {
		n, err := tx.LiveLogins(ctx, rec.Method, rec.Identity, rec.Role, b.Now())
		if err != nil {
			return nil, err
		}
		if n >= maxLogins {
			return nil, fmt.Errorf("%w: there are %d tokens of the role %q by logins of the same identity: use one of them, or revoke some", backends.ErrConflict, n, rec.Role)
		}
	}
	if err := tx.AddToken(ctx, rec); err != nil || rec.Kind == store.TokenBreakGlass || !b.rulesOf(by).administers(rec, by.Address) {
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

// keptOut refuses a token of a role that is in quarantine by the rows, which this node
// may not know of yet.
func keptOut(ctx context.Context, tx *store.Tx, role string) error {
	if role == "" {
		return nil
	}
	found, err := tx.Quarantines(ctx)
	for _, q := range found {
		if (kept{Quarantine: q}).role() == role {
			return &authn.KeptOut{Quarantine: q}
		}
	}
	return err
}

// administers tells whether a token is of an admin role, so that no root token is
// needed any more: one that makes and revokes tokens, of the operators and not of a
// tenant or an environment alone, under no conditions, from where the first one is
// called for, and for long enough, or again by another login.
func (c *compiled) administers(rec store.Token, from netip.Addr) bool {
	role := c.Roles[rec.Role]
	brief := !rec.ExpiresAt.IsZero() && rec.ExpiresAt.Sub(rec.CreatedAt) < minAdminTTL && rec.Method == ""
	if role == nil || brief || rec.Uses > 0 || !contains(rec.CIDRs, from) || !contains(role.CIDRs, from) || cmp.Or(rec.Tenant, role.Tenant, rec.Environment, role.Environment) != "" {
		return false
	}
	holder := authn.Principal{Name: rec.Name, Role: role.Name, Policies: role.Policies}
	for _, needed := range []policy.Capability{policy.Create, policy.Delete} {
		if !c.decide(holder, tokensPath, needed, policy.Facts{}).Allowed {
			return false
		}
	}
	return true
}

// How long the token of a login lives at most where its role does not say: that of who
// may do everything, or may make tokens, for a day's work.
const (
	loginTTL      = 32 * 24 * time.Hour
	adminLoginTTL = 12 * time.Hour
)

// forLogin is a role with an end to the tokens of who, with p's address, logs in.
func (b *Broker) forLogin(p authn.Principal, role policy.Role) *policy.Role {
	if role.TokenMaxTTL > 0 {
		return &role
	}
	holder := authn.Principal{ID: p.ID, Name: p.Name, Role: role.Name, Tenant: role.Tenant, Environment: role.Environment, Policies: role.Policies}
	now := policy.Facts{Address: p.Address, At: b.Now()}
	role.TokenMaxTTL = loginTTL
	if slices.Contains(role.Policies, RootPolicy) || b.rulesOf(p).decide(holder, tokensPath, policy.Create, now).Allowed {
		role.TokenMaxTTL = adminLoginTTL
	}
	role.TokenMaxTTL = max(role.TokenMaxTTL, role.TokenTTL)
	return &role
}

// contains tells whether an address is in one of the networks, or there are none.
func contains(networks []netip.Prefix, a netip.Addr) bool {
	return len(networks) == 0 || slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// endToken revokes a token, with the event that tells of it.
func (b *Broker) endToken(ctx context.Context, tx *store.Tx, by authn.Principal, id string) error {
	if err := tx.RevokeToken(ctx, id, b.Now()); err != nil {
		return err
	}
	return tx.AddAudit(ctx, b.tokenEnded(by, id))
}

// tokenEnded is the event that tells of the revocation of a token.
func (b *Broker) tokenEnded(by authn.Principal, id string) rotation.AuditEvent {
	return rotation.AuditEvent{At: b.Now(), Request: by.Request, Tenant: by.Tenant, Actor: by.ID, Role: by.Role, Method: by.Method,
		Address: by.Address.String(), Action: TokenRevoked, Path: tokensPath, Outcome: outcomeOK, Detail: map[string]string{"token": id}}
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
	mistaken := isToken(id)
	if mistaken {
		delete(r.detail, "token")
	}
	err = b.contain(ctx, p, policy.Delete, r, func(tx *store.Tx) error {
		if mistaken {
			return fmt.Errorf("%w: that is a token and not its id, which lists of tokens show: nothing was revoked", backends.ErrInvalid)
		}
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

// isToken tells whether somebody gave a token where its id, or something else that is
// written to logs and quoted, belongs. A part of one is enough: it may be mistyped.
func isToken(text string) bool { return strings.Contains(text, authn.TokenPrefix+"_") }

// revoked ends a token and shows it.
func (b *Broker) revoked(ctx context.Context, tx *store.Tx, by authn.Principal, id string) (client.Token, error) {
	if err := b.endToken(ctx, tx, by, id); err != nil {
		return client.Token{}, err
	}
	t, err := tx.Token(ctx, id)
	if err != nil {
		return client.Token{}, err
	}
	out := b.viewToken(t, authn.StateRevoked)
	out.EndedTokens, err = tx.LiveDescendants(ctx, id, b.Now())
	return out, err
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
		out.TTL = max(t.TTL.Truncate(time.Second), time.Second).String()
	}
	if t.Idle > 0 {
		out.MaxIdle = t.Idle.String()
	}
	return out
}
