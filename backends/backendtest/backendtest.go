// Package backendtest is the conformance suite that every backends.Driver
// passes, as far as its capabilities go.
package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
)

// Canary is in every value that the suite writes, so that a value which leaks
// into an error is noticed.
const Canary = "canary-5f1d0c7e"

// Harness is one empty vault and what can be done to it past its driver. All but
// Driver may be left out: what needs it is then skipped.
type Harness struct {
	Driver backends.Driver

	// Proxy stands between the driver and its server.
	Proxy *faultproxy.Proxy
	// Cut makes the vault unreachable from now on, while writes that wait for an
	// answer may have happened. Where it is nil, Proxy is closed.
	Cut func()
	// Seed makes value current past the driver, as somebody else would.
	Seed func(ref backends.Ref, value backends.Value)
	// Delete removes a secret with all its versions past the driver, as somebody else
	// would, so that its name is free again.
	Delete func(ref backends.Ref)
	// Fill makes a secret of each name faster than Publish would, of any value, for
	// the default tenant.
	Fill func(names []string)
	// Stranger makes another driver of the same vault, whose credentials are refused.
	Stranger func() backends.Driver
	// Revoke ends the driver's login at the server and returns once it counts no
	// more; the driver can log in anew. Expire does the same by time.
	Revoke, Expire func()
	// Sized makes a value that takes exactly n bytes in the vault's layout, for n
	// around Capabilities.MaxValueSize, and contains Canary.
	Sized func(n int) backends.Value
	// Legal tells whether the vault has a place for a name that ParseName accepts;
	// what has none is ErrInvalid. Where it is nil, every name has.
	Legal func(name string) bool

	// Many is how many secrets are listed in pages: 300 where it is 0, and 10,000
	// in the long form of the suite (KEYBROKER_LONG=1).
	Many int
	// Keeps is how many versions of a secret the vault keeps; 0: all that the suite
	// writes, which is 105.
	Keeps int
	// Writable is how many versions of a secret can be written in a row outside
	// emergencies where the driver refuses more; 0: any number. Below 10 it keeps the
	// suite short: no more are written at all.
	Writable int
	// Notes says that the vault keeps what Description.Note gives.
	Notes bool
}

// Run tests the drivers that factory makes; it is called once for each test and
// cleans up with it.
func Run(t *testing.T, factory func(t *testing.T) Harness) {
	for _, tt := range slices.Concat(readingTests, writingTests, versionTests, stagingTests, valueTests, faultTests) {
		t.Run(tt.name, func(t *testing.T) {
			s := &suite{Harness: factory(t)}
			for _, need := range tt.needs {
				if !need(s) {
					t.Skip("beyond the driver or its harness")
				}
			}
			tt.run(t, s)
		})
	}
}

type test struct {
	name  string
	needs []need // all of them
	run   func(*testing.T, *suite)
}

// need is what a test asks of the driver or of its harness.
type need func(*suite) bool

func (s *suite) can() backends.Capabilities { return s.Driver.Capabilities() }

func writes(s *suite) bool    { return !s.can().ReadOnly }
func readOnly(s *suite) bool  { return s.can().ReadOnly }
func versions(s *suite) bool  { return !s.can().ReadOnly && s.can().Versions }
func destroys(s *suite) bool  { return !s.can().ReadOnly && s.can().Destroy }
func keepsAll(s *suite) bool  { return !s.can().ReadOnly && !s.can().Destroy }
func stages(s *suite) bool    { return !s.can().ReadOnly && s.can().Stages }
func tenants(s *suite) bool   { return !s.can().ReadOnly && s.can().Tenants }
func noTenants(s *suite) bool { return !s.can().ReadOnly && !s.can().Tenants }
func limitsSize(s *suite) bool {
	return !s.can().ReadOnly && s.can().MaxValueSize > 0 && s.Sized != nil
}
func oneField(s *suite) bool    { return !s.can().ReadOnly && s.can().Field != "" }
func keepsNotes(s *suite) bool  { return s.Notes }
func seeds(s *suite) bool       { return s.Seed != nil }
func deletes(s *suite) bool     { return !s.can().ReadOnly && s.Delete != nil }
func proxied(s *suite) bool     { return s.Proxy != nil }
func cuttable(s *suite) bool    { return s.Cut != nil || s.Proxy != nil }
func hasStranger(s *suite) bool { return s.Stranger != nil }
func revokes(s *suite) bool     { return s.Revoke != nil }
func expires(s *suite) bool     { return s.Expire != nil }

// suite is a harness with the words that the tests are written in.
type suite struct {
	Harness
	written int
}

func secret(name string) backends.Ref {
	return backends.Ref{Tenant: backends.DefaultTenant, Name: name}
}

// value is one that differs from any other n's in every field.
func (s *suite) value(n int) backends.Value {
	if field := s.can().Field; field != "" {
		return backends.NewValue(map[string]string{field: fmt.Sprintf("%s-%d", Canary, n)})
	}
	return backends.NewValue(map[string]string{
		"username": fmt.Sprintf("user-%d-%s", n, Canary),
		"password": fmt.Sprintf("%s-%d", Canary, n),
	})
}

// write prepares the n-th value; its token is new.
func (s *suite) write(n int, expect backends.VersionID) backends.Write {
	return s.writeValue(s.value(n), n, expect)
}

func (s *suite) writeValue(v backends.Value, n int, expect backends.VersionID) backends.Write {
	s.written++
	return backends.Write{
		Value:      v,
		Expect:     expect,
		Token:      fmt.Sprintf("00000000-0000-4000-8000-%012d", s.written),
		Version:    n,
		Generation: int64(10 * n),
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

func (s *suite) describe(t *testing.T, ref backends.Ref) backends.Description {
	t.Helper()
	desc, err := s.Driver.Describe(t.Context(), ref)
	if err != nil {
		t.Fatalf("describing %s: %v", ref, err)
	}
	return desc
}

// mount is the driver as callers have it.
func (s *suite) mount() *backends.Mount {
	return backends.NewMount("suite", s.Driver, backends.Options{})
}

// stagerOf is the driver's, also where it is mounted already.
func stagerOf(d backends.Driver) (backends.Stager, bool) {
	if m, ok := d.(*backends.Mount); ok {
		return m.Stager()
	}
	stager, ok := d.(backends.Stager)
	return stager, ok
}

func (s *suite) stager(t *testing.T) backends.Stager {
	t.Helper()
	stager, ok := stagerOf(s.Driver)
	if !ok {
		t.Fatal("it says that it has stages, but implements no Stager")
	}
	return stager
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
	case !got.Equal(s.value(n)):
		t.Errorf("reading version %q of %s gave another value than the one written", id, ref)
	}
}

// wantVersions wants so many versions of a secret that were written, as far as the
// vault keeps them.
func (s *suite) wantVersions(t *testing.T, ref backends.Ref, n int) {
	t.Helper()
	switch {
	case !s.can().Versions:
		n = 1
	case s.Keeps > 0:
		n = min(n, s.Keeps)
	}
	if got := len(s.describe(t, ref).Versions); got != n {
		t.Errorf("%s has %d versions, want %d", ref, got, n)
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

// oneOf is for what may be of more than one class, or the context's own error.
func oneOf(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
}

// scene is a secret on which every call of a driver has something to do. What it
// lacks is empty.
type scene struct {
	ref                     backends.Ref
	first, current, pending backends.VersionID
}

// call is one of a driver's calls.
type call struct {
	doing string
	make  func(context.Context) error
}

// within makes the call with so much time, and tells how much of it was taken.
func (c call) within(ctx context.Context, limit time.Duration) (time.Duration, error) {
	began := time.Now() // before the limit begins to count
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := c.make(ctx)
	return time.Since(began), err
}

// calls are all that d can do on the scene, in an order in which each of them can
// succeed; they keep the scene up to date.
func (s *suite) calls(d backends.Driver, on *scene) []call {
	calls := []call{
		{"checking", d.Check},
		{"reading", func(ctx context.Context) error { _, _, err := d.Read(ctx, on.ref, ""); return err }},
		{"describing", func(ctx context.Context) error { _, err := d.Describe(ctx, on.ref); return err }},
		{"listing", func(ctx context.Context) error { _, _, err := d.List(ctx, on.ref.Tenant, "", 10); return err }},
	}
	can := d.Capabilities()
	if can.ReadOnly {
		return calls
	}
	now := func(id backends.VersionID, err error) error {
		if err == nil {
			on.current = id
		}
		return err
	}
	if stager, ok := stagerOf(d); ok && can.Stages && on.pending != "" {
		calls = append(calls,
			call{"promoting", func(ctx context.Context) error {
				return now(on.pending, stager.Promote(ctx, on.ref, on.pending, on.current))
			}},
			call{"staging", func(ctx context.Context) error {
				_, err := stager.Stage(ctx, on.ref, s.write(4, on.current))
				return err
			}})
	}
	calls = append(calls,
		call{"retiring", func(ctx context.Context) error { return d.Retire(ctx, on.ref, on.first) }},
		call{"publishing", func(ctx context.Context) error { return now(d.Publish(ctx, on.ref, s.write(5, on.current))) }})
	if can.Destroy {
		calls = append(calls, call{"destroying", func(ctx context.Context) error { return d.Destroy(ctx, on.ref, on.first) }})
	}
	return calls
}

// everything makes every call, each within a few seconds.
func (s *suite) everything(ctx context.Context, d backends.Driver, on scene) map[string]error {
	errs := map[string]error{}
	for _, c := range s.calls(d, &on) {
		_, errs[c.doing] = c.within(ctx, 5*time.Second)
	}
	return errs
}
