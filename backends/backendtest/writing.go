package backendtest

import (
	"slices"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

var writingTests = []test{
	{"publish creates", []need{writes}, testCreate},
	{"publish needs the version that is current", []need{writes}, testGuard},
	{"publish to nothing refuses an expectation", []need{writes}, testExpectNothing},
	{"one of many publishers wins", []need{writes}, testConcurrentPublish},
	{"one of many creators wins", []need{writes}, testConcurrentCreate},
	{"a reader never sees half a version", []need{writes}, testAtomicFields},
	{"a read-only vault refuses to write", []need{readOnly}, testReadOnly},
}

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
	s.wantVersions(t, ref, 2)
}

func testExpectNothing(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	_, err := s.Driver.Publish(t.Context(), ref, s.write(1, "1"))
	wantClass(t, "publishing over a version of nothing", err, backends.ErrConflict)
	_, _, err = s.Driver.Read(t.Context(), ref, "")
	wantClass(t, "reading after a refused write", err, backends.ErrNotFound)
}

func testConcurrentPublish(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	s.race(t, ref, s.publish(t, ref, 100, ""))
}

func testConcurrentCreate(t *testing.T, s *suite) {
	s.race(t, secret("payments/stripe"), "")
}

// race lets 50 writers publish over the same version and wants one to win. Where
// the vault has no compare-and-swap, that is promised to those who share a Mount
// and to nobody else.
func (s *suite) race(t *testing.T, ref backends.Ref, expect backends.VersionID) {
	t.Helper()
	const publishers = 50
	to := s.Driver
	if !s.can().CompareSwap {
		to = s.mount()
	}
	writes := make([]backends.Write, publishers)
	for i := range writes {
		writes[i] = s.write(i, expect)
	}
	ids, errs := make([]backends.VersionID, publishers), make([]error, publishers)
	var wg sync.WaitGroup
	for i := range publishers {
		wg.Go(func() { ids[i], errs[i] = to.Publish(t.Context(), ref, writes[i]) })
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
	const written, readers = 15, 3
	ref := secret("payments/stripe")
	id := s.publish(t, ref, 0, "")
	whole := make([]backends.Value, written+1)
	for n := range whole {
		whole[n] = s.value(n)
	}
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
				if !slices.ContainsFunc(whole, got.Equal) {
					t.Error("a read gave a mixture of two versions")
					return
				}
			}
		})
	}
	for n := 1; n <= written; n++ {
		var err error
		if id, err = s.Driver.Publish(t.Context(), ref, s.write(n, id)); err != nil {
			t.Errorf("publishing beside readers: %v", err)
			break
		}
	}
	close(done)
	wg.Wait()
}

func testReadOnly(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	if s.Seed != nil {
		s.Seed(ref, s.value(1))
	}
	_, err := s.Driver.Publish(t.Context(), ref, s.write(2, ""))
	wantClass(t, "publishing to a read-only vault", err, backends.ErrUnsupported)
	wantClass(t, "retiring in a read-only vault", s.Driver.Retire(t.Context(), ref, "1"), backends.ErrUnsupported)
	wantClass(t, "destroying in a read-only vault", s.Driver.Destroy(t.Context(), ref, "1"), backends.ErrUnsupported)
	if s.can().Stages {
		stager := s.stager(t)
		_, err := stager.Stage(t.Context(), ref, s.write(2, ""))
		wantClass(t, "staging in a read-only vault", err, backends.ErrUnsupported)
		wantClass(t, "promoting in a read-only vault", stager.Promote(t.Context(), ref, "2", "1"), backends.ErrUnsupported)
	}
	if s.Seed != nil {
		s.wantValue(t, ref, "", 1, s.describe(t, ref).Current)
	}
}
