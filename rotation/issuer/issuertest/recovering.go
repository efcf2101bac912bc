package issuertest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// recoverable ends a test after which nobody could find out what was made.
func (s *suite) recoverable() {
	s.Helper()
	_, finder := s.Issuer.(issuer.Finder)
	_, lister := s.Issuer.(issuer.Lister)
	if !s.repeatable() && !finder && !lister {
		s.cannot("the issuer is no Preparer, Finder or Lister: an orphan is left")
	}
}

// recover does as the engine does with a request whose answer is lost. Seen is
// what a Lister listed before it.
func (s *suite) recover(req issuer.Request, seen []issuer.Handle) {
	s.Helper()
	if s.repeatable() {
		s.works("issued again", s.issue(req), true)
		return
	}
	var made []issuer.Handle
	switch is := s.Issuer.(type) {
	case issuer.Finder:
		found, err := is.Find(s.ctx, req.Subject, req.Tag)
		if err != nil {
			s.Fatalf("finding %s: %v", req.Tag, s.safe(err))
		}
		for _, f := range found {
			made = append(made, f.Handle)
		}
	case issuer.Lister:
		// Where it is not exclusive, a person is told, and does the same.
		made = slices.DeleteFunc(s.list(), func(h issuer.Handle) bool { return containsHandle(seen, h) })
	}
	if len(made) > 1 {
		s.Errorf("one request made %d credentials: %v", len(made), made)
	}
	for _, h := range made { // its value was shown once, to nobody
		s.revoke(s.keep(req, issuer.Credential{Handle: h}))
	}
	s.works("issued instead", s.new(req.Tag+"-again"), true)
}

func (s *suite) lostAnswer() {
	if s.LoseAnswer == nil {
		s.cannot("the harness cannot lose answers")
	}
	s.recoverable()
	req, seen := s.request("rot-lost-1"), s.list()
	s.LoseAnswer()
	_, err := s.Issuer.Issue(s.ctx, req)
	s.fails("an answer lost", err, backends.ErrUnavailable)
	if errors.Is(err, issuer.ErrNotSent) {
		s.Errorf("the request acted, but %q says that it was not sent", s.safe(err))
	}
	if live := s.live(); s.Live != nil && len(live) != 1 {
		s.Fatalf("the harness lost the request, not the answer: live is %v", live)
	}
	s.recover(req, seen)
}

// points is more than any conversation has.
const points = 1000

// everyPoint calls try with an issuer cut off at each point, until none is reached
// any more. What try left is accounted for and revoked after each.
func (s *suite) everyPoint(try func(n int, is issuer.Issuer)) {
	s.Helper()
	if s.Cut == nil {
		s.cannot("the harness cuts no conversations")
	}
	for n := range points {
		is, reached := s.Cut(n)
		try(n, is)
		shut(is)
		s.everythingIsKnown()
		s.revokeAll()
		s.everythingIsKnown()
		if s.Failed() {
			s.Fatalf("that was point %d", n)
		}
		if !reached() {
			if n == 0 {
				s.Error("the harness cuts at no point")
			}
			return
		}
	}
	s.Fatalf("the conversation has more than %d points", points)
}

// shut ends what an issuer of one point keeps.
func shut(is issuer.Issuer) {
	switch c := is.(type) {
	case interface{ Close() }:
		c.Close()
	case interface{ Close() error }:
		_ = c.Close()
	}
}

func (s *suite) killedWhileIssuing() {
	s.recoverable()
	s.everyPoint(func(n int, is issuer.Issuer) {
		kept := s.new(fmt.Sprintf("rot-old-%d", n))
		req, seen, before := s.request(fmt.Sprintf("rot-cut-%d", n)), s.list(), s.live()
		cred, err := is.Issue(s.ctx, req)
		if err == nil { // the rest of the conversation was a courtesy
			s.works("issued before the end", s.whole(req, cred), true)
			return
		}
		s.interrupted(err, before)
		s.recover(req, seen)
		if s.capacity(s.Subject) > 1 {
			s.works("the other credential", kept, true)
		}
	})
}

// interrupted judges the error of a conversation that was cut off. What is final, or
// was not sent, has made nothing.
func (s *suite) interrupted(err error, before []string) {
	s.Helper()
	s.fails("cut off", err, backends.ErrUnavailable)
	if errors.Is(err, issuer.ErrNotSent) && !slices.Equal(before, s.live()) {
		s.Errorf("%q says that it was not sent, but the system has acted", s.safe(err))
	}
}

func (s *suite) killedWhileRevoking() {
	if _, ok := s.Issuer.(issuer.Person); ok {
		s.cannot("a person is asked")
	}
	s.everyPoint(func(n int, is issuer.Issuer) {
		var kept *credential
		if s.capacity(s.Subject) > 1 {
			c := s.new(fmt.Sprintf("rot-keep-%d", n))
			kept = &c
		}
		c := s.new(fmt.Sprintf("rot-drop-%d", n))
		if s.cutRevoke(is, c) {
			s.works("revoked before the end", c, false)
		}
		s.revoke(c)
		s.works("revoked again", c, false)
		if kept != nil {
			s.works("the other credential", *kept, true)
		}
	})
}

// cutRevoke turns a credential off by an issuer that is cut off somewhere, and tells
// whether Revoke was done.
func (s *suite) cutRevoke(is issuer.Issuer, c credential) (revoked bool) {
	s.Helper()
	sub := c.req.Subject
	if err := is.Revoke(s.ctx, sub, c.Handle); err != nil {
		s.fails("revoking, cut off", err, backends.ErrUnavailable)
		return false
	}
	if e, ok := is.(issuer.SessionEnder); ok {
		if err := e.EndSessions(s.ctx, sub, c.Handle); err != nil && !errors.Is(err, backends.ErrUnsupported) {
			s.fails("ending sessions, cut off", err, backends.ErrUnavailable)
		}
	}
	if r, ok := is.(issuer.Remover); ok {
		if err := r.Remove(s.ctx, sub, c.Handle); err != nil {
			s.fails("removing, cut off", err, backends.ErrUnavailable)
		}
	}
	return true
}
