package backendtest

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

func testCreate(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	id := s.publish(t, ref, 1, "")
	s.wantValue(t, ref, "", 1, id)
	s.wantValue(t, ref, id, 1, id)
}

func testGuard(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	second := s.publish(t, ref, 2, first)
	if first == second {
		t.Fatalf("both versions are called %q", first)
	}
	for name, expect := range map[string]backends.VersionID{
		"nothing": "", "the previous version": first, "an unknown version": "4711", "another vault's": "no-version",
	} {
		_, err := s.Driver.Publish(t.Context(), ref, s.write(3, expect))
		wantClass(t, "publishing over "+name, err, backends.ErrConflict)
	}
	s.wantValue(t, ref, "", 2, second)
}

func testExpectNothing(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	_, err := s.Driver.Publish(t.Context(), ref, s.write(1, "1"))
	wantClass(t, "publishing over a version of nothing", err, backends.ErrConflict)
	_, _, err = s.Driver.Read(t.Context(), ref, "")
	wantClass(t, "reading after a refused write", err, backends.ErrNotFound)
}

func testOldVersions(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	second := s.publish(t, ref, 2, first)
	third := s.publish(t, ref, 1, second) // a rollback: the first value under a new id
	s.wantValue(t, ref, first, 1, first)
	s.wantValue(t, ref, second, 2, second)
	s.wantValue(t, ref, third, 1, third)
	s.wantValue(t, ref, "", 1, third)
}

func testConcurrentPublish(t *testing.T, s *suite) {
	const publishers = 8
	ref := secret("payments/stripe")
	expect := s.publish(t, ref, 100, "")
	writes := make([]backends.Write, publishers)
	for i := range writes {
		writes[i] = s.write(i, expect)
	}
	ids, errs := make([]backends.VersionID, publishers), make([]error, publishers)
	var wg sync.WaitGroup
	for i := range publishers {
		wg.Go(func() { ids[i], errs[i] = s.Driver.Publish(t.Context(), ref, writes[i]) })
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err != nil:
			wantClass(t, "publishing beside others", err, backends.ErrConflict)
		case winner >= 0:
			t.Errorf("publishers %d and %d both won", winner, i)
		default:
			winner = i
		}
	}
	if winner < 0 {
		t.Fatal("no publisher won")
	}
	s.wantValue(t, ref, "", winner, ids[winner])
}

func testAtomicFields(t *testing.T, s *suite) {
	const versions, readers = 15, 3
	ref := secret("payments/stripe")
	id := s.publish(t, ref, 0, "")
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				got, _, err := s.Driver.Read(t.Context(), ref, "")
				if err != nil {
					t.Errorf("reading beside a publisher: %v", err)
					return
				}
				whole := func(v backends.Value) bool { return got.Equal(v) }
				if !slices.ContainsFunc(values(versions+1), whole) {
					t.Error("a read gave a mixture of two versions")
					return
				}
			}
		})
	}
	for n := 1; n <= versions; n++ {
		var err error
		if id, err = s.Driver.Publish(t.Context(), ref, s.write(n, id)); err != nil {
			t.Errorf("publishing beside readers: %v", err)
			break
		}
	}
	close(done)
	wg.Wait()
}

func values(n int) []backends.Value {
	all := make([]backends.Value, n)
	for i := range all {
		all[i] = value(i)
	}
	return all
}

func testDestroy(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	second := s.publish(t, ref, 2, first)
	for range 2 { // what is gone already is no error
		if err := s.Driver.Destroy(t.Context(), ref, first); err != nil {
			t.Fatalf("destroying: %v", err)
		}
	}
	_, _, err := s.Driver.Read(t.Context(), ref, first)
	wantClass(t, "reading a destroyed version", err, backends.ErrNotFound)
	s.wantValue(t, ref, "", 2, second)
	desc, err := s.Driver.Describe(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range desc.Versions {
		if v.ID == first && !v.Gone {
			t.Error("a destroyed version is described as being there")
		}
	}
	if err := s.Driver.Destroy(t.Context(), secret("payments/none"), first); err != nil {
		t.Errorf("destroying a version of no secret: %v", err)
	}
}

func testDestroyCurrent(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	id := s.publish(t, ref, 1, "")
	wantClass(t, "destroying the current version", s.Driver.Destroy(t.Context(), ref, id), backends.ErrConflict)
	s.wantValue(t, ref, "", 1, id)
}

func testValues(t *testing.T, s *suite) {
	for name, fields := range map[string]map[string]string{
		"empty":   {"empty": "", "other": Canary},
		"unicode": {"schlüssel": "пароль 密码 🔑 é e\u0301", "control": "\x00\x01\t\n\r\u2028<>&\"\\'"},
		"json":    {"looks.like": `{"a":1}`, "number": "12345678901234567890.10", "bool": "true", "null": "null"},
		"large":   {"pem": strings.Repeat("0123456789abcdef", 2048)},
		"many":    many(50),
	} {
		ref, want := secret("values/"+name), backends.NewValue(fields)
		w := s.write(0, "")
		w.Value = want
		if _, err := s.Driver.Publish(t.Context(), ref, w); err != nil {
			t.Errorf("publishing the %s value: %v", name, err)
			continue
		}
		got, _, err := s.Driver.Read(t.Context(), ref, "")
		if err != nil {
			t.Errorf("reading the %s value: %v", name, err)
		} else if !got.Equal(want) {
			t.Errorf("the %s value came back changed; its fields are %q", name, got.FieldNames())
		}
	}
}

func many(n int) map[string]string {
	fields := map[string]string{}
	for i := range n {
		fields["field-"+strings.Repeat("x", i)] = strings.Repeat("y", i)
	}
	return fields
}

func testTooLarge(t *testing.T, s *suite) {
	limit := s.Driver.Capabilities().MaxValueSize
	w := s.write(1, "")
	w.Value = backends.NewValue(map[string]string{"large": strings.Repeat(Canary, limit/len(Canary)+1)})
	_, err := s.Driver.Publish(t.Context(), secret("payments/large"), w)
	wantClass(t, "publishing more than MaxValueSize", err, backends.ErrInvalid)
}

func testReadOnly(t *testing.T, s *suite) {
	_, err := s.Driver.Publish(t.Context(), secret("payments/stripe"), s.write(1, ""))
	wantClass(t, "publishing to a read-only vault", err, backends.ErrUnsupported)
	err = s.Driver.Destroy(t.Context(), secret("payments/stripe"), "1")
	wantClass(t, "destroying in a read-only vault", err, backends.ErrUnsupported)
}

// oneOf is for what may be a class or the context's own error.
func oneOf(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
}
