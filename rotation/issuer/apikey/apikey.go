// Package apikey is the issuer of API keys that the broker itself mints and
// checks, so that an installation needs no other system to rotate something.
package apikey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/keys"
)

// Field is the name of the value's one field, IDName that of the handle.
const (
	Field  = "key"
	IDName = "id"
)

// DefaultPrefix begins a key unless its secret asks for another.
const DefaultPrefix = "kb"

const alphabet = "base62"

// Issuer mints API keys.
type Issuer struct {
	keys   keys.Keys
	hasher keys.Hasher
	now    func() time.Time
}

var (
	_ issuer.Issuer     = (*Issuer)(nil)
	_ issuer.Preparer   = (*Issuer)(nil)
	_ issuer.Finder     = (*Issuer)(nil)
	_ issuer.KeyChecker = (*Issuer)(nil)
	_ issuer.Checker    = (*Issuer)(nil)
)

// New returns an issuer that keeps its records in records.
func New(records keys.Keys, hasher keys.Hasher, now func() time.Time) *Issuer {
	return &Issuer{keys: records, hasher: hasher, now: now}
}

// Traits implements issuer.Issuer. Revocation is one row in the store that every
// check reads, so its budget is 0; and the broker is its own witness of it.
func (i *Issuer) Traits() issuer.Traits {
	return issuer.Traits{Kind: issuer.Mint, Fields: []string{Field}, Handle: []string{IDName}, SelfAttested: true}
}

// CheckKey implements issuer.KeyChecker. A checksum is always part of a key.
func (i *Issuer) CheckKey(spec issuer.KeySpec) (issuer.KeySpec, error) {
	wrong := keys.CheckFormat(cmp.Or(spec.Prefix, DefaultPrefix), cmp.Or(spec.Length, keys.MinLength))
	if spec.Alphabet != "" && spec.Alphabet != alphabet {
		wrong = errors.Join(wrong, fmt.Errorf("%w: key.alphabet: the alphabet of an API key is %s, not %q: leave it out", backends.ErrInvalid, alphabet, spec.Alphabet))
	}
	// What is wrong with prefix and length has been said.
	_, err := keys.Check(keys.Spec{Alphabet: alphabet, Classes: spec.Classes, Checksum: true})
	if wrong = errors.Join(wrong, err); wrong != nil {
		return spec, wrong
	}
	spec.Prefix, spec.Length = cmp.Or(spec.Prefix, DefaultPrefix), cmp.Or(spec.Length, keys.MinLength)
	spec.Alphabet, spec.Checksum = alphabet, true
	return spec, nil
}

// Prepare implements issuer.Preparer. ErrInvalid if the key asked for cannot be
// an API key.
func (i *Issuer) Prepare(req issuer.Request) (backends.Value, error) {
	spec, err := i.CheckKey(req.Key)
	if err != nil {
		return backends.Value{}, fmt.Errorf("preparing an API key: %w", err)
	}
	return backends.NewValue(map[string]string{Field: keys.NewAPIKey(spec.Prefix, spec.Length, spec.Classes...)}), nil
}

// Issue implements issuer.Issuer: it makes the prepared key valid. The same
// request again gives the same key; another key under the tag is ErrConflict.
func (i *Issuer) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	key := req.Prepared.Reveal()[Field]
	if !keys.Valid(key) {
		return issuer.Credential{}, fmt.Errorf("issuing an API key: %w: the prepared value is no API key", backends.ErrInvalid)
	}
	ref := req.Subject.Ref
	hash, pepper := i.hasher.Hash(key)
	r := keys.Record{
		ID: publicID(ref.Tenant, req.Tag), Tenant: ref.Tenant, Secret: ref.Name, Version: req.Version, Tag: req.Tag,
		PepperVersion: pepper, Hash: hash, CreatedAt: i.now(),
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
func (i *Issuer) issuedBefore(ctx context.Context, r keys.Record, key string) bool {
	records, err := i.keys.FindByTag(ctx, r.Tag)
	if err != nil {
		return false
	}
	for _, old := range records {
		if old.ID == r.ID && i.hasher.Matches(old, key) {
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

// Check implements issuer.Checker: all that a rotation needs is the broker's own store.
func (i *Issuer) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	f := issuer.Finding{What: "the store answers, in which the records of API keys are"}
	if _, err := i.keys.FindByTag(ctx, publicID(sub.Ref.Tenant, "check")); err != nil {
		f.Problem, f.Mend = err.Error(), "see to the broker's storage"
	}
	return []issuer.Finding{f}
}

// publicID names the key that a tag stands for. It is the same for every attempt
// at one request and tells nothing of the key.
func publicID(tenant, tag string) string {
	sum := sha256.Sum256([]byte(tenant + "\x00" + tag))
	return "key_" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:20]
}
