// Package backendtest is the conformance suite that every backends.Driver
// passes, as far as its capabilities go.
package backendtest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

// Canary is in every value that the suite writes, so that a value which leaks
// into an error is noticed.
const Canary = "canary-5f1d0c7e"

// Harness is one empty vault.
type Harness struct {
	Driver backends.Driver
	// Cut makes the vault unreachable from now on, while writes that wait for an
	// answer may have happened. Where nil, what needs it is left out.
	Cut func()
}

// Run tests the drivers that factory makes; it is called once for each test and
// cleans up with it.
func Run(t *testing.T, factory func(t *testing.T) Harness) {
	tests := []struct {
		name  string
		needs func(backends.Capabilities) bool // nil: every driver
		run   func(*testing.T, *suite)
	}{
		{"nothing is not found", nil, testNothing},
		{"capabilities are constant", nil, testCapabilities},
		{"a usable vault checks out", nil, testCheck},
		{"publish creates", writes, testCreate},
		{"publish needs the version that is current", guards, testGuard},
		{"publish to nothing refuses an expectation", guards, testExpectNothing},
		{"old versions stay readable", keepsVersions, testOldVersions},
		{"one of many publishers wins", guards, testConcurrentPublish},
		{"a reader never sees half a version", writes, testAtomicFields},
		{"destroy removes for good", keepsVersions, testDestroy},
		{"destroy refuses the current version", writes, testDestroyCurrent},
		{"describe tells what read does", keepsVersions, testDescribe},
		{"list pages in byte order", writes, testList},
		{"tenants are apart", tenants, testTenants},
		{"list gives what was published by any tenant", noTenants, testSharedList},
		{"values come back as they were", writes, testValues},
		{"too large a value is invalid", limitsSize, testTooLarge},
		{"a cancelled context ends every call", nil, testCancelled},
		{"an unreachable vault is unavailable", nil, testUnreachable},
		{"a read-only vault refuses to write", readOnly, testReadOnly},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := factory(t)
			if tt.needs != nil && !tt.needs(h.Driver.Capabilities()) {
				t.Skip("beyond the driver's capabilities")
			}
			tt.run(t, &suite{Harness: h})
		})
	}
}

func writes(c backends.Capabilities) bool        { return !c.ReadOnly }
func guards(c backends.Capabilities) bool        { return !c.ReadOnly && c.CompareSwap }
func keepsVersions(c backends.Capabilities) bool { return !c.ReadOnly && c.Versions }
func tenants(c backends.Capabilities) bool       { return !c.ReadOnly && c.Tenants }
func noTenants(c backends.Capabilities) bool     { return !c.ReadOnly && !c.Tenants }
func limitsSize(c backends.Capabilities) bool    { return !c.ReadOnly && c.MaxValueSize > 0 }
func readOnly(c backends.Capabilities) bool      { return c.ReadOnly }

// suite is a harness with the words that the tests are written in.
type suite struct {
	Harness
	writes int
}

func secret(name string) backends.Ref {
	return backends.Ref{Tenant: backends.DefaultTenant, Name: name}
}

// value is one that differs from any other n's in every field.
func value(n int) backends.Value {
	return backends.NewValue(map[string]string{
		"username": fmt.Sprintf("user-%d-%s", n, Canary),
		"password": fmt.Sprintf("%s-%d", Canary, n),
	})
}

// write prepares the n-th value; its token is new.
func (s *suite) write(n int, expect backends.VersionID) backends.Write {
	s.writes++
	return backends.Write{
		Value:      value(n),
		Expect:     expect,
		Token:      fmt.Sprintf("00000000-0000-4000-8000-%012d", s.writes),
		Version:    n,
		Generation: int64(n),
	}
}

func (s *suite) publish(t *testing.T, ref backends.Ref, n int, expect backends.VersionID) backends.VersionID {
	t.Helper()
	id, err := s.Driver.Publish(t.Context(), ref, s.write(n, expect))
	if err != nil {
		t.Fatalf("publishing value %d of %s: %v", n, ref, err)
	}
	if id == "" {
		t.Fatalf("publishing value %d of %s gave no id", n, ref)
	}
	return id
}

// wantValue reads id and wants the n-th value under the id at.
func (s *suite) wantValue(t *testing.T, ref backends.Ref, id backends.VersionID, n int, at backends.VersionID) {
	t.Helper()
	got, gotID, err := s.Driver.Read(t.Context(), ref, id)
	switch {
	case err != nil:
		t.Errorf("reading version %q of %s: %v", id, ref, err)
	case gotID != at:
		t.Errorf("reading version %q of %s gave the id %q, want %q", id, ref, gotID, at)
	case !got.Equal(value(n)):
		t.Errorf("reading version %q of %s gave another value than the one written", id, ref)
	}
}

// wantClass wants err to be of exactly this class and to give nothing away.
func wantClass(t *testing.T, doing string, err, class error) {
	t.Helper()
	if got := backends.Class(err); !errors.Is(got, class) {
		t.Errorf("%s: got the error %v of class %v, want %v", doing, err, got, class)
	}
	wantQuiet(t, err)
}

func wantQuiet(t *testing.T, err error) {
	t.Helper()
	for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
		if strings.Contains(text, Canary) {
			t.Error("an error gives away a part of a value")
		}
	}
}
