package keys

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
)

// Checker tells whether a presented key is valid.
type Checker struct {
	records Lookup
	hasher  Hasher
}

// NewChecker returns a checker. Safe for concurrent use.
func NewChecker(records Lookup, hasher Hasher) *Checker {
	return &Checker{records: records, hasher: hasher}
}

// Check returns the record of a presented key: ErrNotFound if it is not ours
// (one without the right checksum never reaches the store), ErrDenied together
// with its record if it was revoked. The lookup goes by the key's HMAC, which
// nobody without the pepper can steer, so the index's timing tells nothing.
func (c *Checker) Check(ctx context.Context, presented string) (Record, error) {
	if !Valid(presented) {
		return Record{}, fmt.Errorf("checking an API key: %w: it has not the form or checksum of one", backends.ErrNotFound)
	}
	for _, p := range c.hasher.peppers {
		r, err := c.records.FindByHash(ctx, p.hash(presented))
		if errors.Is(err, backends.ErrNotFound) {
			continue
		}
		if err != nil {
			return Record{}, fmt.Errorf("checking an API key: %w", err)
		}
		if !c.hasher.Matches(r, presented) {
			continue
		}
		if !r.RevokedAt.IsZero() {
			return r, fmt.Errorf("checking an API key: %w: %s was revoked", backends.ErrDenied, r.ID)
		}
		return r, nil
	}
	return Record{}, fmt.Errorf("checking an API key: %w", backends.ErrNotFound)
}
