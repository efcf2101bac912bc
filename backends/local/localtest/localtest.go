// Package localtest is what every local.Storage has to pass.
package localtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/local"
)

var ref = backends.Ref{Tenant: backends.DefaultTenant, Name: "payments/stripe"}

// RunStorage tests the storages that factory makes, each of them empty.
func RunStorage(t *testing.T, factory func(t *testing.T) local.Storage) {
	tests := []struct {
		name string
		run  func(*testing.T, local.Storage)
	}{
		{"nothing is not found", testNothing},
		{"put makes current what get returns", testPut},
		{"put is guarded by the current number", testGuard},
		{"numbers only grow", testNumbersGrow},
		{"one of many concurrent puts wins", testConcurrentPuts},
		{"destroy keeps all but the value", testDestroy},
		{"list pages in byte order", testList},
		{"tenants are apart", testTenants},
		{"a cancelled context is an error", testCancelled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, factory(t)) })
	}
}

// at is a time that a storage with microseconds keeps.
var at = time.Date(2026, 3, 29, 1, 30, 0, 123456000, time.UTC)

func version(number int) local.Version {
	return local.Version{
		Number:    number,
		Sealed:    []byte{0, 0xff, byte(number)}, // neither text nor free of zero bytes
		CreatedAt: at.Add(time.Duration(number) * time.Second),
	}
}

func put(t *testing.T, s local.Storage, ref backends.Ref, expect, number int) {
	t.Helper()
	if err := s.Put(t.Context(), ref, expect, version(number)); err != nil {
		t.Fatalf("putting version %d: %v", number, err)
	}
}

func wantClass(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("got error %v, want one that is %q", err, class)
	}
}

func same(a, b local.Version) bool {
	return a.Number == b.Number && slices.Equal(a.Sealed, b.Sealed) &&
		a.CreatedAt.Equal(b.CreatedAt) && a.DestroyedAt.Equal(b.DestroyedAt)
}

func testNothing(t *testing.T, s local.Storage) {
	_, err := s.Get(t.Context(), ref, 0)
	wantClass(t, err, backends.ErrNotFound)
	_, err = s.Get(t.Context(), ref, 1)
	wantClass(t, err, backends.ErrNotFound)
	_, _, err = s.Describe(t.Context(), ref)
	wantClass(t, err, backends.ErrNotFound)
	if err := s.Destroy(t.Context(), ref, 1, at); err != nil {
		t.Errorf("destroying what is not there: %v", err)
	}
	wantClass(t, s.Put(t.Context(), ref, 1, version(2)), backends.ErrConflict)
}

func testPut(t *testing.T, s local.Storage) {
	put(t, s, ref, 0, 1)
	put(t, s, ref, 1, 2)
	for number, want := range map[int]int{0: 2, 1: 1, 2: 2} {
		got, err := s.Get(t.Context(), ref, number)
		if err != nil {
			t.Fatal(err)
		}
		if !same(got, version(want)) {
			t.Errorf("version %d: got %+v, want %+v", number, got, version(want))
		}
	}
	_, err := s.Get(t.Context(), ref, 3)
	wantClass(t, err, backends.ErrNotFound)

	current, versions, err := s.Describe(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if current != 2 || len(versions) != 2 || versions[0].Number != 1 || versions[1].Number != 2 {
		t.Errorf("described as %d of %+v", current, versions)
	}
	for _, v := range versions {
		if v.Sealed != nil || !v.CreatedAt.Equal(version(v.Number).CreatedAt) || !v.DestroyedAt.IsZero() {
			t.Errorf("described as %+v", v)
		}
	}
}

func testGuard(t *testing.T, s local.Storage) {
	put(t, s, ref, 0, 1)
	for _, expect := range []int{0, 2} {
		wantClass(t, s.Put(t.Context(), ref, expect, version(2)), backends.ErrConflict)
	}
	if got, err := s.Get(t.Context(), ref, 0); err != nil || got.Number != 1 {
		t.Errorf("after refused puts current is %d, %v", got.Number, err)
	}
	if _, err := s.Get(t.Context(), ref, 2); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("a refused put left a version: %v", err)
	}
}

func testNumbersGrow(t *testing.T, s local.Storage) {
	put(t, s, ref, 0, 1)
	put(t, s, ref, 1, 3)
	for _, number := range []int{1, 2, 3} {
		wantClass(t, s.Put(t.Context(), ref, 3, version(number)), backends.ErrConflict)
	}
}

func testConcurrentPuts(t *testing.T, s local.Storage) {
	put(t, s, ref, 0, 1)
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() { errs[i] = s.Put(t.Context(), ref, 1, version(2)) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantClass(t, err, backends.ErrConflict)
		}
	}
	if won != 1 {
		t.Errorf("%d puts won, want 1", won)
	}
}

func testDestroy(t *testing.T, s local.Storage) {
	put(t, s, ref, 0, 1)
	wantClass(t, s.Destroy(t.Context(), ref, 1, at), backends.ErrConflict)
	put(t, s, ref, 1, 2)
	want := version(1)
	want.Sealed, want.DestroyedAt = nil, at
	for _, when := range []time.Time{at, at.Add(time.Hour)} { // the second changes nothing
		if err := s.Destroy(t.Context(), ref, 1, when); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(t.Context(), ref, 1)
		if err != nil {
			t.Fatal(err)
		}
		if !same(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if _, versions, err := s.Describe(t.Context(), ref); err != nil || len(versions) != 2 || !same(versions[0], want) {
		t.Errorf("described as %+v, %v", versions, err)
	}
	if err := s.Destroy(t.Context(), ref, 7, at); err != nil {
		t.Errorf("destroying an unknown version: %v", err)
	}
	if got, err := s.Get(t.Context(), ref, 0); err != nil || !same(got, version(2)) {
		t.Errorf("current is %+v, %v", got, err)
	}
}

func testList(t *testing.T, s local.Storage) {
	// In byte order; a locale would put b before B, or skip over - and /.
	want := []string{"B", "a", "a-b", "a.b", "a/x", "a/y/z", "a0", "b", "é"}
	for i := range want {
		put(t, s, backends.Ref{Tenant: "acme", Name: want[(i*4)%len(want)]}, 0, 1)
	}
	for limit := 1; limit <= len(want)+1; limit++ {
		var got []string
		for after := ""; ; {
			page, err := s.List(t.Context(), "acme", after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > limit {
				t.Fatalf("a page of %d, the limit is %d", len(page), limit)
			}
			if len(page) == 0 {
				break
			}
			got, after = append(got, page...), page[len(page)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %q, want %q", limit, got, want)
		}
	}
}

func testTenants(t *testing.T, s local.Storage) {
	acme, other := backends.Ref{Tenant: "acme", Name: "x"}, backends.Ref{Tenant: "other", Name: "x"}
	put(t, s, acme, 0, 1)
	put(t, s, other, 0, 1)
	put(t, s, other, 1, 2)
	if got, err := s.Get(t.Context(), acme, 0); err != nil || got.Number != 1 {
		t.Errorf("another tenant's put changed current to %d, %v", got.Number, err)
	}
	if err := s.Destroy(t.Context(), other, 1, at); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), acme, 1); err != nil || !same(got, version(1)) {
		t.Errorf("another tenant's destroy left %+v, %v", got, err)
	}
	for tenant, want := range map[string]int{"acme": 1, "other": 1, "third": 0} {
		if names, err := s.List(t.Context(), tenant, "", 10); err != nil || len(names) != want {
			t.Errorf("tenant %s has %q, %v", tenant, names, err)
		}
	}
}

func testCancelled(t *testing.T, s local.Storage) {
	put(t, s, ref, 0, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, ref, 0)
	_, _, describeErr := s.Describe(ctx, ref)
	_, listErr := s.List(ctx, ref.Tenant, "", 1)
	for what, err := range map[string]error{
		"get":      getErr,
		"describe": describeErr,
		"list":     listErr,
		"put":      s.Put(ctx, ref, 1, version(2)),
		"destroy":  s.Destroy(ctx, ref, 1, at),
	} {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s with a cancelled context: %s", what, fmt.Sprint(err))
		}
	}
}
