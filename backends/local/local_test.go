package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/local"
	"github.com/keybroker/keybroker/backends/local/localtest"
	"github.com/keybroker/keybroker/backends/seal"
)

// memory is a Storage in a map. The broker's own one is on SQL.
type memory struct {
	mu      sync.Mutex
	secrets map[backends.Ref]*held
}

type held struct {
	current  int
	versions []local.Version
}

func newMemory() *memory { return &memory{secrets: map[backends.Ref]*held{}} }

func (m *memory) Put(ctx context.Context, ref backends.Ref, expect int, v local.Version) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.secrets[ref]
	if h == nil {
		h = &held{}
	}
	n := len(h.versions)
	if h.current != expect || n > 0 && h.versions[n-1].Number >= v.Number {
		return backends.ErrConflict
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	v.Sealed = bytes.Clone(v.Sealed)
	h.versions, h.current = append(h.versions, v), v.Number
	m.secrets[ref] = h
	return nil
}

func (m *memory) Get(ctx context.Context, ref backends.Ref, number int) (local.Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.secrets[ref]
	if h == nil {
		return local.Version{}, errors.Join(backends.ErrNotFound, ctx.Err())
	}
	if number == 0 {
		number = h.current
	}
	for _, v := range h.versions {
		if v.Number == number {
			return v, ctx.Err()
		}
	}
	return local.Version{}, backends.ErrNotFound
}

func (m *memory) Describe(ctx context.Context, ref backends.Ref) (int, []local.Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.secrets[ref]
	if h == nil {
		return 0, nil, backends.ErrNotFound
	}
	versions := slices.Clone(h.versions)
	for i := range versions {
		versions[i].Sealed = nil
	}
	return h.current, versions, ctx.Err()
}

func (m *memory) List(ctx context.Context, tenant, after string, limit int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for ref := range maps.Keys(m.secrets) {
		if ref.Tenant == tenant && ref.Name > after {
			names = append(names, ref.Name)
		}
	}
	slices.Sort(names)
	return names[:min(limit, len(names))], ctx.Err()
}

func (m *memory) Destroy(ctx context.Context, ref backends.Ref, number int, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.secrets[ref]
	if h == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if h.current == number {
		return backends.ErrConflict
	}
	for i, v := range h.versions {
		if v.Number == number && v.DestroyedAt.IsZero() {
			h.versions[i].Sealed, h.versions[i].DestroyedAt = nil, at
		}
	}
	return nil
}

func newSealer(testing.TB) *seal.Keyring { return seal.NewKeyring(seal.NewKEK(), nil) }

func TestMemoryStorage(t *testing.T) {
	localtest.RunStorage(t, func(*testing.T) local.Storage { return newMemory() })
}

func TestDriver(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		sealer, broken := newSealer(t), &switchedStorage{Storage: newMemory()}
		d := local.New(sealer, broken)
		return backendtest.Harness{
			Driver: d,
			Cut:    broken.cut,
			Seed:   anotherNode(t, local.New(sealer, broken.Storage)),
			Sized:  sized,
			Many:   10000,
		}
	})
}

// anotherNode writes as a broker does that shares the storage.
func anotherNode(t *testing.T, d *local.Driver) func(backends.Ref, backends.Value) {
	return func(ref backends.Ref, v backends.Value) {
		desc, err := d.Describe(t.Context(), ref)
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			t.Fatal(err)
		}
		if _, err := d.Publish(t.Context(), ref, backends.Write{Value: v, Expect: desc.Current}); err != nil {
			t.Fatal(err)
		}
	}
}

// sized is n bytes long as Value.Encode writes it.
func sized(n int) backends.Value {
	padded := func(n int) backends.Value {
		return backends.NewValue(map[string]string{"key": backendtest.Canary + strings.Repeat("x", n)})
	}
	return padded(n - len(padded(0).Encode()))
}

// switchedStorage fails, once cut, as a database does that is away.
type switchedStorage struct {
	local.Storage
	off bool
}

func (s *switchedStorage) cut() { s.off = true }

func (s *switchedStorage) err() error {
	if s.off {
		return errors.New("database is away")
	}
	return nil
}

func (s *switchedStorage) Get(ctx context.Context, ref backends.Ref, number int) (local.Version, error) {
	if err := s.err(); err != nil {
		return local.Version{}, err
	}
	return s.Storage.Get(ctx, ref, number)
}

func (s *switchedStorage) Describe(ctx context.Context, ref backends.Ref) (int, []local.Version, error) {
	if err := s.err(); err != nil {
		return 0, nil, err
	}
	return s.Storage.Describe(ctx, ref)
}

func (s *switchedStorage) List(ctx context.Context, tenant, after string, limit int) ([]string, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	return s.Storage.List(ctx, tenant, after, limit)
}

func (s *switchedStorage) Destroy(ctx context.Context, ref backends.Ref, number int, at time.Time) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Storage.Destroy(ctx, ref, number, at)
}

func publish(t *testing.T, d *local.Driver, ref backends.Ref, expect backends.VersionID) backends.VersionID {
	t.Helper()
	id, err := d.Publish(t.Context(), ref, backends.Write{
		Value:  backends.NewValue(map[string]string{"key": backendtest.Canary}),
		Expect: expect,
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestValuesAreSealedAtRest(t *testing.T) {
	storage := newMemory()
	d := local.New(newSealer(t), storage)
	ref := backends.Ref{Tenant: backends.DefaultTenant, Name: "x"}
	publish(t, d, ref, "")
	stored, err := storage.Get(t.Context(), ref, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, plain := range []string{backendtest.Canary, "key"} {
		if bytes.Contains(stored.Sealed, []byte(plain)) {
			t.Error("the value is in the storage in the clear")
		}
	}
}

// Whoever can write to the database must not be able to swap values.
func TestSealedValueOpensNowhereElse(t *testing.T) {
	storage := newMemory()
	d := local.New(newSealer(t), storage)
	from := backends.Ref{Tenant: "acme", Name: "x"}
	publish(t, d, from, publish(t, d, from, ""))
	sealed, err := storage.Get(t.Context(), from, 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]struct {
		ref    backends.Ref
		number int
	}{
		"version": {from, 3},
		"name":    {backends.Ref{Tenant: "acme", Name: "y"}, 1},
		"tenant":  {backends.Ref{Tenant: "other", Name: "x"}, 1},
		"border":  {backends.Ref{Tenant: "acm", Name: "ex"}, 1},
	} {
		current, _, _ := storage.Describe(t.Context(), to.ref)
		if err := storage.Put(t.Context(), to.ref, current, local.Version{Number: to.number, Sealed: sealed.Sealed}); err != nil {
			t.Fatal(err)
		}
		_, _, err := d.Read(t.Context(), to.ref, "")
		if !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("moved to another %s it opened: %v", name, err)
		}
		if strings.Contains(fmt.Sprint(err), backendtest.Canary) {
			t.Error("the error gives the value away")
		}
	}
}
