package backendtest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
)

func testNothing(t *testing.T, s *suite) {
	ref := secret("payments/none")
	for _, id := range []backends.VersionID{"", "1", "4711", "no-version"} {
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
	before := s.Driver.Capabilities()
	if !before.ReadOnly {
		s.publish(t, secret("payments/stripe"), 1, "")
	}
	if after := s.Driver.Capabilities(); after != before {
		t.Errorf("capabilities changed from %+v to %+v", before, after)
	}
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
	desc, err := s.Driver.Describe(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
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
	}
	if !slices.Equal(got, ids) {
		t.Errorf("described are %q, want %q, oldest first", got, ids)
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

func testCancelled(t *testing.T, s *suite) {
	ref := secret("payments/stripe")
	if !s.Driver.Capabilities().ReadOnly {
		s.publish(t, ref, 1, "")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for doing, err := range s.everything(ctx, ref) {
		if !oneOf(err, context.Canceled, backends.ErrUnavailable) {
			t.Errorf("%s with a cancelled context: %v", doing, err)
		}
		wantQuiet(t, err)
	}
}

func testUnreachable(t *testing.T, s *suite) {
	if s.Cut == nil {
		t.Skip("this vault cannot be cut off")
	}
	ref := secret("payments/stripe")
	if !s.Driver.Capabilities().ReadOnly {
		s.publish(t, ref, 1, "")
	}
	s.Cut()
	for doing, err := range s.everything(t.Context(), ref) {
		wantClass(t, doing+" in an unreachable vault", err, backends.ErrUnavailable)
	}
}

// everything makes every call that can be expected to fail for want of a vault.
func (s *suite) everything(ctx context.Context, ref backends.Ref) map[string]error {
	errs := map[string]error{"checking": s.Driver.Check(ctx)}
	_, _, errs["reading"] = s.Driver.Read(ctx, ref, "")
	_, errs["describing"] = s.Driver.Describe(ctx, ref)
	_, _, errs["listing"] = s.Driver.List(ctx, ref.Tenant, "", 10)
	if !s.Driver.Capabilities().ReadOnly {
		_, errs["publishing"] = s.Driver.Publish(ctx, ref, s.write(2, "1"))
		errs["destroying"] = s.Driver.Destroy(ctx, ref, "2")
	}
	return errs
}
