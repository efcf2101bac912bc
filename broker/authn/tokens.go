package authn

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/keys"
)

// TokenPrefix begins every token of keybroker, for scanners and people.
const TokenPrefix = "kbt"

// Tokens makes and checks tokens. A token is kept as its HMAC under a pepper
// that is kept sealed, so that the data file alone tests no guess.
type Tokens struct {
	db   *store.DB
	now  func() time.Time
	hash func(token string) []byte // a closure over the pepper, so that printing Tokens prints none
}

// NewTokens returns the tokens kept in db.
func NewTokens(db *store.DB, pepper []byte, now func() time.Time) *Tokens {
	return &Tokens{db: db, now: now, hash: func(token string) []byte {
		mac := hmac.New(sha256.New, pepper)
		mac.Write([]byte(token))
		return mac.Sum(nil)
	}}
}

// Find returns the record of a token, revoked or expired as it may be, or ErrNotFound.
func (t *Tokens) Find(ctx context.Context, tx *store.Tx, token string) (store.Token, error) {
	return tx.TokenByHash(ctx, t.hash(token))
}

// WellFormed tells whether a text has the form of a token, which says nothing of
// whether there is such a one.
func WellFormed(token string) bool {
	return strings.HasPrefix(token, TokenPrefix+"_") && strings.Count(token, "_") == 1 && keys.Valid(token)
}
