package backendtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
)

var faultTests = []test{
	{"an unreachable vault is unavailable", []need{cuttable}, testUnreachable},
	{"every fault is unavailable", []need{proxied}, testFaults},
	{"how long to wait is passed on", []need{proxied}, testRetryAfter},
	{"a mount gets over every fault", []need{proxied}, testRecovery},
	{"a mount gets over an outage", []need{proxied}, testOutage},
	{"a slow vault is waited for as long as there is time", []need{proxied}, testSlow},
	{"a flapping vault is written to once", []need{proxied, writes}, testFlapping},
	{"a lost answer makes no second version", []need{proxied, writes}, testLostPublish},
	{"a lost answer makes no second staged version", []need{proxied, stages}, testLostStage},
	{"refused credentials are denied", []need{hasStranger}, testStranger},
	{"a revoked login is renewed", []need{revokes}, func(t *testing.T, s *suite) { s.renews(t, s.Revoke) }},
	{"an expired login is renewed", []need{expires}, func(t *testing.T, s *suite) { s.renews(t, s.Expire) }},
}

// faults are what a vault may do instead of answering.
var faults = map[string]faultproxy.Fault{
	"500":              faultproxy.Status(http.StatusInternalServerError),
	"502":              faultproxy.Status(http.StatusBadGateway),
	"503":              faultproxy.Status(http.StatusServiceUnavailable),
	"429":              faultproxy.Status(http.StatusTooManyRequests),
	"half an answer":   faultproxy.HalfAnswer(),
	"a reset":          faultproxy.Reset(),
	"no answer at all": faultproxy.LostAnswer(),
}

// prepared makes a secret of two versions, as far as the driver can, and thereby
// has it logged in.
func (s *suite) prepared(t *testing.T) scene {
	t.Helper()
	on := scene{ref: secret("payments/stripe")}
	switch {
	case writes(s):
		on.first = s.publish(t, on.ref, 1, "")
		on.current = s.publish(t, on.ref, 2, on.first)
	case s.Seed != nil:
		s.Seed(on.ref, s.value(2))
		on.current = s.describe(t, on.ref).Current
	}
	return on
}

// set is prepared with a pending version, where the vault has stages.
func (s *suite) set(t *testing.T) scene {
	t.Helper()
	on := s.prepared(t)
	if stages(s) && (s.Writable == 0 || s.Writable > 2) {
		on.pending = s.stage(t, on.ref, 3, on.current)
	}
	return on
}

func testUnreachable(t *testing.T, s *suite) {
	on := s.set(t)
	if s.Cut != nil {
		s.Cut()
	} else {
		s.Proxy.Close()
	}
	for doing, err := range s.everything(t.Context(), s.Driver, on) {
		wantClass(t, doing+" in an unreachable vault", err, backends.ErrUnavailable)
	}
}

func testFaults(t *testing.T, s *suite) {
	on := s.set(t)
	for name, fault := range faults {
		s.Proxy.Set(faultproxy.Rule{Fault: fault})
		for doing, err := range s.everything(t.Context(), s.Driver, on) {
			wantClass(t, doing+", getting "+name, err, backends.ErrUnavailable)
		}
	}
}

func testRetryAfter(t *testing.T, s *suite) {
	on := s.set(t)
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		s.Proxy.Set(faultproxy.Rule{Fault: faultproxy.Status(code).After(7 * time.Second)})
		for doing, err := range s.everything(t.Context(), s.Driver, on) {
			wantClass(t, fmt.Sprintf("%s, getting %d", doing, code), err, backends.ErrUnavailable)
			if wait, ok := backends.RetryAfter(err); !ok || wait != 7*time.Second {
				t.Errorf("%s: after %d with Retry-After: 7 the error says %s, %t", doing, code, wait, ok)
			}
		}
	}
}

// testRecovery has the first request of each call meet each fault.
func testRecovery(t *testing.T, s *suite) {
	on := s.prepared(t)
	ref, first, current := on.ref, on.first, on.current
	m, n := s.mount(), 2
	for name, fault := range faults {
		spoil := func() { s.Proxy.Set(faultproxy.Rule{Fault: fault, Times: 1}) }
		try := func(doing string, call func(context.Context) error) {
			spoil()
			if err := call(t.Context()); err != nil {
				t.Errorf("%s after %s: %v", doing, name, err)
			}
		}
		if writes(s) {
			n++
			w := s.write(n, current)
			try("publishing", func(ctx context.Context) (err error) { current, err = m.Publish(ctx, ref, w); return err })
			try("retiring", func(ctx context.Context) error { return m.Retire(ctx, ref, first) })
		}
		try("reading", func(ctx context.Context) error {
			v, id, err := m.Read(ctx, ref, "")
			if err == nil && current != "" && (id != current || !v.Equal(s.value(n))) {
				err = fmt.Errorf("it gave version %q or another value, want %q", id, current)
			}
			if current == "" && errors.Is(err, backends.ErrNotFound) {
				return nil
			}
			return err
		})
		try("describing", func(ctx context.Context) error {
			_, err := m.Describe(ctx, ref)
			if current == "" && errors.Is(err, backends.ErrNotFound) {
				return nil
			}
			return err
		})
		try("listing", func(ctx context.Context) error { _, _, err := m.List(ctx, ref.Tenant, "", 10); return err })
	}
	s.Proxy.Set()
	if writes(s) {
		s.wantVersions(t, ref, n)
	}
}

// testOutage lets the breaker open and wants a check to close it.
func testOutage(t *testing.T, s *suite) {
	on := s.prepared(t)
	ref, current := on.ref, on.current
	m := backends.NewMount("suite", s.Driver, backends.Options{Limits: backends.Limits{Timeout: time.Second}})
	s.Proxy.Set(faultproxy.Rule{Fault: faultproxy.Reset()})
	for range 4 {
		_, _, err := m.Read(t.Context(), ref, "")
		wantClass(t, "reading in an outage", err, backends.ErrUnavailable)
	}
	asked := s.Proxy.Requests()
	if _, _, err := m.Read(t.Context(), ref, ""); err == nil || s.Proxy.Requests() != asked {
		t.Errorf("a vault that is down is asked again at once: %v", err)
	}
	s.Proxy.Set()
	if err := m.Check(t.Context()); err != nil {
		t.Fatalf("checking after an outage: %v", err)
	}
	if current != "" {
		if _, id, err := m.Read(t.Context(), ref, ""); err != nil || id != current {
			t.Errorf("reading after an outage: %q, %v", id, err)
		}
	}
}

// testSlow gives each call too little time, which it takes, and then enough.
func testSlow(t *testing.T, s *suite) {
	const limit, latency = 100 * time.Millisecond, 100 * time.Millisecond
	on := s.set(t)
	s.Proxy.Set(faultproxy.Rule{Fault: faultproxy.Latency(time.Hour)})
	for _, c := range s.calls(s.Driver, &on) {
		took, err := c.within(t.Context(), limit)
		wantClass(t, c.doing+" in a vault that is too slow", err, backends.ErrUnavailable)
		if took < limit {
			t.Errorf("%s in a vault that is too slow was given up after %s of %s", c.doing, took, limit)
		}
	}
	s.Proxy.Set(faultproxy.Rule{Fault: faultproxy.Latency(latency)})
	if on.current == "" {
		return
	}
	for _, c := range s.calls(s.Driver, &on) {
		if took, err := c.within(t.Context(), time.Minute); err != nil || took < latency {
			t.Errorf("%s in a slow vault: after %s: %v", c.doing, took, err)
		}
	}
}

// testFlapping has each seventh request go wrong, in whatever step of a call.
func testFlapping(t *testing.T, s *suite) {
	rounds := 10
	if s.Writable > 0 {
		rounds = min(rounds, s.Writable/2)
	}
	ref, m, id := secret("payments/stripe"), s.mount(), backends.VersionID("")
	for _, fault := range []faultproxy.Fault{faultproxy.Status(http.StatusServiceUnavailable), faultproxy.LostAnswer()} {
		s.Proxy.Set(faultproxy.Rule{Fault: fault, Every: 7})
		for n := range rounds {
			var err error
			if id, err = m.Publish(t.Context(), ref, s.write(n, id)); err != nil {
				t.Fatalf("publishing in a flapping vault: %v", err)
			}
			if v, at, err := m.Read(t.Context(), ref, ""); err != nil || at != id || !v.Equal(s.value(n)) {
				t.Fatalf("reading in a flapping vault gave version %q, want %q, or another value: %v", at, id, err)
			}
			if names, _, err := m.List(t.Context(), ref.Tenant, "", 10); err != nil || len(names) != 1 {
				t.Fatalf("listing in a flapping vault gave %q, %v", names, err)
			}
		}
	}
	s.Proxy.Set()
	s.wantVersions(t, ref, 2*rounds)
}

// lost loses the answer to the k-th request of what call does, for each k, and
// has check look at what became of it.
func (s *suite) lost(t *testing.T, call func(ref backends.Ref) error, check func(ref backends.Ref)) {
	t.Helper()
	for k := 1; ; k++ {
		ref := secret(fmt.Sprintf("lost/%d", k))
		s.Proxy.Set(faultproxy.Rule{Fault: faultproxy.LostAnswer(), Skip: k - 1, Times: 1})
		before := s.Proxy.Requests()
		err := call(ref)
		made := s.Proxy.Requests() - before
		s.Proxy.Set()
		if err != nil {
			t.Fatalf("the answer to request %d was lost: %v", k, err)
		}
		check(ref)
		if made < k {
			return // no answer was lost
		}
	}
}

func testLostPublish(t *testing.T, s *suite) {
	m := s.mount()
	var ids [2]backends.VersionID
	s.lost(t, func(ref backends.Ref) (err error) {
		for n := range ids {
			expect := backends.VersionID("")
			if n > 0 {
				expect = ids[n-1]
			}
			if ids[n], err = m.Publish(t.Context(), ref, s.write(n, expect)); err != nil {
				return err
			}
		}
		return nil
	}, func(ref backends.Ref) {
		s.wantValue(t, ref, "", 1, ids[1])
		s.wantVersions(t, ref, 2)
	})
}

func testLostStage(t *testing.T, s *suite) {
	m := s.mount()
	stager, _ := m.Stager()
	var first, pending backends.VersionID
	s.lost(t, func(ref backends.Ref) (err error) {
		if first, err = m.Publish(t.Context(), ref, s.write(1, "")); err != nil {
			return err
		}
		if pending, err = stager.Stage(t.Context(), ref, s.write(2, first)); err != nil {
			return err
		}
		if err := stager.Promote(t.Context(), ref, pending, first); err != nil {
			return err
		}
		return m.Retire(t.Context(), ref, first)
	}, func(ref backends.Ref) {
		s.wantValue(t, ref, "", 2, pending)
		s.wantVersions(t, ref, 2)
	})
}

func testStranger(t *testing.T, s *suite) {
	on := s.set(t)
	for doing, err := range s.everything(t.Context(), s.Stranger(), on) {
		wantClass(t, doing+" with credentials that are refused", err, backends.ErrDenied)
	}
}

// renews wants the driver to work again after its login has ended, without anybody's
// help. How soon is left to it, within reason.
func (s *suite) renews(t *testing.T, end func()) {
	t.Helper()
	on := s.prepared(t)
	ref, current := on.ref, on.current
	end()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for {
		_, id, err := s.Driver.Read(ctx, ref, "")
		if err == nil && id == current {
			break
		}
		if !oneOf(err, backends.ErrDenied, backends.ErrUnavailable) {
			t.Fatalf("reading after the login has ended: %q, %v", id, err)
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			t.Fatalf("the login was not renewed: %v", err)
		}
	}
	if err := s.Driver.Check(ctx); err != nil {
		t.Errorf("checking with the new login: %v", err)
	}
	if writes(s) {
		s.publish(t, ref, 3, current)
	}
}
