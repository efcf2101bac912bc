// Package keys generates the values that keybroker itself makes, and is the format,
// hashing and checking of its own keys: API keys and tokens.
package keys

import (
	"context"
	"time"
)

// Record is what is kept of an issued key; the key itself is not.
type Record struct {
	ID            string // public; derived from the tag, never from the key
	Tenant        string
	Secret        string // name of the secret it is a version of
	Version       int
	Tag           string
	PepperVersion int
	Hash          []byte // HMAC-SHA-256 of the key under that pepper; unique
	CreatedAt     time.Time
	RevokedAt     time.Time // zero while it is live
}

// Keys keeps records. The methods are safe for concurrent use and wrap errors in
// the classes of package backends; each is durable when it returns.
type Keys interface {
	// Create stores a new record. A record with the same tenant and tag and the same hash
	// is left as it is; with another hash, or a hash that another record has, it is
	// ErrConflict.
	Create(ctx context.Context, r Record) error
	// Revoke marks a record as revoked now, unless it is already; ErrNotFound if
	// there is none.
	Revoke(ctx context.Context, id string) error
	// FindByTag returns the records with exactly this tag, revoked ones too.
	FindByTag(ctx context.Context, tag string) ([]Record, error)
}

// Lookup finds records by hash, through a unique index.
type Lookup interface {
	// FindByHash returns the record with this hash, revoked or not; ErrNotFound if
	// there is none.
	FindByHash(ctx context.Context, hash []byte) (Record, error)
}
