package apikey_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/keys"
)

// memory keeps records in memory.
type memory struct {
	mu      sync.Mutex
	records []keys.Record
	lose    bool  // the next Create acts and then loses its answer
	down    error // returned by every call
}

func (m *memory) check(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, ctx.Err())
	}
	return m.down
}

func (m *memory) Create(ctx context.Context, r keys.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(ctx); err != nil {
		return err
	}
	for _, old := range m.records {
		sameTag := old.Tenant == r.Tenant && old.Tag == r.Tag
		sameHash := bytes.Equal(old.Hash, r.Hash)
		if sameTag && sameHash {
			return nil
		}
		if sameTag || sameHash {
			return fmt.Errorf("%w: tag or hash", backends.ErrConflict)
		}
	}
	m.records = append(m.records, r)
	if m.lose {
		m.lose = false
		return fmt.Errorf("%w: the answer was lost", backends.ErrUnavailable)
	}
	return nil
}

func (m *memory) Revoke(ctx context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(ctx); err != nil {
		return err
	}
	for i := range m.records {
		if r := &m.records[i]; r.ID == id {
			if r.RevokedAt.IsZero() {
				r.RevokedAt = time.Unix(2000, 0)
			}
			return nil
		}
	}
	return backends.ErrNotFound
}

func (m *memory) FindByTag(ctx context.Context, tag string) ([]keys.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(ctx); err != nil {
		return nil, err
	}
	var found []keys.Record
	for _, r := range m.records {
		if r.Tag == tag {
			found = append(found, r)
		}
	}
	return found, nil
}

func (m *memory) FindByHash(ctx context.Context, hash []byte) (keys.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(ctx); err != nil {
		return keys.Record{}, err
	}
	i := slices.IndexFunc(m.records, func(r keys.Record) bool { return bytes.Equal(r.Hash, hash) })
	if i < 0 {
		return keys.Record{}, backends.ErrNotFound
	}
	return m.records[i], nil
}

func (m *memory) live() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var tags []string
	for _, r := range m.records {
		if r.RevokedAt.IsZero() {
			tags = append(tags, r.Tag)
		}
	}
	return tags
}

func (m *memory) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// cut are records whose answers end for good once so many points have passed, of which
// each call has two: before it and after it.
type cut struct {
	keys.Keys
	mu   sync.Mutex
	left int
	dead bool
}

var errCut = fmt.Errorf("%w: cut off", backends.ErrUnavailable)

func (c *cut) passes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = c.dead || c.left == 0
	c.left--
	return !c.dead
}

func (c *cut) reached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

func (c *cut) around(call func() error) error {
	if !c.passes() {
		return errCut
	}
	err := call()
	if !c.passes() {
		return errCut
	}
	return err
}

func (c *cut) Create(ctx context.Context, r keys.Record) error {
	return c.around(func() error { return c.Keys.Create(ctx, r) })
}

func (c *cut) Revoke(ctx context.Context, id string) error {
	return c.around(func() error { return c.Keys.Revoke(ctx, id) })
}

func (c *cut) FindByTag(ctx context.Context, tag string) (found []keys.Record, err error) {
	err = c.around(func() error {
		found, err = c.Keys.FindByTag(ctx, tag)
		return err
	})
	return found, err
}
