package authn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
)

// The states of a token.
const (
	StateActive      = "active"
	StateRevoked     = "revoked"
	StateExpired     = "expired"
	StateIdle        = "idle" // unused for too long, which is for ever
	StateUsedUp      = "used_up"
	StateParentEnded = "parent_ended"
	StateRoleGone    = "role_gone"   // the configuration has no such role
	StateRoleMoved   = "role_moved"  // its role is of another tenant or environment than the token
	StateMethodGone  = "method_gone" // the configuration has no auth block of the name by which its holder logged in
)

// whys are the states as the audit log has them.
var whys = map[string]string{
	StateRevoked:     "revoked token",
	StateExpired:     "expired token",
	StateIdle:        "token unused for too long",
	StateUsedUp:      "the token has no use left",
	StateParentEnded: "a token that it descends from has ended",
	StateRoleGone:    "the token's role is not in the configuration",
	StateRoleMoved:   "the token's role is of another tenant or environment",
	StateMethodGone:  "the method of the login is not in the configuration",
}

// maxLine is how many tokens may descend from each other: all of them are read for
// each request.
const maxLine = 8

// line is a token with those that it descends from, its parent first.
type line struct {
	tokens []store.Token
	broken bool // the last one's parent is not there any more
}

func lineOf(ctx context.Context, tx *store.Tx, rec store.Token) (line, error) {
	l := line{tokens: []store.Token{rec}}
	for rec.Parent != "" {
		if len(l.tokens) == maxLine {
			return l, fmt.Errorf("token %s descends from more than %d others", l.tokens[0].ID, maxLine)
		}
		parent, err := tx.Token(ctx, rec.Parent)
		if errors.Is(err, backends.ErrNotFound) {
			l.broken = true
			return l, nil
		}
		if err != nil {
			return l, err
		}
		rec = parent
		l.tokens = append(l.tokens, rec)
	}
	return l, nil
}

// stand tells how the token stands now and, if it is active, who its holder and the
// holders of those before it are. The number of uses is no matter of it.
func (l line) stand(rules *Rules, now time.Time) (holders []Principal, state string) {
	if l.broken {
		return nil, StateParentEnded
	}
	holders = make([]Principal, len(l.tokens))
	var walls Principal // from the oldest on, each is at least where the one before is
	for i := len(l.tokens) - 1; i >= 0; i-- {
		state := standing(l.tokens[i], rules, now)
		if state == StateActive && !walls.confine(l.tokens[i], rules) {
			state = StateRoleMoved
		}
		switch {
		case state != StateActive && i > 0:
			return nil, StateParentEnded
		case state != StateActive:
			return nil, state
		}
		holders[i] = holder(l.tokens[i], rules)
		holders[i].Tenant, holders[i].Environment = walls.Tenant, walls.Environment
	}
	return holders, StateActive
}

// standing looks at one token without those before it.
func standing(rec store.Token, rules *Rules, now time.Time) string {
	last, idle, ends := rec.CreatedAt, rec.Idle, rec.ExpiresAt
	if role := rules.Roles[rec.Role]; role != nil && rec.Kind != store.TokenBreakGlass { // it may have been shortened
		if role.TokenIdle > 0 {
			idle = min(idle, role.TokenIdle)
		}
		if role.TokenMaxTTL > 0 {
			ends = earlier(ends, rec.CreatedAt.Add(role.TokenMaxTTL))
		}
	}
	if rec.LastUsedAt.After(last) {
		last = rec.LastUsedAt
	}
	switch {
	case !rec.RevokedAt.IsZero():
		return StateRevoked
	case !ends.IsZero() && !now.Before(ends):
		return StateExpired
	case idle > 0 && now.Sub(last) >= idle+touchEvery: // whoever used it in time may not have been noted
		return StateIdle
	case rec.Role != "" && rules.Roles[rec.Role] == nil:
		return StateRoleGone
	case rec.Method != "" && !rules.has(rec):
		return StateMethodGone
	}
	return StateActive
}

// confine narrows p to where a token and its role are; false if that is elsewhere.
func (p *Principal) confine(rec store.Token, rules *Rules) bool {
	tenants, environments := []string{rec.Tenant}, []string{rec.Environment}
	if role := rules.Roles[rec.Role]; role != nil {
		tenants, environments = append(tenants, role.Tenant), append(environments, role.Environment)
	}
	return meet(&p.Tenant, tenants) && meet(&p.Environment, environments)
}

// meet narrows wall, empty where there is none, to each of the others.
func meet(wall *string, others []string) bool {
	for _, o := range others {
		if *wall != "" && o != "" && *wall != o {
			return false
		}
		*wall = cmp.Or(*wall, o)
	}
	return true
}

// holder is who holds a token, apart from its walls and those before it.
func holder(rec store.Token, rules *Rules) Principal {
	p := Principal{ID: rec.ID, Name: rec.Name, Method: methodOf(rec), Role: rec.Role, Policies: rec.Policies, Lineage: rec.Lineage, rules: rules}
	if role := rules.Roles[rec.Role]; role != nil {
		p.Policies, p.Limit = role.Policies, role.Limit
	}
	return p
}

func methodOf(rec store.Token) string {
	if rec.Kind == store.TokenBreakGlass {
		return MethodBreakGlass
	}
	return cmp.Or(rec.Method, MethodToken)
}

// held is what is known of the token that a Principal shows.
type held struct {
	depth   int  // how many it descends from, and itself
	limited bool // it has a number of uses
}

// show returns who shows the token with the credentials c, or why it is refused. The
// number of uses is no matter of it.
func (l line) show(rules *Rules, c Credentials, now time.Time) (Principal, *refusal) {
	holders, state := l.stand(rules, now)
	switch {
	case state != StateActive:
		return Principal{}, l.refuse(whys[state])
	case !l.admits(rules, c.Address):
		return Principal{}, l.refuse("the token is bound to other addresses")
	}
	p := holders[0]
	for _, rec := range l.tokens {
		if rec.Identity != "" {
			p.Identity = rec.Method + "/" + rec.Identity
			break
		}
	}
	p.ExpiresAt, p.Address, p.Request = l.expiresAt(), c.Address, c.Request
	p.networks, p.held = l.networks(rules), &held{depth: len(l.tokens), limited: l.tokens[0].Uses > 0}
	for _, before := range holders[1:] {
		if !isRoot(before.Policies) {
			before.Address, before.Request = c.Address, c.Request
			p.Within = append(p.Within, before)
		}
	}
	return p, nil
}

func (l line) refuse(why string) *refusal {
	rec := l.tokens[0]
	return &refusal{actor: rec.ID, tenant: rec.Tenant, method: methodOf(rec), why: why}
}

// expiresAt is when the first of the line expires; zero: none does.
func (l line) expiresAt() (at time.Time) {
	for _, rec := range l.tokens {
		at = earlier(at, rec.ExpiresAt)
	}
	return at
}

// earlier is the earlier of two times of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// admits tells whether the token is accepted from an address: by itself, all that
// it descends from, and their roles.
func (l line) admits(rules *Rules, from netip.Addr) bool {
	return !slices.ContainsFunc(l.networks(rules), func(n []netip.Prefix) bool { return !within(n, from) })
}

// networks are those of all that an address has to be in.
func (l line) networks(rules *Rules) (all [][]netip.Prefix) {
	for _, rec := range l.tokens {
		if len(rec.CIDRs) > 0 {
			all = append(all, rec.CIDRs)
		}
		if role := rules.Roles[rec.Role]; role != nil && len(role.CIDRs) > 0 {
			all = append(all, role.CIDRs)
		}
	}
	return all
}

// within tells whether an address is in one of the networks, or there are none.
func within(networks []netip.Prefix, a netip.Addr) bool {
	return len(networks) == 0 || slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a.Unmap().WithZone("")) })
}

// stale are the ids of those whose last use is not known exactly enough.
func (l line) stale(now time.Time) (ids []string) {
	for _, rec := range l.tokens {
		if now.Sub(rec.LastUsedAt) >= touchEvery {
			ids = append(ids, rec.ID)
		}
	}
	return ids
}

func isRoot(policies []string) bool { return slices.Contains(policies, policy.Root) }

// lineage is that of an identity, by whichever auth block it is known: the same person
// or workload is one hand. A slash joins ids, so it has none of its own.
func (id Identity) lineage() string {
	return url.QueryEscape(cmp.Or(id.Authority, id.Method)) + ":" + url.PathEscape(id.Subject)
}

// has tells whether the auth block by which the holder of a token logged in is there,
// and goes by the same word: under the name of a provider that is gone, another one knows
// nobody of those who logged in before.
func (r *Rules) has(rec store.Token) bool {
	authority := AuthorityX509
	if login, ok := r.Logins[rec.Method]; ok {
		i, names := login.(Issued)
		if !names {
			return true
		}
		authority = i.Issuer()
	} else if _, ok := r.Certificates[rec.Method]; !ok {
		return false
	}
	id := Identity{Method: rec.Method, Authority: authority, Subject: rec.Identity}
	unnamed := Identity{Method: rec.Method, Subject: rec.Identity}
	return rec.Lineage == id.lineage() || rec.Lineage == unnamed.lineage()
}
