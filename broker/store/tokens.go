package store

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// The kinds of tokens that are not everybody's.
const (
	TokenRoot       = "root"        // for the first hour of an installation, or of who has the host
	TokenBreakGlass = "break_glass" // for when nobody can log in
)

// Token is a caller's token as it is kept: by its hash.
type Token struct {
	ID          string // public: shown, logged
	Kind        string // TokenRoot, TokenBreakGlass; empty: any other
	Tenant      string // empty: bound to none
	Environment string // empty: bound to none
	Name        string
	Hash        []byte // keyed or of a random token; never shown
	Method      string // the auth block by which Identity logged in for it; empty: it was made by hand
	Identity    string
	Role        string // whose policies it has; empty: those of its own
	Policies    []string
	CIDRs       []netip.Prefix // that it is accepted from; empty: any
	Parent      string         // id of the token that it ends with; empty: none
	Lineage     string         // see authn.Principal
	Uses        int            // how many requests it was made for; 0: any number
	UsesLeft    int            // of them
	CreatedAt   time.Time
	TTL         time.Duration // by how much it is renewed, to the microsecond; 0: it needs no renewal
	ExpiresAt   time.Time     // zero: never
	EndsAt      time.Time     // beyond which no renewal goes; zero: none
	Idle        time.Duration // how long it lives unused; 0: as long as used
	LastUsedAt  time.Time     // zero: not yet; also by those that descend from it
	RevokedAt   time.Time     // zero: it is valid
}

const tokenColumns = "id, kind, tenant, environment, name, hash, method, identity, role, policies, cidrs, parent, lineage, " +
	"uses, uses_left, created_at, ttl, expires_at, ends_at, idle, last_used_at, revoked_at"

func scanToken(r row) (t Token, err error) {
	var ttl, idle int64
	err = r.Scan(&t.ID, &t.Kind, &t.Tenant, &t.Environment, &t.Name, &t.Hash, &t.Method, &t.Identity, &t.Role, fromJSON{&t.Policies}, fromJSON{&t.CIDRs},
		&t.Parent, &t.Lineage, &t.Uses, &t.UsesLeft, instant{&t.CreatedAt}, &ttl, instant{&t.ExpiresAt}, instant{&t.EndsAt}, &idle,
		instant{&t.LastUsedAt}, instant{&t.RevokedAt})
	t.TTL, t.Idle = time.Duration(ttl)*time.Microsecond, time.Duration(idle)*time.Microsecond
	return t, err
}

// AddToken inserts t; ErrConflict if its id or hash is there.
func (tx *Tx) AddToken(ctx context.Context, t Token) error {
	err := tx.insert(ctx, "INSERT INTO tokens ("+tokenColumns+") VALUES "+
		"($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22) ON CONFLICT DO NOTHING",
		t.ID, t.Kind, t.Tenant, t.Environment, t.Name, t.Hash, t.Method, t.Identity, t.Role, asJSON{t.Policies}, asJSON{t.CIDRs},
		t.Parent, t.Lineage, t.Uses, t.UsesLeft, micros(t.CreatedAt), t.TTL.Microseconds(), nullMicros(t.ExpiresAt), nullMicros(t.EndsAt),
		t.Idle.Microseconds(), nullMicros(t.LastUsedAt), nullMicros(t.RevokedAt))
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

// TokenFilter chooses tokens; the zero filter all.
type TokenFilter struct {
	Tenant      string // empty: of all
	Environment string // empty: of all
}

// Tokens lists tokens, the newest first.
func (tx *Tx) Tokens(ctx context.Context, which TokenFilter, p Page) ([]Token, string, error) {
	var f filter
	f.equal("tenant", which.Tenant)
	f.equal("environment", which.Environment)
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

// RootTokens returns the root tokens that were not revoked and had not expired at a time.
func (tx *Tx) RootTokens(ctx context.Context, at time.Time) ([]Token, error) {
	found, err := all(ctx, tx, scanToken, "SELECT "+tokenColumns+" FROM tokens WHERE kind = 'root' AND revoked_at IS NULL "+
		"AND (expires_at IS NULL OR expires_at > $1)", micros(at))
	if err != nil {
		return nil, fmt.Errorf("reading the root tokens: %w", err)
	}
	return found, nil
}

// LiveLogins counts the tokens of a role that live at a time by logins of one identity,
// whether or not anybody uses them any more.
func (tx *Tx) LiveLogins(ctx context.Context, method, identity, role string, at time.Time) (n int, err error) {
	const of = "(SELECT COUNT(*) FROM tokens WHERE method <> '' AND method = $1 AND identity = $2 AND role = $3 AND revoked_at IS NULL AND expires_at "
	if err := tx.q.queryRow(ctx, "SELECT "+of+"IS NULL) + "+of+"> $4)", method, identity, role, micros(at)).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting the logins of an identity: %w", err)
	}
	return n, nil
}

// LiveDescendants counts the tokens that descend from one and are neither revoked nor
// expired themselves.
func (tx *Tx) LiveDescendants(ctx context.Context, id string, at time.Time) (n int, err error) {
	err = tx.q.queryRow(ctx, `WITH RECURSIVE heirs (id, live) AS (
			SELECT id, revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2) FROM tokens WHERE parent <> '' AND parent = $1
			UNION
			SELECT t.id, t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2) FROM tokens t JOIN heirs ON t.parent <> '' AND t.parent = heirs.id
		) SELECT COUNT(*) FROM heirs WHERE live`, id, micros(at)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting the tokens that descend from %s: %w", id, err)
	}
	return n, nil
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

// SpendToken takes one of the uses of a token that has a number of them; false if
// none is left. No use is ever given to two.
func (tx *Tx) SpendToken(ctx context.Context, id string) (bool, error) {
	n, err := tx.t.exec(ctx, "UPDATE tokens SET uses_left = uses_left - 1 WHERE id = $1 AND uses_left > 0", id)
	if err != nil {
		return false, fmt.Errorf("recording a use of token %s: %w", id, err)
	}
	return n > 0, nil
}

// RenewToken moves the expiry of a token that was not revoked; ErrNotFound if
// there is none.
func (tx *Tx) RenewToken(ctx context.Context, id string, until time.Time) error {
	n, err := tx.t.exec(ctx, "UPDATE tokens SET expires_at = $1 WHERE id = $2 AND revoked_at IS NULL", micros(until), id)
	if err == nil && n == 0 {
		err = errMissing
	}
	if err != nil {
		return fmt.Errorf("renewing token %s: %w", id, err)
	}
	return nil
}

// PruneTokens forgets the tokens that were revoked, expired or left unused for too
// long before a time: nothing brings them back.
func (tx *Tx) PruneTokens(ctx context.Context, before time.Time) error {
	err := tx.execOnly(ctx, "DELETE FROM tokens WHERE revoked_at < $1 OR expires_at < $1 OR (idle > 0 AND COALESCE(last_used_at, created_at) + idle < $1)", micros(before))
	if err != nil {
		return fmt.Errorf("pruning tokens: %w", err)
	}
	return nil
}
