package backendtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

var versionTests = []test{
	{"old versions stay readable", []need{versions}, testOldVersions},
	{"hundreds of versions", []need{writes}, testManyVersions},
	{"retire takes a version out of use", []need{versions}, testRetire},
	{"retire refuses the current version", []need{writes}, testRetireCurrent},
	{"destroy removes for good", []need{versions, destroys}, testDestroy},
	{"destroy also removes what was retired", []need{versions, destroys}, testDestroyRetired},
	{"destroy refuses the current version", []need{destroys}, testDestroyCurrent},
	{"what was never there is retired and destroyed already", []need{writes}, testUnknownVersions},
	{"destroy is unsupported", []need{keepsAll}, testNoDestroy},
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

// testManyVersions writes more versions than vaults keep. What is not kept is not
// found; what is kept is not mixed up.
func testManyVersions(t *testing.T, s *suite) {
	written, routine := 105, 105
	switch {
	case s.Writable >= 10: // what a driver keeps back of the vault's limits is for emergencies
		routine = s.Writable
	case s.Writable > 0:
		written = s.Writable
	}
	ref := secret("payments/stripe")
	ids := make([]backends.VersionID, written)
	last := backends.VersionID("")
	for n := range written {
		w := s.write(n, last)
		w.Urgent = n >= routine
		id, err := s.Driver.Publish(t.Context(), ref, w)
		if err != nil {
			t.Fatalf("publishing version %d: %v", n, err)
		}
		last, ids[n] = id, id
	}
	s.wantValue(t, ref, "", written-1, last)
	kept := written
	if s.Keeps > 0 {
		kept = min(written, s.Keeps)
	}
	if !s.can().Versions {
		kept = 1
	}
	for n, id := range ids {
		if n >= written-kept {
			s.wantValue(t, ref, id, n, id)
			continue
		}
		_, _, err := s.Driver.Read(t.Context(), ref, id)
		wantClass(t, "reading a version that the vault forgot", err, backends.ErrNotFound)
	}
	desc := s.describe(t, ref)
	if desc.Current != last {
		t.Errorf("current is %q, want %q", desc.Current, last)
	}
	there := 0
	for _, v := range desc.Versions {
		if !v.Gone {
			there++
		}
	}
	if there != kept || desc.Versions[len(desc.Versions)-1].ID != last {
		t.Errorf("%d versions are described, want %d, the current one last", there, kept)
	}
}

func testRetire(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	second := s.publish(t, ref, 2, first)
	for range 2 { // what is retired already is no error
		if err := s.Driver.Retire(t.Context(), ref, first); err != nil {
			t.Fatalf("retiring: %v", err)
		}
	}
	s.wantValue(t, ref, "", 2, second)
	desc := s.describe(t, ref)
	if desc.Current != second {
		t.Errorf("current is %q, want %q", desc.Current, second)
	}
	for _, v := range desc.Versions {
		if v.ID == first && len(v.Stages) > 0 {
			t.Errorf("the stages %q lead to a retired version", v.Stages)
		}
	}
	// Reading it may give it still, but nothing else.
	if got, _, err := s.Driver.Read(t.Context(), ref, first); err == nil && !got.Equal(s.value(1)) {
		t.Error("reading a retired version gave another value")
	} else if err != nil {
		wantClass(t, "reading a retired version", err, backends.ErrNotFound)
	}
	if err := s.Driver.Retire(t.Context(), secret("payments/none"), first); err != nil {
		t.Errorf("retiring a version of no secret: %v", err)
	}
	third := s.publish(t, ref, 3, second)
	s.wantValue(t, ref, "", 3, third)
}

func testRetireCurrent(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	id := s.publish(t, ref, 1, "")
	wantClass(t, "retiring the current version", s.Driver.Retire(t.Context(), ref, id), backends.ErrConflict)
	s.wantValue(t, ref, "", 1, id)
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
	s.wantDestroyed(t, ref, first)
	s.wantValue(t, ref, "", 2, second)
	if err := s.Driver.Destroy(t.Context(), secret("payments/none"), first); err != nil {
		t.Errorf("destroying a version of no secret: %v", err)
	}
}

func (s *suite) wantDestroyed(t *testing.T, ref backends.Ref, id backends.VersionID) {
	t.Helper()
	_, _, err := s.Driver.Read(t.Context(), ref, id)
	wantClass(t, "reading a destroyed version", err, backends.ErrNotFound)
	for _, v := range s.describe(t, ref).Versions {
		if v.ID == id && !v.Gone {
			t.Error("a destroyed version is described as being there")
		}
	}
}

func testDestroyRetired(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	second := s.publish(t, ref, 2, first)
	if err := s.Driver.Retire(t.Context(), ref, first); err != nil {
		t.Fatal(err)
	}
	if err := s.Driver.Destroy(t.Context(), ref, first); err != nil {
		t.Fatal(err)
	}
	s.wantDestroyed(t, ref, first)
	if err := s.Driver.Retire(t.Context(), ref, first); err != nil {
		t.Errorf("retiring what is gone: %v", err)
	}
	s.wantValue(t, ref, "", 2, second)
}

func testDestroyCurrent(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	id := s.publish(t, ref, 1, "")
	wantClass(t, "destroying the current version", s.Driver.Destroy(t.Context(), ref, id), backends.ErrConflict)
	s.wantValue(t, ref, "", 1, id)
}

// testUnknownVersions has ids of other vaults, and some that a lenient parser takes
// for the first version.
func testUnknownVersions(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	second := s.publish(t, ref, 2, first)
	ids := []backends.VersionID{
		"", "0", "-1", "4711", "3000000000", "9223372036854775807", "99999999999999999999", "no-version", "00000000-0000-4000-8000-0000000000ff",
		"+" + first, "0" + first, " " + first, first + " ", first + ".0", first + "," + second, "../" + first, "a/b", "%", "?version=1",
		backends.VersionID(strings.Repeat("x", 300)),
	}
	for _, id := range ids {
		s.wantNothingToEnd(t, ref, id)
		s.wantNothingToEnd(t, secret("payments/none"), id)
	}
	s.wantNothingToEnd(t, secret("payments/none"), first)
	s.wantValue(t, ref, "", 2, second)
	if s.can().Versions {
		s.wantValue(t, ref, first, 1, first)
	}
	s.wantVersions(t, ref, 2)
	_, err := s.Driver.Describe(t.Context(), secret("payments/none"))
	wantClass(t, "describing a secret of which versions were retired and destroyed", err, backends.ErrNotFound)
}

// wantNothingToEnd wants the end of a version to be no error, since it is not there.
func (s *suite) wantNothingToEnd(t *testing.T, ref backends.Ref, id backends.VersionID) {
	t.Helper()
	if err := s.Driver.Retire(t.Context(), ref, id); err != nil {
		t.Errorf("retiring version %q of %s, which is not there: %v", id, ref, err)
	}
	doing, err := fmt.Sprintf("destroying version %q of %s, which is not there", id, ref), s.Driver.Destroy(t.Context(), ref, id)
	if !s.can().Destroy {
		wantClass(t, doing, err, backends.ErrUnsupported)
	} else if err != nil {
		t.Errorf("%s: %v", doing, err)
	}
}

func testNoDestroy(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	second := s.publish(t, ref, 2, first)
	wantClass(t, "destroying where that is impossible", s.Driver.Destroy(t.Context(), ref, first), backends.ErrUnsupported)
	s.wantValue(t, ref, "", 2, second)
}
