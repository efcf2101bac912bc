package issuertest

import (
	"fmt"
	"maps"
	"sync"

	"github.com/keybroker/keybroker/rotation/issuer"
)

// tenants lets several subjects rotate at the same time. None of them may see, use
// up or end what belongs to another.
func (s *suite) tenants() {
	if len(s.Others) == 0 {
		s.cannot("the harness has one subject only")
	}
	subjects := append([]issuer.Subject{s.Subject}, s.Others...)
	var wg sync.WaitGroup
	for i, sub := range subjects {
		wg.Go(func() {
			for round := range 3 {
				if !s.turn(sub, fmt.Sprintf("rot-tenant%d-%d", i, round)) {
					return
				}
			}
		})
	}
	wg.Wait()
	if s.Failed() {
		return
	}
	s.apart(subjects)
	s.everythingIsKnown()
	for _, c := range s.of(s.Subject) {
		s.revoke(c)
	}
	s.apart(subjects)
}

// turn issues one more for a subject and ends the oldest where there are two. It is
// called by many goroutines and fails the test by Errorf only.
func (s *suite) turn(sub issuer.Subject, tag string) bool {
	held := s.of(sub)
	mint := s.traitsOf(sub).Kind == issuer.Mint
	for mint && len(held) >= min(s.capacity(sub), 2) {
		if !s.drop(held[0]) {
			return false
		}
		held = held[1:]
	}
	req := s.unprepared(sub, tag)
	if p, ok := s.Issuer.(issuer.Preparer); ok {
		value, err := p.Prepare(req)
		if err != nil {
			s.Errorf("preparing %s: %v", tag, s.safe(err))
			return false
		}
		s.remember(value)
		req.Prepared = value
	}
	cred, err := s.Issuer.Issue(s.ctx, req)
	if err != nil {
		s.Errorf("issuing %s: %v", tag, s.safe(err))
		return false
	}
	s.works("beside other tenants", s.whole(req, cred), true)
	return true
}

func (s *suite) drop(c credential) bool {
	err := s.end(s.Issuer, c)
	if r, ok := s.Issuer.(issuer.Remover); ok && err == nil {
		err = r.Remove(s.ctx, c.req.Subject, c.Handle)
	}
	if err != nil {
		s.Errorf("revoking %s: %v", c.req.Tag, s.safe(err))
		return false
	}
	s.works("revoked beside other tenants", c, false)
	s.forget(c)
	return true
}

// apart demands that each subject has its own, all of it, and nothing else.
func (s *suite) apart(subjects []issuer.Subject) {
	s.Helper()
	for _, sub := range subjects {
		if _, ok := s.Issuer.(issuer.Lister); ok {
			s.listed(sub)
		}
		for _, c := range s.of(sub) {
			s.works("of another tenant", c, true)
			finder, ok := s.Issuer.(issuer.Finder)
			if !ok {
				continue
			}
			found, err := finder.Find(s.ctx, sub, c.req.Tag)
			if err != nil || len(found) != 1 || !maps.Equal(found[0].Handle, c.Handle) {
				s.Errorf("finding %s: got %v, %v, want %v", c.req.Tag, found, s.safe(err), c.Handle)
			}
		}
	}
}
