// Package probetest is the conformance suite that every probe passes.
package probetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/probe"
)

const timeout = 30 * time.Second

// Run runs the suite. In the end it says what was not tested, and why.
func Run(t *testing.T, factory Factory) {
	var untested []string
	for _, tt := range []struct {
		name string
		test func(*suite)
	}{
		{"Verdicts", (*suite).verdicts},
		{"Revocation", (*suite).revocation},
		{"OtherVerdicts", (*suite).otherVerdicts},
		{"Faults", (*suite).faults},
		{"Hanging", (*suite).hanging},
		{"NoAnswer", (*suite).noAnswer},
		{"MissingField", (*suite).missingField},
		{"Cancelled", (*suite).cancelled},
		{"FreshConnections", (*suite).freshConnections},
		{"EveryAddress", (*suite).everyAddress},
		{"Concurrent", (*suite).concurrent},
		{"OneAttemptPerTry", (*suite).oneAttemptPerTry},
		{"Canary", (*suite).canary},
		{"Declarations", (*suite).declarations},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			tt.test(&suite{T: t, Harness: factory(t), ctx: ctx, untested: &untested})
		})
	}
	for _, what := range untested {
		t.Log("not tested: " + what)
	}
}

type suite struct {
	*testing.T
	Harness
	ctx      context.Context
	untested *[]string
}

// cannot ends a test that the harness gives no way to make.
func (s *suite) cannot(why string) {
	s.Helper()
	*s.untested = append(*s.untested, s.Name()+": "+why)
	s.Skip("not tested: " + why)
}

// try tries a value and fails the test if the result holds a part of it.
func (s *suite) try(ctx context.Context, v backends.Value, address string) probe.Result {
	s.Helper()
	r := s.Probe.Try(ctx, probe.Try{Subject: s.Subject, Value: v, Address: address})
	text := fmt.Sprintf("%+v %#v", r, r)
	secrets := slices.Clone(s.Secrets)
	for field, part := range v.Reveal() {
		if !slices.Contains(s.Public, field) {
			secrets = append(secrets, part)
		}
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(text, secret) {
			s.Fatal("the result holds a secret")
		}
	}
	if v := r.Verdict; v != probe.Accepted && v != probe.Rejected && v != probe.Inconclusive {
		s.Errorf("the verdict is %q", v)
	}
	return r
}

func (s *suite) wants(v backends.Value, want probe.Verdict) probe.Result {
	s.Helper()
	r := s.try(s.ctx, v, "")
	if r.Verdict != want {
		s.Errorf("the verdict is %s (%s), want %s", r.Verdict, r.Detail, want)
	}
	return r
}

func (s *suite) verdicts() {
	for range 2 {
		for want, v := range map[probe.Verdict]backends.Value{probe.Accepted: s.Good, probe.Rejected: s.Bad} {
			r := s.wants(v, want)
			if r.Detail == "" || r.Address == "" || r.Latency <= 0 {
				s.Errorf("%s: detail, address or latency is missing: %+v", want, r)
			}
		}
	}
}

func (s *suite) revocation() {
	if s.Revoke == nil {
		s.cannot("the harness cannot revoke")
	}
	s.wants(s.Good, probe.Accepted)
	s.Revoke()
	s.wants(s.Good, probe.Rejected)
}

// Verdicts are given as declared, whatever else may be wrong with a credential.
func (s *suite) otherVerdicts() {
	if len(s.Harness.Rejected)+len(s.Undecided) == 0 {
		s.cannot("the harness has no other credentials")
	}
	for want, values := range map[probe.Verdict]map[string]backends.Value{probe.Rejected: s.Harness.Rejected, probe.Inconclusive: s.Undecided} {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if r := s.try(s.ctx, values[name], ""); r.Verdict != want || r.Detail == "" {
				s.Errorf("%s: the verdict is %s (%s), want %s", name, r.Verdict, r.Detail, want)
			}
		}
	}
	s.wants(s.Good, probe.Accepted)
}

// patience is how long a test waits for an endpoint that hangs.
const patience = 200 * time.Millisecond

// An endpoint that answers nothing is given up at the deadline, at every address.
func (s *suite) hanging() {
	if s.Hang == nil {
		s.cannot("the harness cannot make the endpoint hang")
	}
	s.Hang(true)
	for _, v := range []backends.Value{s.Good, s.Bad} {
		ctx, cancel := context.WithTimeout(s.ctx, patience)
		if r := s.try(ctx, v, ""); r.Verdict != probe.Inconclusive || r.Detail == "" || r.Latency <= 0 {
			s.Errorf("it hangs, and the result is %+v", r)
		}
		cancel()
	}
	if s.ctx.Err() != nil {
		s.Error("the deadline of a try is not kept")
	}
	s.Hang(false)
	s.wants(s.Good, probe.Accepted)
	s.wants(s.Bad, probe.Rejected)
}

// noAnswer tries probes that cannot get an answer. Where the endpoint is not known
// to be the right one, no credential is sent to it.
func (s *suite) noAnswer() {
	if len(s.Broken) == 0 {
		s.cannot("the harness has no probe that gets no answer")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Broken)) {
		before := 0
		if s.Attempts != nil {
			before = s.Attempts()
		}
		broken := &suite{T: s.T, Harness: s.Harness, ctx: s.ctx}
		broken.Probe = s.Broken[name]
		for _, v := range []backends.Value{s.Good, s.Bad} {
			if r := broken.try(s.ctx, v, ""); r.Verdict != probe.Inconclusive || r.Detail == "" {
				s.Errorf("%s: the result is %+v, want inconclusive", name, r)
			}
		}
		if s.Attempts != nil && s.Attempts() != before {
			s.Errorf("%s: a credential was tried", name)
		}
	}
}

func (s *suite) faults() {
	if len(s.Harness.Faults) == 0 {
		s.cannot("the harness has no faults")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Harness.Faults)) {
		s.Run(name, func(t *testing.T) {
			sub := &suite{T: t, Harness: s.Harness, ctx: s.ctx, untested: s.untested}
			set := s.Harness.Faults[name]
			set(true)
			for _, v := range []backends.Value{s.Good, s.Bad} {
				if r := sub.wants(v, probe.Inconclusive); r.Detail == "" {
					t.Error("the detail is empty")
				}
			}
			set(false)
			sub.wants(s.Good, probe.Accepted)
		})
	}
}

// A credential that lacks what the probe needs was not tried at all.
func (s *suite) missingField() {
	s.wants(backends.NewValue(map[string]string{"no_such_field_": "canary-51d0"}), probe.Inconclusive)
	s.wants(backends.Value{}, probe.Inconclusive)
}

func (s *suite) cancelled() {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	for _, v := range []backends.Value{s.Good, s.Bad} {
		if r := s.try(ctx, v, ""); r.Verdict != probe.Inconclusive {
			s.Errorf("the verdict is %s, want inconclusive", r.Verdict)
		}
	}
}

func (s *suite) freshConnections() {
	if s.Connections == nil {
		s.cannot("the harness counts no connections")
	}
	const tries = 4
	before, marked := s.Connections(), 0
	if s.Marked != nil {
		marked = s.Marked()
	}
	for range tries {
		s.wants(s.Good, probe.Accepted)
	}
	if got := s.Connections() - before; got < tries {
		s.Errorf("%d tries used %d connections", tries, got)
	}
	if s.Marked != nil && s.Marked()-marked < tries {
		s.Errorf("%d of %d tries said they were probing", s.Marked()-marked, tries)
	}
}

func (s *suite) everyAddress() {
	addresses, err := s.Probe.Addresses(s.ctx)
	if err != nil || len(addresses) == 0 {
		s.Fatalf("addresses: %v, %v", addresses, err)
	}
	if s.Harness.Addresses != nil && !slices.Equal(slices.Sorted(slices.Values(addresses)), s.Harness.Addresses) {
		s.Errorf("the addresses are %v, want %v", addresses, s.Harness.Addresses)
	}
	reached := 0
	for _, a := range addresses {
		r := s.try(s.ctx, s.Good, a)
		if r.Verdict == probe.Accepted {
			reached++
			if r.Address != a {
				s.Errorf("pinned to %s, the address was %s", a, r.Address)
			}
		}
	}
	if reached == 0 {
		s.Errorf("none of %v accepted the credential", addresses)
	}
	if r := s.try(s.ctx, s.Good, "127.0.0.1:1"); r.Verdict != probe.Inconclusive {
		s.Errorf("pinned to an address where nobody listens, the verdict is %s", r.Verdict)
	}
}

func (s *suite) concurrent() {
	done := make(chan probe.Result)
	const each = 4
	for range each {
		go func() { done <- s.Probe.Try(s.ctx, probe.Try{Subject: s.Subject, Value: s.Good}) }()
		go func() { done <- s.Probe.Try(s.ctx, probe.Try{Subject: s.Subject, Value: s.Bad}) }()
	}
	got := map[probe.Verdict]int{}
	for range 2 * each {
		got[(<-done).Verdict]++
	}
	if got[probe.Accepted] != each || got[probe.Rejected] != each {
		s.Errorf("the verdicts are %v, want %d of each", got, each)
	}
}

// Whoever counts rejections against a lockout counts tries.
func (s *suite) oneAttemptPerTry() {
	if s.Attempts == nil {
		s.cannot("the harness counts no attempts")
	}
	for name, v := range map[string]backends.Value{"good": s.Good, "bad": s.Bad} {
		before := s.Attempts()
		s.try(s.ctx, v, "")
		if got := s.Attempts() - before; got != 1 {
			s.Errorf("one try of a %s credential was %d attempts", name, got)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Harness.Faults)) {
		set := s.Harness.Faults[name]
		set(true)
		before := s.Attempts()
		s.try(s.ctx, s.Bad, "")
		if got := s.Attempts() - before; got > 1 {
			s.Errorf("%s: one try was %d attempts", name, got)
		}
		set(false)
	}
}

// The canary works whatever becomes of the credential that is probed, and is
// shown by nothing.
func (s *suite) canary() {
	canarier, ok := s.Probe.(probe.Canarier)
	if !ok {
		if !s.Canary.IsZero() {
			s.Error("the probe takes no canary, but the harness has one")
		}
		return
	}
	got, ok := canarier.Canary()
	if ok == s.Canary.IsZero() || !got.Equal(s.Canary) {
		s.Fatalf("it has a canary: %t; it is the one configured: %t", ok, got.Equal(s.Canary))
	}
	if !ok {
		return
	}
	if got.Equal(s.Good) {
		s.Error("the canary is the credential that is probed")
	}
	text := fmt.Sprintf("%+v %#v %s", s.Probe, s.Probe, s.Probe.Scope())
	for secret := range maps.Values(got.Reveal()) {
		if secret != "" && strings.Contains(text, secret) {
			s.Error("printing the probe shows the canary")
		}
	}
	s.wants(got, probe.Accepted)
	s.Revoke()
	s.wants(s.Good, probe.Rejected)
	s.wants(got, probe.Accepted)
	if again, ok := canarier.Canary(); !ok || !again.Equal(got) {
		s.Error("the canary changed")
	}
}

func (s *suite) declarations() {
	if s.Probe.Scope() == "" {
		s.Error("the scope is empty")
	}
	for range 2 { // it is no count of what happened
		if got := s.Probe.LockoutAfter(); got != s.LockoutAfter {
			s.Errorf("lockout_after is %d, want %d", got, s.LockoutAfter)
		}
		s.wants(s.Bad, probe.Rejected)
	}
}
