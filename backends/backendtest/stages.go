package backendtest

import (
	"errors"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

var stagingTests = []test{
	{"a staged version is not current", []need{stages}, testStage},
	{"a staged version can be the first", []need{stages}, testStageFirst},
	{"staging twice is one version", []need{stages}, testStageTwice},
	{"promote makes a staged version current", []need{stages}, testPromote},
	{"promote needs the version that is current", []need{stages}, testPromoteGuard},
	{"promote knows what was staged", []need{stages}, testPromoteUnknown},
	{"one of many promoters wins", []need{stages}, testConcurrentPromote},
	{"a staged version can be retired", []need{stages}, testRetireStaged},
	{"publish goes past a staged version", []need{stages}, testPublishPastStaged},
}

// stage writes the n-th value as pending.
func (s *suite) stage(t *testing.T, ref backends.Ref, n int, expect backends.VersionID) backends.VersionID {
	t.Helper()
	id, err := s.stager(t).Stage(t.Context(), ref, s.write(n, expect))
	if err != nil || id == "" {
		t.Fatalf("staging value %d of %s: %q, %v", n, ref, id, err)
	}
	return id
}

func (s *suite) wantCurrent(t *testing.T, ref backends.Ref, id backends.VersionID) {
	t.Helper()
	if current := s.describe(t, ref).Current; current != id {
		t.Errorf("current is %q, want %q", current, id)
	}
}

func testStage(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	pending := s.stage(t, ref, 2, first)
	if pending == first {
		t.Fatalf("both versions are called %q", first)
	}
	s.wantValue(t, ref, "", 1, first)
	s.wantValue(t, ref, pending, 2, pending)
	s.wantCurrent(t, ref, first)
	s.wantVersions(t, ref, 2)
}

// testStageFirst also takes a vault that cannot hold a first version as pending, and
// says so.
func testStageFirst(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	pending, err := s.stager(t).Stage(t.Context(), ref, s.write(1, ""))
	if err != nil {
		wantClass(t, "staging a first version", err, backends.ErrUnsupported)
	}
	_, _, unread := s.Driver.Read(t.Context(), ref, "")
	wantClass(t, "reading where a version is pending at most", unread, backends.ErrNotFound)
	if err != nil {
		pending = s.publish(t, ref, 1, "")
	} else {
		s.wantCurrent(t, ref, "")
		if err := s.stager(t).Promote(t.Context(), ref, pending, ""); err != nil {
			t.Fatalf("promoting the first version: %v", err)
		}
	}
	s.wantValue(t, ref, "", 1, pending)
}

func testStageTwice(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	w := s.write(2, first)
	var ids [2]backends.VersionID
	for i := range ids {
		var err error
		if ids[i], err = s.stager(t).Stage(t.Context(), ref, w); err != nil {
			t.Fatalf("staging for the %d. time: %v", i+1, err)
		}
	}
	if ids[0] != ids[1] {
		t.Errorf("staged as %q and as %q", ids[0], ids[1])
	}
	s.wantVersions(t, ref, 2)

	w.Value = s.value(3)
	_, err := s.stager(t).Stage(t.Context(), ref, w)
	if !oneOf(err, backends.ErrConflict, backends.ErrInvalid) {
		t.Errorf("staging another value under the same token: %v", err)
	}
	wantQuiet(t, err)
	s.wantValue(t, ref, ids[0], 2, ids[0])
}

func testPromote(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	pending := s.stage(t, ref, 2, first)
	for range 2 { // what is current already is no error
		if err := s.stager(t).Promote(t.Context(), ref, pending, first); err != nil {
			t.Fatalf("promoting: %v", err)
		}
	}
	s.wantValue(t, ref, "", 2, pending)
	s.wantValue(t, ref, first, 1, first)
	s.wantCurrent(t, ref, pending)
	third := s.publish(t, ref, 3, pending)
	s.wantValue(t, ref, "", 3, third)
}

func testPromoteGuard(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	second := s.publish(t, ref, 2, first)
	pending := s.stage(t, ref, 3, second)
	for name, expect := range map[string]backends.VersionID{"nothing": "", "the previous version": first, "an unknown version": "4711", "itself": pending} {
		err := s.stager(t).Promote(t.Context(), ref, pending, expect)
		wantClass(t, "promoting over "+name, err, backends.ErrConflict)
	}
	s.wantValue(t, ref, "", 2, second)
}

func testPromoteUnknown(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	for _, ref := range []backends.Ref{ref, secret("payments/none")} {
		err := s.stager(t).Promote(t.Context(), ref, "no-version", first)
		if !oneOf(err, backends.ErrNotFound, backends.ErrConflict) {
			t.Errorf("promoting what was never staged in %s: %v", ref, err)
		}
	}
	s.wantValue(t, ref, "", 1, first)
}

// testConcurrentPromote has two pending versions: a vault that knows one pending
// version at a time may have forgotten the first.
func testConcurrentPromote(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	stager := s.stager(t)
	var ids [2]backends.VersionID
	var errs [2]error
	for i := range ids {
		ids[i] = s.stage(t, ref, 2+i, first)
	}
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { errs[i] = stager.Promote(t.Context(), ref, ids[i], first) })
	}
	wg.Wait()
	winner := 0
	if errs[0] != nil {
		winner = 1
	}
	if errs[winner] != nil || errs[1-winner] == nil {
		t.Fatalf("want one promoter to win: %v; %v", errs[0], errs[1])
	}
	if !errors.Is(errs[1-winner], backends.ErrNotFound) {
		wantClass(t, "promoting beside another", errs[1-winner], backends.ErrConflict)
	}
	s.wantValue(t, ref, "", 2+winner, ids[winner])
}

func testRetireStaged(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	pending := s.stage(t, ref, 2, first)
	for range 2 {
		if err := s.Driver.Retire(t.Context(), ref, pending); err != nil {
			t.Fatalf("retiring a pending version: %v", err)
		}
	}
	for _, v := range s.describe(t, ref).Versions {
		if v.ID == pending && len(v.Stages) > 0 {
			t.Errorf("the stages %q lead to a retired version", v.Stages)
		}
	}
	s.wantValue(t, ref, "", 1, first)
	next := s.stage(t, ref, 3, first)
	if err := s.stager(t).Promote(t.Context(), ref, next, first); err != nil {
		t.Fatalf("promoting after another pending version was retired: %v", err)
	}
	s.wantValue(t, ref, "", 3, next)
}

func testPublishPastStaged(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	pending := s.stage(t, ref, 2, first)
	third := s.publish(t, ref, 3, first)
	s.wantValue(t, ref, "", 3, third)
	err := s.stager(t).Promote(t.Context(), ref, pending, first)
	if !oneOf(err, backends.ErrConflict, backends.ErrNotFound) {
		t.Errorf("promoting over what was published meanwhile: %v", err)
	}
	s.wantValue(t, ref, "", 3, third)
}
