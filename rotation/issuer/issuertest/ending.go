package issuertest

import (
	"errors"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

func (s *suite) revokesOnlyWhatItIsTold() {
	s.two()
	kept, revoked := s.new("rot-keep-1"), s.new("rot-drop-1")
	s.revoke(revoked)
	s.works("the revoked credential", revoked, false)
	s.works("the other credential", kept, true)
}

// unknown is a handle of which the system has never heard.
func (s *suite) unknown(h issuer.Handle) issuer.Handle {
	if s.Unknown != nil {
		return s.Unknown(h)
	}
	u := issuer.Handle{}
	for part := range h {
		u[part] = "no-such-credential"
	}
	return u
}

func (s *suite) revokeIsIdempotent() {
	if _, ok := s.Issuer.(issuer.Person); ok {
		s.cannot("a person is asked")
	}
	c := s.new("rot-twice-1")
	s.revoke(c)
	for what, handle := range map[string]issuer.Handle{"again": c.Handle, "an unknown handle": s.unknown(c.Handle)} {
		if err := s.Issuer.Revoke(s.ctx, s.Subject, handle); err != nil {
			s.Errorf("revoking %s: %v", what, s.safe(err))
		}
	}
	_ = s.safe(s.Issuer.Revoke(s.ctx, s.Subject, issuer.Handle{})) // may be refused
	s.works("revoked twice", c, false)
	s.works("issued after that", s.new("rot-next-1"), true)
}

func (s *suite) removesInTwoSteps() {
	remover, ok := s.Issuer.(issuer.Remover)
	if !ok {
		s.cannot("the issuer is no Remover")
	}
	first := s.new("rot-remove-1")
	for range 2 {
		if err := s.end(s.Issuer, first); err != nil {
			s.Fatalf("revoking: %v", s.safe(err))
		}
	}
	s.works("disabled", first, false)
	if s.traitsOf(s.Subject).Soak == 0 {
		s.forget(first)
	}
	s.everythingIsKnown() // what soaks can be made live again
	s.two()
	kept := s.new("rot-stay-1")
	for _, h := range []issuer.Handle{first.Handle, first.Handle, s.unknown(first.Handle)} {
		if err := remover.Remove(s.ctx, s.Subject, h); err != nil {
			s.Errorf("removing: %v", s.safe(err))
		}
	}
	s.forget(first)
	s.works("removed", first, false)
	s.works("the other credential", kept, true)
	if err := s.Issuer.Revoke(s.ctx, s.Subject, first.Handle); err != nil {
		s.Errorf("revoking what was removed: %v", s.safe(err))
	}
}

func (s *suite) endsSessions() {
	ender, ok := s.Issuer.(issuer.SessionEnder)
	if !ok {
		s.cannot("the issuer ends no sessions")
	}
	if s.Session == nil {
		s.cannot("the harness begins no sessions")
	}
	c := s.new("rot-session-1")
	alive, other := s.Session(c.Value), func() bool { return true }
	var kept *credential
	if s.capacity(s.Subject) > 1 {
		k := s.new("rot-session-2")
		kept, other = &k, s.Session(k.Value)
	}
	if !alive() || !other() {
		s.Fatal("a fresh session is not alive")
	}
	if err := s.end(s.Issuer, c); err != nil {
		s.Fatalf("revoking: %v", s.safe(err))
	}
	for range 2 {
		if err := ender.EndSessions(s.ctx, s.Subject, c.Handle); errors.Is(err, backends.ErrUnsupported) {
			s.cannot("by its configuration the issuer ends no sessions")
		} else if err != nil {
			s.Fatalf("ending sessions: %v", s.safe(err))
		}
	}
	if alive() {
		s.Error("a session of a revoked credential goes on")
	}
	if !s.SharedSessions && !other() {
		s.Error("the session of another credential was ended")
	}
	if kept != nil {
		s.works("the other credential", *kept, true)
		if fresh := s.Session(kept.Value); !fresh() {
			s.Error("the other credential can begin no session any more")
		}
	}
	_ = s.safe(ender.EndSessions(s.ctx, s.Subject, s.unknown(c.Handle)))
	s.revoke(c)
}

func (s *suite) knowsTheLastUse() {
	reporter, ok := s.Issuer.(issuer.UseReporter)
	if !ok {
		s.cannot("the issuer does not know the last use")
	}
	if s.Use == nil {
		s.cannot("the harness cannot use a credential")
	}
	begin := time.Now()
	c := s.new("rot-used-1")
	if got := s.lastUsed(reporter, c); !got.At.IsZero() {
		s.Errorf("never used, but last at %s", got.At)
	}
	s.Use(c.Value)
	// Some systems cut off the seconds.
	got := s.lastUsed(reporter, c)
	if got.At.Before(begin.Add(-time.Minute)) || got.At.After(time.Now().Add(time.Minute)) {
		s.Errorf("used now, but last at %s", got.At)
	}
	if s.capacity(s.Subject) > 1 {
		if got := s.lastUsed(reporter, s.new("rot-used-2")); !got.At.IsZero() {
			s.Errorf("another was used, but this one last at %s", got.At)
		}
	}
	if _, err := reporter.LastUsed(s.ctx, s.Subject, s.unknown(c.Handle)); err != nil {
		s.fails("asking about an unknown handle", err, backends.ErrNotFound)
	}
}

func (s *suite) lastUsed(reporter issuer.UseReporter, c credential) issuer.Use {
	s.Helper()
	use, err := reporter.LastUsed(s.ctx, c.req.Subject, c.Handle)
	if err != nil {
		s.Fatalf("asking for the last use: %v", s.safe(err))
	}
	s.noSecret("the place of the last use", use.Where)
	return use
}
