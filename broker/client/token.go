package client

import "time"

// Token lets its holder call the API under some policies.
type Token struct {
	ID         string     `json:"id"` // public
	Name       string     `json:"name"`
	Tenant     string     `json:"tenant,omitempty"` // empty: bound to none, sees all
	Policies   []string   `json:"policies"`
	CreatedAt  time.Time  `json:"created_at,omitzero"`
	ExpiresAt  time.Time  `json:"expires_at,omitzero"`
	LastUsedAt time.Time  `json:"last_used_at,omitzero"`
	RevokedAt  time.Time  `json:"revoked_at,omitzero"`
	Token      SecretText `json:"token,omitempty"` // only in the answer to its creation
}

// CreateTokenRequest asks for a token.
type CreateTokenRequest struct {
	Name     string   `json:"name"`
	Tenant   string   `json:"tenant,omitempty"` // that it is bound to; only who is bound to none may name one
	Policies []string `json:"policies"`
	TTL      string   `json:"ttl,omitempty"` // a duration, "24h", at most the rest of the caller's own; empty: until it is revoked
}
