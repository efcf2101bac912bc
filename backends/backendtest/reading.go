package backendtest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
)

var readingTests = []test{
	{"nothing is not found", nil, testNothing},
	{"capabilities are constant", nil, testCapabilities},
	{"a usable vault checks out", nil, testCheck},
	{"describe tells what read does", []need{writes}, testDescribe},
	{"the note is about the last write", []need{writes, keepsNotes}, testNote},
	{"list pages in byte order", []need{writes}, testList},
	{"list refuses a page of nothing", nil, testEmptyPage},
	{"many secrets are listed in pages", []need{writes}, testManySecrets},
	{"tenants are apart", []need{tenants}, testTenants},
	{"list gives what was published by any tenant", []need{noTenants}, testSharedList},
	{"what others wrote is read", []need{seeds}, testSeeded},
	{"what somebody else deleted is gone", []need{deletes}, testDeleted},
	{"a cancelled context ends every call", nil, testCancelled},
}

func testNothing(t *testing.T, s *suite) {
	ref := secret("payments/none")
	for _, id := range []backends.VersionID{"", "1", "4711", "3000000000", "99999999999999999999", "no-version"} {
		_, _, err := s.Driver.Read(t.Context(), ref, id)
		wantClass(t, "reading version "+string(id)+" of nothing", err, backends.ErrNotFound)
	}
	_, err := s.Driver.Describe(t.Context(), ref)
	wantClass(t, "describing nothing", err, backends.ErrNotFound)
	names, next, err := s.Driver.List(t.Context(), backends.DefaultTenant, "", 10)
	if err != nil || len(names) > 0 || next != "" {
		t.Errorf("listing nothing gave %q, %q, %v", names, next, err)
	}
}

func testCapabilities(t *testing.T, s *suite) {
	before := s.can()
	if writes(s) {
		s.publish(t, secret("payments/stripe"), 1, "")
	}
	if after := s.can(); after != before {
		t.Errorf("capabilities changed from %+v to %+v", before, after)
	}
	if before.Stages {
		s.stager(t)
	}
	if _, ok := s.Driver.(backends.Stager); ok != before.Stages && !isMount(s.Driver) {
		t.Errorf("it implements Stager: %t, and says that it has stages: %t", ok, before.Stages)
	}
}

func isMount(d backends.Driver) bool {
	_, ok := d.(*backends.Mount)
	return ok
}

func testCheck(t *testing.T, s *suite) {
	if err := s.Driver.Check(t.Context()); err != nil {
		t.Errorf("checking a usable vault: %v", err)
	}
	names, _, err := s.Driver.List(t.Context(), backends.DefaultTenant, "", 10)
	if err != nil || len(names) > 0 {
		t.Errorf("after a check there is %q, %v: it must write nothing", names, err)
	}
}

func testDescribe(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	start := time.Now()
	var ids []backends.VersionID
	id := backends.VersionID("")
	for n := range 3 {
		id = s.publish(t, ref, n, id)
		ids = append(ids, id)
	}
	desc := s.describe(t, ref)
	if desc.Current != id {
		t.Errorf("current is %q, want %q", desc.Current, id)
	}
	var got []backends.VersionID
	for _, v := range desc.Versions {
		got = append(got, v.ID)
		if v.Gone {
			t.Errorf("version %s is described as gone", v.ID)
		}
		// The vault's clock may differ from ours, but hardly by an hour.
		if !v.CreatedAt.IsZero() && v.CreatedAt.Sub(start).Abs() > time.Hour {
			t.Errorf("version %s was created at %s, now is %s", v.ID, v.CreatedAt, start)
		}
		if !slices.IsSorted(v.Stages) {
			t.Errorf("the stages %q are not sorted", v.Stages)
		}
	}
	if !s.can().Versions {
		ids = ids[2:]
	}
	if !slices.Equal(got, ids) {
		t.Errorf("described are %q, want %q, oldest first", got, ids)
	}
}

func testNote(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	id := backends.VersionID("")
	for n := 1; n <= 2; n++ {
		id = s.publish(t, ref, n, id)
		want := backends.Note{Of: id, Version: n, Generation: int64(10 * n)}
		if note := s.describe(t, ref).Note; note != want {
			t.Errorf("the note is %+v, want %+v", note, want)
		}
	}
}

func testList(t *testing.T, s *suite) {
	// Byte order, folders and secrets of the same name, and - . before /.
	want := []string{"B", "a", "a-b", "a.b", "a/x", "a/x/y", "a/z", "a0", "b/c/d"}
	for i := range want {
		s.publish(t, secret(want[(i*4)%len(want)]), i, "")
	}
	for limit := 1; limit <= len(want)+1; limit++ {
		if got := s.pages(t, backends.DefaultTenant, limit); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %q, want %q", limit, got, want)
		}
	}
	// A page may start after a name that is not there.
	names, next, err := s.Driver.List(t.Context(), backends.DefaultTenant, "a/xx", 10)
	if err != nil || next != "" || !slices.Equal(names, []string{"a/z", "a0", "b/c/d"}) {
		t.Errorf("after a/xx: %q, %q, %v", names, next, err)
	}
}

func testEmptyPage(t *testing.T, s *suite) {
	for _, limit := range []int{0, -1} {
		_, _, err := s.Driver.List(t.Context(), backends.DefaultTenant, "", limit)
		wantClass(t, fmt.Sprintf("listing in pages of %d", limit), err, backends.ErrInvalid)
	}
}

// testManySecrets lists what takes many pages of whatever size the vault has, in
// two large ones of ours, the last of which is not full.
func testManySecrets(t *testing.T, s *suite) {
	n := s.Many
	if n == 0 {
		n = 300
	}
	if os.Getenv("KEYBROKER_LONG") != "" {
		n = 10000
	}
	want := make([]string, n)
	for i := range want {
		want[i] = fmt.Sprintf("many/%03d/secret-%03d", i/100, i%100)
	}
	if s.Fill != nil {
		s.Fill(want)
	} else {
		for _, name := range want {
			s.publish(t, secret(name), 1, "")
		}
	}
	got := s.pages(t, backends.DefaultTenant, n/2+1)
	if !slices.Equal(got, want) {
		t.Errorf("of %d secrets %d are listed, or in another order", n, len(got))
	}
}

// pages lists everything and checks that each page but the last is full.
func (s *suite) pages(t *testing.T, tenant string, limit int) []string {
	t.Helper()
	var all []string
	for after := ""; ; {
		names, next, err := s.Driver.List(t.Context(), tenant, after, limit)
		if err != nil {
			t.Fatalf("listing after %q: %v", after, err)
		}
		all = append(all, names...)
		if next == "" {
			return all
		}
		if len(names) != limit || next <= after {
			t.Fatalf("a page of %d after %q goes on after %q, the limit is %d", len(names), after, next, limit)
		}
		after = next
	}
}

func testTenants(t *testing.T, s *suite) {
	acme := backends.Ref{Tenant: "acme", Name: "payments/stripe"}
	other := backends.Ref{Tenant: "other", Name: "payments/stripe"}
	first := s.publish(t, acme, 1, "")
	second := s.publish(t, other, 2, "")
	s.wantValue(t, acme, "", 1, first)
	s.wantValue(t, other, "", 2, second)
	for tenant, want := range map[string]int{"acme": 1, "other": 1, "third": 0} {
		if got := s.pages(t, tenant, 10); len(got) != want {
			t.Errorf("tenant %s has %q", tenant, got)
		}
	}
}

func testSharedList(t *testing.T, s *suite) {
	s.publish(t, backends.Ref{Tenant: "acme", Name: "x"}, 1, "")
	s.publish(t, backends.Ref{Tenant: "other", Name: "y"}, 2, "")
	if got, want := s.pages(t, "acme", 10), []string{"x", "y"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
}

// testSeeded is what import and drift rest on: the vault is the truth, whoever
// wrote there.
func testSeeded(t *testing.T, s *suite) {
	ref := secret("payments/seeded")
	for n := 1; n <= 2; n++ {
		s.Seed(ref, s.value(n))
		desc := s.describe(t, ref)
		if desc.Current == "" {
			t.Fatal("what somebody else wrote is described without a current version")
		}
		s.wantValue(t, ref, "", n, desc.Current)
	}
	if got, want := s.pages(t, backends.DefaultTenant, 10), []string{ref.Name}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	if !writes(s) {
		return
	}
	_, err := s.Driver.Publish(t.Context(), ref, s.write(3, ""))
	wantClass(t, "publishing over what somebody else wrote, expecting nothing", err, backends.ErrConflict)
	id := s.publish(t, ref, 3, s.describe(t, ref).Current)
	s.wantValue(t, ref, "", 3, id)
}

// testDeleted has a guarded write meet another state than it expects, which is a
// conflict, though there is nothing left to be in conflict with.
func testDeleted(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	first := s.publish(t, ref, 1, "")
	second := s.publish(t, ref, 2, first)
	s.Delete(ref)
	for _, id := range []backends.VersionID{"", first, second} {
		_, _, err := s.Driver.Read(t.Context(), ref, id)
		wantClass(t, fmt.Sprintf("reading version %q of what was deleted", id), err, backends.ErrNotFound)
	}
	if desc, err := s.Driver.Describe(t.Context(), ref); err == nil && desc.Current != "" {
		t.Errorf("what was deleted is described with the current version %q", desc.Current)
	} else if err != nil {
		wantClass(t, "describing what was deleted", err, backends.ErrNotFound)
	}
	_, err := s.Driver.Publish(t.Context(), ref, s.write(3, second))
	wantClass(t, "publishing over a version of what was deleted", err, backends.ErrConflict)
	if s.can().Stages {
		err := s.stager(t).Promote(t.Context(), ref, first, second)
		if !oneOf(err, backends.ErrNotFound, backends.ErrConflict) {
			t.Errorf("promoting a version of what was deleted: %v", err)
		}
	}
	for _, id := range []backends.VersionID{first, second} {
		s.wantNothingToEnd(t, ref, id)
	}
	id := s.publish(t, ref, 4, "")
	s.wantValue(t, ref, "", 4, id)
}

func testCancelled(t *testing.T, s *suite) {
	on := s.set(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for doing, err := range s.everything(ctx, s.Driver, on) {
		if !oneOf(err, context.Canceled, backends.ErrUnavailable) {
			t.Errorf("%s with a cancelled context: %v", doing, err)
		}
		wantQuiet(t, err)
	}
}
