package issuertest

import (
	"fmt"
	"maps"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// setter ends a test that is about slots.
func (s *suite) setter() issuer.Setter {
	s.Helper()
	setter, ok := s.Issuer.(issuer.Setter)
	if !ok {
		s.cannot("the issuer is no Setter")
	}
	return setter
}

// into is a request for the slot of c.
func (s *suite) into(c credential, tag string) issuer.Request {
	s.Helper()
	req := s.unprepared(c.req.Subject, tag)
	req.Slot = c.req.Slot
	return s.prepared(req)
}

func (s *suite) slotsAlternate() {
	setter := s.setter()
	slots := s.traitsOf(s.Subject).Slots
	var held []credential
	for i := range slots {
		c := s.new(fmt.Sprintf("rot-slot-%d", i))
		if got := setter.SlotOf(c.Handle); got != c.req.Slot {
			s.Errorf("set in %q, but the handle is of %q", c.req.Slot, got)
		}
		held = append(held, c)
	}
	if got := setter.SlotOf(s.unknown(held[0].Handle)); got != "" && got == held[0].req.Slot {
		s.Errorf("an unknown handle is of the slot %q", got)
	}
	for _, c := range held {
		s.works("in a slot of its own", c, true)
	}
	next := s.issue(s.into(held[0], "rot-over-1"))
	s.works("what was in the slot", held[0], false)
	s.works("what is in the slot", next, true)
	for _, c := range held[1:] {
		s.works("in another slot", c, true)
	}
}

// What a slot holds is found by its tag, and what it held before is not.
func (s *suite) findsWhatASlotHolds() {
	s.setter()
	finder, ok := s.Issuer.(issuer.Finder)
	if !ok {
		s.Fatal("a Setter is a Finder, too")
	}
	old := s.new("rot-held-1")
	newer := s.issue(s.into(old, "rot-held-2"))
	for tag, want := range map[string]int{old.req.Tag: 0, newer.req.Tag: 1} {
		found, err := finder.Find(s.ctx, s.Subject, tag)
		if err != nil || len(found) != want || want == 1 && !maps.Equal(found[0].Handle, newer.Handle) {
			s.Errorf("finding %s: got %v, %v, want %d", tag, found, s.safe(err), want)
		}
	}
	s.revoke(newer)
	if found, err := finder.Find(s.ctx, s.Subject, newer.req.Tag); err != nil || len(found) != 0 {
		s.Errorf("finding what was revoked: got %v, %v", found, s.safe(err))
	}
}

// A worker that slept sets what is long replaced, or revoked.
func (s *suite) lateIssueChangesNothing() {
	s.setter()
	old := s.new("rot-late-1")
	late := s.into(old, "rot-late-2")
	newer := s.issue(s.into(old, "rot-late-3"))
	for _, req := range []issuer.Request{old.req, late} {
		_, err := s.Issuer.Issue(s.ctx, req)
		s.fails("setting an older version", err, backends.ErrConflict)
	}
	s.works("after older ones were refused", newer, true)
	s.works("the one before", old, false)
	s.revoke(newer)
	for what, req := range map[string]issuer.Request{"an older version": late, "what was revoked": newer.req} {
		_, err := s.Issuer.Issue(s.ctx, req)
		s.fails("setting "+what+" in a slot that is empty", err, backends.ErrConflict)
		s.works(what, credential{issuer.Credential{Value: req.Prepared}, req}, false)
	}
	s.everythingIsKnown()
}

func (s *suite) lateRevokeChangesNothing() {
	s.setter()
	old := s.new("rot-late-1")
	newer := s.issue(s.into(old, "rot-late-2"))
	for range 2 {
		if err := s.Issuer.Revoke(s.ctx, s.Subject, old.Handle); err != nil {
			s.Errorf("revoking what the slot holds no more: %v", s.safe(err))
		}
	}
	s.works("after the one before was revoked", newer, true)
	s.works("the one before", old, false)
}

func (s *suite) putsBack() {
	setter := s.setter()
	old := s.new("rot-back-1")
	newer := s.issue(s.into(old, "rot-back-2"))
	for range 2 {
		s.putBack(setter, old, newer.req)
	}
	if err := s.Issuer.Revoke(s.ctx, s.Subject, newer.Handle); err != nil {
		s.Errorf("revoking what was put back from: %v", s.safe(err))
	}
	s.works("after that was revoked", old, true)
	s.works("issued after all", s.issue(s.into(old, "rot-back-3")), true)
	s.works("put back, then replaced", old, false)
}

// putBack puts old in the place of a newer version, which can then be set no more.
func (s *suite) putBack(setter issuer.Setter, old credential, newer issuer.Request) {
	s.Helper()
	if err := setter.PutBack(s.ctx, old.req, old.Handle, newer.Version); err != nil {
		s.Fatalf("putting back: %v", s.safe(err))
	}
	s.keep(old.req, old.Credential)
	_, err := s.Issuer.Issue(s.ctx, newer)
	s.fails("setting what was put back from", err, backends.ErrConflict)
	s.works("put back", old, true)
	s.works("what was put back from", credential{issuer.Credential{Value: newer.Prepared}, newer}, false)
	s.everythingIsKnown()
}

// The mint may not have arrived yet when it is put back from.
func (s *suite) putsBackWhatWasNeverSet() {
	setter := s.setter()
	old := s.new("rot-back-1")
	s.putBack(setter, old, s.into(old, "rot-back-2"))
	s.revoke(old)
	s.works("put back, then revoked", old, false)
}

func (s *suite) killedWhilePuttingBack() {
	s.setter()
	s.everyPoint(func(n int, is issuer.Issuer) {
		old := s.new(fmt.Sprintf("rot-old-%d", n))
		newer := s.issue(s.into(old, fmt.Sprintf("rot-new-%d", n)))
		err := is.(issuer.Setter).PutBack(s.ctx, old.req, old.Handle, newer.req.Version)
		if err == nil {
			s.works("put back before the end", old, true)
		} else {
			s.fails("putting back, cut off", err, backends.ErrUnavailable)
		}
		s.putBack(s.Issuer.(issuer.Setter), old, newer.req)
	})
}
