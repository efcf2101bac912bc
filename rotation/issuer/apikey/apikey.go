// Package apikey is the issuer of API keys that the broker itself mints and
// checks, so that an installation needs no other system to rotate something.
package apikey

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Field is the name of the value's one field, IDName that of the handle.
const (
	Field  = "key"
	IDName = "id"
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

// Issuer mints API keys.
type Issuer struct {
	keys   Keys
	hasher Hasher
	now    func() time.Time
}

var (
	_ issuer.Issuer   = (*Issuer)(nil)
	_ issuer.Preparer = (*Issuer)(nil)
	_ issuer.Finder   = (*Issuer)(nil)
)

// New returns an issuer that keeps its records in keys.
func New(keys Keys, hasher Hasher, now func() time.Time) *Issuer {
	return &Issuer{keys: keys, hasher: hasher, now: now}
}

// Traits implements issuer.Issuer. Revocation is one row in the store that every
// check reads, so its budget is 0; and the broker is its own witness of it.
func (i *Issuer) Traits() issuer.Traits {
	return issuer.Traits{Kind: issuer.Mint, SelfAttested: true}
}

// Prepare implements issuer.Preparer. ErrInvalid if the key asked for cannot be
// an API key; a checksum is always part of it.
func (i *Issuer) Prepare(req issuer.Request) (backends.Value, error) {
	prefix, length, err := checkSpec(req.Key)
	if err != nil {
		return backends.Value{}, fmt.Errorf("preparing an API key: %w", err)
	}
	return backends.NewValue(map[string]string{Field: generate(prefix, length)}), nil
}

// Issue implements issuer.Issuer: it makes the prepared key valid. The same
// request again gives the same key; another key under the tag is ErrConflict.
func (i *Issuer) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	key := req.Prepared.Reveal()[Field]
	if !Valid(key) {
		return issuer.Credential{}, fmt.Errorf("issuing an API key: %w: the prepared value is no API key", backends.ErrInvalid)
	}
	ref := req.Subject.Ref
	current := i.hasher.current()
	r := Record{
		ID: publicID(ref.Tenant, req.Tag), Tenant: ref.Tenant, Secret: ref.Name, Version: req.Version, Tag: req.Tag,
		PepperVersion: current.version, Hash: current.hash(key), CreatedAt: i.now(),
	}
	err := i.keys.Create(ctx, r)
	if errors.Is(err, backends.ErrConflict) && i.issuedBefore(ctx, r, key) {
		err = nil
	}
	if err != nil {
		return issuer.Credential{}, fmt.Errorf("issuing an API key: %w", err)
	}
	return issuer.Credential{Value: req.Prepared, Handle: issuer.Handle{IDName: r.ID}}, nil
}

// issuedBefore tells whether the tag's record is of the same key under an older
// pepper: the pepper may have been changed between two attempts.
func (i *Issuer) issuedBefore(ctx context.Context, r Record, key string) bool {
	records, err := i.keys.FindByTag(ctx, r.Tag)
	if err != nil {
		return false
	}
	for _, old := range records {
		if old.ID == r.ID && i.hasher.matches(old, key) {
			return true
		}
	}
	return false
}

// Revoke implements issuer.Issuer.
func (i *Issuer) Revoke(ctx context.Context, _ issuer.Subject, h issuer.Handle) error {
	if h[IDName] == "" {
		return fmt.Errorf("revoking an API key: %w: the handle has no %s", backends.ErrInvalid, IDName)
	}
	if err := i.keys.Revoke(ctx, h[IDName]); err != nil && !errors.Is(err, backends.ErrNotFound) {
		return fmt.Errorf("revoking an API key: %w", err)
	}
	return nil
}

// Find implements issuer.Finder.
func (i *Issuer) Find(ctx context.Context, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	records, err := i.keys.FindByTag(ctx, tag)
	if err != nil {
		return nil, fmt.Errorf("finding an API key: %w", err)
	}
	var found []issuer.Found
	for _, r := range records {
		if r.Tag == tag && r.Tenant == sub.Ref.Tenant && r.RevokedAt.IsZero() {
			found = append(found, issuer.Found{Handle: issuer.Handle{IDName: r.ID}, Tag: r.Tag})
		}
	}
	return found, nil
}

// publicID names the key that a tag stands for. It is the same for every attempt
// at one request and tells nothing of the key.
func publicID(tenant, tag string) string {
	sum := sha256.Sum256([]byte(tenant + "\x00" + tag))
	return "key_" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:20]
}
