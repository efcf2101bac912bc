package client

import (
	"context"
	"time"
)

// RoleHeader names the role that a caller with a certificate means, where several are
// bound to it.
const RoleHeader = "X-Keybroker-Role"

// The kinds of tokens that are not everybody's.
const (
	TokenRoot       = "root"        // ends after an hour, or with the first token or login of an admin role
	TokenBreakGlass = "break_glass" // for when nobody can log in: each use raises an alert
)

// The states of a token. Only an active one is accepted.
const (
	TokenActive      = "active"
	TokenRevoked     = "revoked"
	TokenExpired     = "expired"
	TokenIdle        = "idle" // unused for too long, which is for ever
	TokenUsedUp      = "used_up"
	TokenParentEnded = "parent_ended"
	TokenRoleGone    = "role_gone"   // the configuration has no such role
	TokenRoleMoved   = "role_moved"  // its role is of another tenant or environment now
	TokenMethodGone  = "method_gone" // the configuration does not have the auth method by which its holder logged in
)

// Token lets its holder call the API, under a role or policies of its own.
type Token struct {
	ID          string     `json:"id"` // public
	Name        string     `json:"name"`
	State       string     `json:"state"`
	Kind        string     `json:"kind,omitempty"`        // TokenRoot, TokenBreakGlass; empty: any other
	Tenant      string     `json:"tenant,omitempty"`      // empty: bound to none, sees all
	Environment string     `json:"environment,omitempty"` // empty: bound to none
	Role        string     `json:"role,omitempty"`        // empty: the policies are its own
	Policies    []string   `json:"policies"`              // of the role, as it is now
	CIDRs       []string   `json:"cidrs,omitempty"`       // that it is accepted from; empty: any
	Method      string     `json:"method,omitempty"`      // by which its holder logged in; empty: it was made by hand
	Identity    string     `json:"identity,omitempty"`    // that logged in
	Parent      string     `json:"parent,omitempty"`      // the token that it ends with; empty: none
	Uses        int        `json:"uses,omitempty"`        // how many requests it was made for; 0: any number
	UsesLeft    int        `json:"uses_left,omitempty"`   // of them
	CreatedAt   time.Time  `json:"created_at,omitzero"`
	ExpiresAt   time.Time  `json:"expires_at,omitzero"`
	TTL         string     `json:"ttl,omitempty"`         // by how much it can be renewed; empty: it needs no renewal
	EndsAt      time.Time  `json:"ends_at,omitzero"`      // beyond which it cannot be renewed
	MaxIdle     string     `json:"max_idle,omitempty"`    // how long it lives unused; empty: as long as used
	LastUsedAt  time.Time  `json:"last_used_at,omitzero"` // to the minute; also by tokens that descend from it
	RevokedAt   time.Time  `json:"revoked_at,omitzero"`
	Token       SecretText `json:"token,omitempty"`        // only in the answer to its creation
	ParentName  string     `json:"parent_name,omitempty"`  // only in the answer to its creation
	EndedTokens int        `json:"ended_tokens,omitempty"` // how many that descend from it ended with it; only in the answer to its revocation
	// EndedRoots are the root tokens that its making has ended, it being of an admin
	// role; only in the answer to its creation.
	EndedRoots []string `json:"ended_root_tokens,omitempty"`
}

// CreateTokenRequest asks for a token, of a role or of some policies. Durations are
// texts such as "24h"; what is empty is as the role says, or else the default.
type CreateTokenRequest struct {
	Name       string   `json:"name"`
	Tenant     string   `json:"tenant,omitempty"` // that it is bound to; only who is bound to none may name one
	Role       string   `json:"role,omitempty"`
	Policies   []string `json:"policies,omitempty"`
	TTL        string   `json:"ttl,omitempty"`      // at most the rest of the caller's own; empty: until it is revoked, or as long as the caller's own that it ends with
	MaxTTL     string   `json:"max_ttl,omitempty"`  // how long it can be renewed; empty, with a TTL: not beyond that
	Idle       string   `json:"max_idle,omitempty"` // how long it lives unused, at least a minute; empty: a day
	Uses       int      `json:"uses,omitempty"`     // how many requests it is good for; 0: any number
	CIDRs      []string `json:"cidrs,omitempty"`    // that it is accepted from, such as "10.0.0.0/8"; empty: any
	BreakGlass bool     `json:"break_glass,omitempty"`
}

// OwnToken shows the caller's own token. For who calls by a certificate it is what
// that certificate stands for.
func (c *Client) OwnToken(ctx context.Context) (Token, error) {
	return do[Token](ctx, c, api("GET", "tokens", "self"))
}

// RenewOwnToken has the caller's own token live for its ttl from now on, as far as it can.
func (c *Client) RenewOwnToken(ctx context.Context) (Token, error) {
	return do[Token](ctx, c, api("POST", "tokens", "self", "renew"))
}

// RevokeOwnToken ends the caller's own token, which takes no permission.
func (c *Client) RevokeOwnToken(ctx context.Context) (Token, error) {
	return do[Token](ctx, c, api("DELETE", "tokens", "self"))
}
