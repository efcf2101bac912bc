package store

import (
	"context"
	"fmt"
	"time"
)

// Token is a caller's token as it is kept: by its hash.
type Token struct {
	ID         string // public: shown, logged
	Tenant     string
	Name       string
	Hash       []byte // keyed or of a random token; never shown
	Policies   []string
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: not yet
	RevokedAt  time.Time // zero: it is valid
	Lineage    string    // see authn.Principal
}

const tokenColumns = "id, tenant, name, hash, policies, created_at, expires_at, last_used_at, revoked_at, lineage"

func scanToken(r row) (t Token, err error) {
	err = r.Scan(&t.ID, &t.Tenant, &t.Name, &t.Hash, fromJSON{&t.Policies},
		instant{&t.CreatedAt}, instant{&t.ExpiresAt}, instant{&t.LastUsedAt}, instant{&t.RevokedAt}, &t.Lineage)
	return t, err
}

// AddToken inserts t; ErrConflict if its id or hash is there.
func (tx *Tx) AddToken(ctx context.Context, t Token) error {
	err := tx.insert(ctx, "INSERT INTO tokens ("+tokenColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
		t.ID, t.Tenant, t.Name, t.Hash, asJSON{t.Policies},
		micros(t.CreatedAt), nullMicros(t.ExpiresAt), nullMicros(t.LastUsedAt), nullMicros(t.RevokedAt), t.Lineage)
	if err != nil {
		return fmt.Errorf("adding token %s: %w", t.ID, err)
	}
	return nil
}

// Token returns a token by its id, revoked or expired as it may be.
func (tx *Tx) Token(ctx context.Context, id string) (Token, error) {
	t, err := scanToken(tx.q.queryRow(ctx, "SELECT "+tokenColumns+" FROM tokens WHERE id = $1", id))
	if err != nil {
		return Token{}, fmt.Errorf("reading token %s: %w", id, err)
	}
	return t, nil
}

// TokenByHash returns the token of that hash, revoked or expired as it may be.
func (tx *Tx) TokenByHash(ctx context.Context, hash []byte) (Token, error) {
	t, err := scanToken(tx.q.queryRow(ctx, "SELECT "+tokenColumns+" FROM tokens WHERE hash = $1", hash))
	if err != nil {
		return Token{}, fmt.Errorf("looking a token up: %w", err)
	}
	return t, nil
}

// Tokens lists the tokens of a tenant (empty: of all), the newest first.
func (tx *Tx) Tokens(ctx context.Context, tenant string, p Page) ([]Token, string, error) {
	var f filter
	f.equal("tenant", tenant)
	if err := f.before("created_at", "id", p); err != nil {
		return nil, "", fmt.Errorf("listing tokens: %w", err)
	}
	items, err := all(ctx, tx, scanToken, "SELECT "+tokenColumns+" FROM tokens"+f.where()+
		" ORDER BY created_at DESC, id DESC"+atMost(f.arg(p.limit()+1)), f.args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing tokens: %w", err)
	}
	items, next := cut(items, p, func(t Token) string { return cursor(micros(t.CreatedAt), t.ID) })
	return items, next, nil
}

// RevokeToken makes a token invalid; a repeated call keeps the first time.
// ErrNotFound if there is none.
func (tx *Tx) RevokeToken(ctx context.Context, id string, at time.Time) error {
	n, err := tx.t.exec(ctx, "UPDATE tokens SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2", micros(at), id)
	if err == nil && n == 0 {
		err = errMissing
	}
	if err != nil {
		return fmt.Errorf("revoking token %s: %w", id, err)
	}
	return nil
}

// TouchToken records that a token was used; an earlier time than the recorded
// one, or a token that is gone, changes nothing.
func (tx *Tx) TouchToken(ctx context.Context, id string, at time.Time) error {
	err := tx.execOnly(ctx, "UPDATE tokens SET last_used_at = $1 WHERE id = $2 AND COALESCE(last_used_at, 0) < $1", micros(at), id)
	if err != nil {
		return fmt.Errorf("recording the use of token %s: %w", id, err)
	}
	return nil
}
