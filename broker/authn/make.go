package authn

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation/keys"
)

// RootTTL is how long a root token lives.
const RootTTL = time.Hour

// Wanted is what a token is to be. Exactly one of Role and Policies is set; what is
// zero is as the role says, or else the default.
type Wanted struct {
	Name       string
	Tenant     string // that it is bound to, where neither its maker nor its role is
	Role       string
	Policies   []string
	TTL        time.Duration // how long it lives, unless it is renewed
	MaxTTL     time.Duration // how long at most, renewed or not; 0, where TTL is set: as long as that
	Idle       time.Duration // how long it lives unused; at least a minute
	Uses       int           // how many requests it is good for
	CIDRs      []netip.Prefix
	BreakGlass bool // for when nobody can log in: it lives until it is revoked, unless TTL or Idle are set
}

// Make makes the token that maker wants, and the record to be stored for it, which
// has only its hash. ErrDenied if it were more than the maker holds; ErrInvalid if
// there can be no such token.
//
// It ends with the maker's own token, but for what one of the root policy makes for
// others, and for break-glass tokens, which have to outlive every login.
func (c *Callers) Make(maker Principal, w Wanted) (store.Token, backends.SecretString, error) {
	role, err := c.wantedRole(maker, w)
	if err != nil {
		return store.Token{}, "", err
	}
	branch := w.BreakGlass || maker.IsRoot() && w.isForOthers(maker)
	if err := maker.mayMake(w, role, branch); err != nil {
		return store.Token{}, "", err
	}
	rec, text := c.fresh(w.Name)
	rec.Tenant, rec.Environment = cmp.Or(maker.Tenant, role.Tenant, w.Tenant), cmp.Or(maker.Environment, role.Environment)
	rec.Role, rec.Policies, rec.CIDRs = w.Role, w.Policies, w.CIDRs
	var until time.Time
	if rec.Lineage = maker.Lineage; branch && maker.IsRoot() {
		rec.Lineage += "/" + rec.ID
	}
	if !branch {
		rec.Parent, until = maker.ID, maker.ExpiresAt
	}
	if w.BreakGlass {
		rec.Kind = store.TokenBreakGlass
		if rec.CIDRs, err = maker.confined(w.CIDRs); err != nil {
			return store.Token{}, "", err
		}
		role = policy.Role{} // whose times are for those who log in
	} else {
		rec.Idle = cmp.Or(role.TokenIdle, policy.DefaultTokenIdle)
	}
	rec.Idle, rec.Uses = cmp.Or(w.Idle, rec.Idle), cmp.Or(w.Uses, role.TokenUses)
	rec.UsesLeft = rec.Uses
	if err := w.live(&rec, role, until); err != nil {
		return store.Token{}, "", err
	}
	return rec, text, nil
}

// MakeFor makes the token of a login: of the role, for the identity. Where a
// certificate proves that, it ends with the certificate; a JWT is for the login alone.
func (t *Tokens) MakeFor(id Identity, role *policy.Role, now time.Time) (store.Token, backends.SecretString) {
	rec, text := t.fresh(cmp.Or(id.Name, id.Subject))
	rec.CreatedAt = now
	rec.Method, rec.Identity, rec.Lineage = id.Method, id.Subject, id.lineage()
	rec.Role, rec.Tenant, rec.Environment = role.Name, role.Tenant, role.Environment
	rec.Idle = cmp.Or(role.TokenIdle, policy.DefaultTokenIdle)
	rec.Uses, rec.UsesLeft = role.TokenUses, role.TokenUses
	setEnd(&rec, role.TokenTTL, role.TokenMaxTTL)
	if id.ExpiresAt.IsZero() {
		return rec, text
	}
	rec.EndsAt, rec.ExpiresAt = earlier(rec.EndsAt, id.ExpiresAt), earlier(rec.ExpiresAt, id.ExpiresAt)
	rec.TTL = cmp.Or(rec.TTL, rec.ExpiresAt.Sub(now))
	return rec, text
}

// MakeRoot makes a root token, as the host may: see RootTTL.
func (t *Tokens) MakeRoot() (store.Token, backends.SecretString) {
	rec, text := t.fresh("root")
	rec.Kind, rec.Policies, rec.Lineage, rec.Idle = store.TokenRoot, []string{policy.Root}, rec.ID, policy.DefaultTokenIdle
	setEnd(&rec, RootTTL, RootTTL)
	return rec, text
}

// fresh makes a token that says nothing yet.
func (t *Tokens) fresh(name string) (store.Token, backends.SecretString) {
	text := keys.NewAPIKey(TokenPrefix, keys.MinLength)
	rec := store.Token{ID: "tok_" + uuid.Must(uuid.NewV7()).String(), Name: name, Hash: t.hash(text), CreatedAt: t.now()}
	return rec, backends.SecretString(text)
}

// setEnd has a token live for ttl, if it is not renewed, and at most for most; 0 is
// without end.
func setEnd(rec *store.Token, ttl, most time.Duration) {
	if most > 0 {
		rec.EndsAt = rec.CreatedAt.Add(most)
		if ttl == 0 || ttl > most {
			ttl = most
		}
	}
	if rec.TTL = ttl; ttl > 0 {
		rec.ExpiresAt = rec.CreatedAt.Add(ttl)
	}
}

// Renew moves the expiry of p's token to its ttl from now, as far as it and those that
// it descends from let it. One that needs no renewal stays as it is.
func (c *Callers) Renew(ctx context.Context, tx *store.Tx, p Principal) (store.Token, error) {
	rec, err := tx.Token(ctx, p.ID)
	if err != nil {
		return store.Token{}, err
	}
	l, err := lineOf(ctx, tx, rec)
	if err != nil {
		return store.Token{}, err
	}
	now := c.now()
	if _, state := l.stand(c.RulesOf(p), now); state != StateActive {
		return store.Token{}, fmt.Errorf("%w: %s", backends.ErrDenied, whys[state])
	}
	if rec.TTL == 0 {
		return rec, nil
	}
	until := earlier(now.Add(rec.TTL), rec.EndsAt)
	for _, before := range l.tokens[1:] {
		until = earlier(until, before.ExpiresAt)
	}
	if !until.After(rec.ExpiresAt) {
		return rec, nil
	}
	rec.ExpiresAt = until
	return rec, tx.RenewToken(ctx, rec.ID, until)
}

// wantedRole is the role that is wanted, the zero one if none is. What is of another
// tenant or environment than the maker's is not there for it.
func (c *Callers) wantedRole(maker Principal, w Wanted) (policy.Role, error) {
	switch {
	case w.Role == "" && len(w.Policies) == 0:
		return policy.Role{}, fmt.Errorf("%w: a token without a role or policies could do nothing", backends.ErrInvalid)
	case w.Role != "" && len(w.Policies) > 0:
		return policy.Role{}, fmt.Errorf("%w: a token has either a role or policies of its own", backends.ErrInvalid)
	case w.Role == "" && w.BreakGlass:
		return policy.Role{}, fmt.Errorf("%w: a break-glass token needs a role", backends.ErrInvalid)
	case w.Role == "":
		return policy.Role{}, nil
	}
	role := c.RulesOf(maker).Roles[w.Role]
	switch {
	case role != nil && (maker.Tenant == "" || role.Tenant == maker.Tenant) && (maker.Environment == "" || role.Environment == maker.Environment):
	case maker.Tenant != "" || maker.Environment != "":
		return policy.Role{}, fmt.Errorf("%w: there is no role %q of the caller's own tenant and environment in the configuration", backends.ErrInvalid, w.Role)
	default:
		return policy.Role{}, fmt.Errorf("%w: there is no role %q in the configuration", backends.ErrInvalid, w.Role)
	}
	if w.Tenant != "" && role.Tenant != "" && w.Tenant != role.Tenant {
		return policy.Role{}, fmt.Errorf("%w: the role %q is of the tenant %q, and so are its tokens: name none", backends.ErrInvalid, w.Role, role.Tenant)
	}
	return *role, nil
}

// isForOthers tells whether w is another than the maker's own role and policies.
func (w Wanted) isForOthers(maker Principal) bool {
	if w.Role != "" {
		return w.Role != maker.Role
	}
	return !isRoot(w.Policies)
}

// mayMake tells whether w is no more than the maker holds.
func (p Principal) mayMake(w Wanted, role policy.Role, branch bool) error {
	if p.Tenant != "" && w.Tenant != "" {
		return fmt.Errorf("%w: the caller is bound to the tenant %q, and so are the tokens it makes: name none", backends.ErrDenied, p.Tenant)
	}
	for _, name := range slices.Concat(w.Policies, role.Policies) {
		if !p.holds(name) {
			return fmt.Errorf("%w: policy %q is not one of the caller's own, so it cannot be given to a token", backends.ErrDenied, name)
		}
	}
	switch {
	case p.held != nil && p.held.limited:
		return fmt.Errorf("%w: a token that is good for a number of requests makes no others", backends.ErrDenied)
	case branch:
		return nil
	case p.held == nil:
		return fmt.Errorf("%w: the token would have to end with one of the caller's, who has none but a certificate: log in with that, and make it with the token of the login", backends.ErrDenied)
	case p.held.depth >= maxLine:
		return fmt.Errorf("%w: the caller's token descends from %d others already: make the token with one of them", backends.ErrDenied, p.held.depth-1)
	}
	return nil
}

// IsRoot tells whether p has the root policy, as all have whose tokens p's descends from.
func (p Principal) IsRoot() bool { return isRoot(p.Policies) && len(p.Within) == 0 }

// holds tells whether p has a policy, as each of those has that it is within: a role
// may have lost it meanwhile.
func (p Principal) holds(policy string) bool {
	for _, one := range append([]Principal{p}, p.Within...) {
		if !isRoot(one.Policies) && !slices.Contains(one.Policies, policy) {
			return false
		}
	}
	return true
}

// confined are the networks that a token is bound to that no other holds to those of
// the caller: what is wanted, or else all in which the caller could be. ErrDenied if
// more is wanted.
func (p Principal) confined(wanted []netip.Prefix) ([]netip.Prefix, error) {
	for _, n := range wanted {
		for _, bound := range p.networks {
			if !slices.ContainsFunc(bound, func(b netip.Prefix) bool { return b.Bits() <= n.Bits() && b.Contains(n.Addr()) }) {
				return nil, fmt.Errorf("%w: the caller is bound to addresses, and %s is not among them", backends.ErrDenied, n)
			}
		}
	}
	if len(wanted) > 0 {
		return wanted, nil
	}
	var all []netip.Prefix
	for i, bound := range p.networks {
		if i == 0 {
			all = bound
			continue
		}
		var both []netip.Prefix
		for _, a := range all {
			for _, b := range bound {
				if a.Overlaps(b) && a.Bits() < b.Bits() {
					both = append(both, b)
				} else if a.Overlaps(b) {
					both = append(both, a)
				}
			}
		}
		all = both // not empty: the caller is there
	}
	return all, nil
}

// live sets how long the token lives: as w says, else as the role does, and not
// beyond until, when what it ends with expires.
func (w Wanted) live(rec *store.Token, role policy.Role, until time.Time) error {
	ttl, most := w.TTL, w.MaxTTL
	switch {
	case w.Idle != 0 && w.Idle < touchEvery:
		return fmt.Errorf("%w: how long a token lives unused is at least %s, as that is how exactly its last use is known", backends.ErrInvalid, touchEvery)
	case role.TokenIdle > 0 && w.Idle > role.TokenIdle:
		return fmt.Errorf("%w: tokens of the role %q live unused for at most %s", backends.ErrDenied, role.Name, role.TokenIdle)
	case role.TokenUses > 0 && w.Uses > role.TokenUses:
		return fmt.Errorf("%w: tokens of the role %q are good for at most %d requests", backends.ErrDenied, role.Name, role.TokenUses)
	case role.TokenMaxTTL > 0 && max(ttl, most) > role.TokenMaxTTL:
		return fmt.Errorf("%w: tokens of the role %q live for at most %s", backends.ErrDenied, role.Name, role.TokenMaxTTL)
	case most > 0 && ttl > most:
		return fmt.Errorf("%w: the ttl is longer than the longest life, %s", backends.ErrInvalid, most)
	case ttl > 0 && most == 0:
		most = ttl
	}
	ttl, most = cmp.Or(ttl, role.TokenTTL), cmp.Or(most, role.TokenMaxTTL)
	setEnd(rec, ttl, most)
	if until.IsZero() {
		return nil
	}
	left := until.Sub(rec.CreatedAt)
	if w.TTL > left {
		return fmt.Errorf("%w: the caller's own token expires in %s: give a ttl of at most that", backends.ErrDenied, left.Truncate(time.Second))
	}
	if rec.TTL == 0 || rec.TTL > left {
		rec.TTL, rec.ExpiresAt = left, until
	}
	return nil
}
