package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/local"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/store"
)

// newRing adds a key to the store and returns a ring that seals by it.
func newRing(t testing.TB, db *store.DB) *seal.Keyring {
	t.Helper()
	kek := seal.NewKEK()
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		return tx.AddSealKey(t.Context(), store.SealKey{ID: kek.ID(), CreatedAt: now})
	})
	if err != nil {
		t.Fatal(err)
	}
	return seal.NewKeyring(kek, nil)
}

// The embedded vault as it is run: on this storage, sealed by a keyring. The tests
// share a database, emptied, for as long as it is open.
func TestLocalBackend(t *testing.T) {
	forEachConfig(t, func(outer *testing.T, cfg store.Config) {
		var db *store.DB
		backendtest.Run(outer, func(t *testing.T) backendtest.Harness {
			if db == nil {
				db = open(outer, cfg)
			}
			for _, table := range []string{"local_versions", "local_secrets"} {
				update(t, db, func(tx *store.Tx) error { return tx.Exec(t.Context(), "DELETE FROM "+table) })
			}
			ring := newRing(t, db)
			another := local.New(ring, db.LocalStorage())
			return backendtest.Harness{
				Driver: local.New(ring, db.LocalStorage()),
				Seed:   func(ref backends.Ref, v backends.Value) { overwrite(t, another, ref, v) },
				Fill:   func(names []string) { fillLocal(t, another, names) },
				Sized:  sizedLocal,
				Cut: func() {
					if err := db.Close(t.Context()); err != nil {
						t.Error(err)
					}
					db = nil
				},
			}
		})
	})
}

func overwrite(t *testing.T, d *local.Driver, ref backends.Ref, v backends.Value) {
	t.Helper()
	desc, err := d.Describe(t.Context(), ref)
	if err != nil && !errors.Is(err, backends.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := d.Publish(t.Context(), ref, backends.Write{Value: v, Expect: desc.Current}); err != nil {
		t.Fatal(err)
	}
}

// fillLocal writes many at a time, which SQLite commits together.
func fillLocal(t *testing.T, d *local.Driver, names []string) {
	t.Helper()
	var wg sync.WaitGroup
	var taken atomic.Int64
	for range 32 {
		wg.Go(func() {
			for i := int(taken.Add(1) - 1); i < len(names); i = int(taken.Add(1) - 1) {
				ref := backends.Ref{Tenant: backends.DefaultTenant, Name: names[i]}
				if _, err := d.Publish(t.Context(), ref, backends.Write{Value: sizedLocal(100)}); err != nil {
					t.Errorf("writing %s: %v", ref, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// sizedLocal is n bytes long as Value.Encode writes it.
func sizedLocal(n int) backends.Value {
	padded := func(n int) backends.Value {
		return backends.NewValue(map[string]string{"key": backendtest.Canary + strings.Repeat("x", n)})
	}
	return padded(n - len(padded(0).Encode()))
}

// deaf commits what it is given and does not hear of it, while lose is positive.
type deaf struct {
	local.Storage
	lose atomic.Int64
}

func (s *deaf) answer(err error) error {
	if err == nil && s.lose.Add(-1) >= 0 {
		return fmt.Errorf("%w: the answer to the commit was lost", backends.ErrUnavailable)
	}
	return err
}

func (s *deaf) Put(ctx context.Context, ref backends.Ref, expect int, v local.Version) error {
	return s.answer(s.Storage.Put(ctx, ref, expect, v))
}

func (s *deaf) Destroy(ctx context.Context, ref backends.Ref, number int, at time.Time) error {
	return s.answer(s.Storage.Destroy(ctx, ref, number, at))
}

var lostRef = backends.Ref{Tenant: backends.DefaultTenant, Name: "payments/lost"}

func lostValue(n int) backends.Value {
	return backends.NewValue(map[string]string{"key": fmt.Sprintf("%s-%d", backendtest.Canary, n)})
}

func TestLocalLostCommitMakesNoSecondVersion(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		storage := &deaf{Storage: db.LocalStorage()}
		m := backends.NewMount("embedded", local.New(newRing(t, db), storage), backends.Options{})
		id := backends.VersionID("")
		for n := 1; n <= 3; n++ {
			storage.lose.Store(1)
			var err error
			if id, err = m.Publish(t.Context(), lostRef, backends.Write{Value: lostValue(n), Expect: id}); err != nil {
				t.Fatalf("the answer to commit %d was lost: %v", n, err)
			}
		}
		storage.lose.Store(1)
		if err := m.Destroy(t.Context(), lostRef, "1"); err != nil {
			t.Errorf("the answer to a destruction was lost: %v", err)
		}
		wantLocalVersions(t, m, 3)
	})
}

// Whenever the caller leaves, a publication that is repeated is one version.
func TestLocalCancelledCommitMakesNoSecondVersion(t *testing.T) {
	const measured, versions = 10, 100
	forEachDB(t, func(t *testing.T, db *store.DB) {
		m := backends.NewMount("embedded", local.New(newRing(t, db), db.LocalStorage()), backends.Options{})
		id, began, takes := backends.VersionID(""), time.Now(), time.Duration(0)
		for n := 1; n <= versions; n++ {
			w := backends.Write{Value: lostValue(n), Expect: id}
			ctx, cancel := context.WithCancel(t.Context())
			if n == measured+1 {
				takes = time.Since(began) / (2 * measured) // a write, and then another that finds it
			}
			if n > measured { // from at once until twice as long as it takes
				time.AfterFunc(2*takes*time.Duration(n-measured-1)/(versions-measured), cancel)
			}
			_, err := m.PublishOnce(ctx, lostRef, w)
			cancel()
			if err != nil && !errors.Is(err, backends.ErrUnavailable) {
				t.Fatalf("cancelled at some moment: %v", err)
			}
			if id, err = m.Publish(t.Context(), lostRef, w); err != nil {
				t.Fatalf("publishing again what was cancelled: %v", err)
			}
		}
		wantLocalVersions(t, m, versions)
	})
}

// wantLocalVersions wants the n-th value current, and no version that nobody knows of.
func wantLocalVersions(t *testing.T, m *backends.Mount, n int) {
	t.Helper()
	desc, err := m.Describe(t.Context(), lostRef)
	if err != nil || len(desc.Versions) != n {
		t.Errorf("there are %d versions, want %d: %v", len(desc.Versions), n, err)
	}
	if got, id, err := m.Read(t.Context(), lostRef, ""); err != nil || id != desc.Current || !got.Equal(lostValue(n)) {
		t.Errorf("version %q of %q is current, or has another value: %v", id, desc.Current, err)
	}
}

// BenchmarkBackendsLocalSQLite measures the embedded vault as it is run by default:
// sealed values in a SQLite file that is synced at each commit.
func BenchmarkBackendsLocalSQLite(b *testing.B) {
	db, err := store.Open(b.Context(), store.Config{SQLitePath: filepath.Join(b.TempDir(), "keybroker.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	backendtest.Bench(b, backendtest.Harness{Driver: local.New(newRing(b, db), db.LocalStorage()), Writable: 100}, "local_sqlite")
}
