// Package issuertest is the conformance suite that every issuer passes.
package issuertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// timeout is that of one test, which may kill its issuer at a hundred points.
const timeout = 2 * time.Minute

var tests = []struct {
	name string
	test func(*suite)
}{
	{"Traits", (*suite).traits},
	{"Settings", (*suite).settings},
	{"IssuesWhatWorks", (*suite).issuesWhatWorks},
	{"RepeatedCalls", (*suite).repeatedCalls},
	{"RepeatedAtOnce", (*suite).repeatedAtOnce},
	{"AnotherValueForTheTag", (*suite).anotherValueForTheTag},
	{"FindsExactTagOnly", (*suite).findsExactTagOnly},
	{"ListsWhatThereIs", (*suite).listsWhatThereIs},
	{"RefusedValues", (*suite).refusedValues},
	{"LimitOfLiveKeys", (*suite).limitOfLiveKeys},
	{"Tenants", (*suite).tenants},
	{"RevokesOnlyWhatItIsTold", (*suite).revokesOnlyWhatItIsTold},
	{"RevokeIsIdempotent", (*suite).revokeIsIdempotent},
	{"RemovesInTwoSteps", (*suite).removesInTwoSteps},
	{"EndsSessions", (*suite).endsSessions},
	{"KnowsTheLastUse", (*suite).knowsTheLastUse},
	{"SlotsAlternate", (*suite).slotsAlternate},
	{"FindsWhatASlotHolds", (*suite).findsWhatASlotHolds},
	{"LateIssueChangesNothing", (*suite).lateIssueChangesNothing},
	{"LateRevokeChangesNothing", (*suite).lateRevokeChangesNothing},
	{"PutsBack", (*suite).putsBack},
	{"PutsBackWhatWasNeverSet", (*suite).putsBackWhatWasNeverSet},
	{"LostAnswer", (*suite).lostAnswer},
	{"KilledWhileIssuing", (*suite).killedWhileIssuing},
	{"KilledWhileRevoking", (*suite).killedWhileRevoking},
	{"KilledWhilePuttingBack", (*suite).killedWhilePuttingBack},
	{"WrongCredentials", (*suite).wrongCredentials},
	{"ExpiredCredentials", (*suite).expiredCredentials},
	{"ExpiredLogin", (*suite).expiredLogin},
	{"Outage", (*suite).outage},
	{"Hanging", (*suite).hanging},
	{"Unreachable", (*suite).unreachable},
	{"Cancelled", (*suite).cancelled},
	{"ChecksWithoutEffect", (*suite).checksWithoutEffect},
	{"CheckNamesWhatIsMissing", (*suite).checkNamesWhatIsMissing},
}

// Run runs the suite. Each test ends with the question which credentials the issuer
// holds, and whether all of them are accounted for. In the end it says what was not
// tested, and why.
func Run(t *testing.T, factory Factory) {
	var untested []string
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			h := factory(t)
			s := &suite{T: t, Harness: h, ctx: ctx, known: map[string]credential{}, secrets: slices.Clone(h.Secrets)}
			defer func() { untested = append(untested, s.untested...) }()
			tt.test(s)
			s.everythingIsKnown()
		})
	}
	for _, what := range untested {
		t.Log("not tested: " + what)
	}
}

// suite is one test with a harness of its own.
type suite struct {
	*testing.T
	Harness
	ctx      context.Context
	untested []string

	mu      sync.Mutex
	version int                   // the last one asked for
	known   map[string]credential // what should be live, by its name there
	secrets []string
}

type credential struct {
	issuer.Credential
	req issuer.Request
}

// cannot ends a test that the issuer or its harness gives no way to make.
func (s *suite) cannot(why string) {
	s.Helper()
	s.leaves(why)
	s.SkipNow()
}

// leaves says what a test leaves out, and goes on.
func (s *suite) leaves(why string) {
	s.Helper()
	s.Log("not tested: " + why)
	s.untested = append(s.untested, s.T.Name()+": "+why)
}

func (s *suite) traitsOf(sub issuer.Subject) issuer.Traits {
	return issuer.TraitsOf(s.Issuer, sub.Settings)
}

// capacity is how many credentials of a subject can be live at once.
func (s *suite) capacity(sub issuer.Subject) int {
	switch t := s.traitsOf(sub); {
	case t.Kind == issuer.Set:
		return max(len(t.Slots), 1)
	case t.MaxLive > 0:
		return t.MaxLive
	}
	return 1 << 30
}

// two ends a test for which two credentials must be live at once.
func (s *suite) two() {
	s.Helper()
	if s.capacity(s.Subject) < 2 {
		s.cannot("only one credential of a subject can be live")
	}
}

// request is one for another credential of the harness's subject, for which there is
// room: at a limit the oldest is revoked, and where all slots are taken the request
// is for that of the oldest.
func (s *suite) request(tag string) issuer.Request {
	s.Helper()
	s.makeRoom()
	return s.prepared(s.unprepared(s.Subject, tag))
}

func (s *suite) makeRoom() {
	s.Helper()
	held := s.of(s.Subject)
	if s.traitsOf(s.Subject).Kind == issuer.Mint && len(held) >= s.capacity(s.Subject) {
		s.revoke(held[0])
	}
}

// unprepared is a request without a value. It takes the next version, and of slots
// a free one, or that of the oldest credential.
func (s *suite) unprepared(sub issuer.Subject, tag string) issuer.Request {
	held := s.of(sub)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	req := issuer.Request{Subject: sub, Tag: tag, Attempt: 1, Version: s.version, Key: s.Key}
	free := slices.Clone(s.traitsOf(sub).Slots)
	for _, c := range held {
		free = slices.DeleteFunc(free, func(slot string) bool { return slot == c.req.Slot })
	}
	switch {
	case len(free) > 0:
		req.Slot = free[0]
	case len(held) > 0:
		req.Slot = held[0].req.Slot
	}
	return req
}

// prepared adds the value that the broker, or a person, makes.
func (s *suite) prepared(req issuer.Request) issuer.Request {
	s.Helper()
	switch is := s.Issuer.(type) {
	case issuer.Person:
		if s.Supply == nil || s.ByHand == nil {
			s.Fatal("the harness of a Person needs Supply and ByHand")
		}
		value, handle := s.Supply(req.Tag)
		s.remember(value)
		if err := is.Accept(req.Subject, value, handle); err != nil {
			s.Fatalf("accepting what was handed in for %s: %v", req.Tag, s.safe(err))
		}
		req.Prepared = value
	case issuer.Preparer:
		value, err := is.Prepare(req)
		if err != nil || value.IsZero() {
			s.Fatalf("preparing %s: %v", req.Tag, s.safe(err))
		}
		s.remember(value)
		req.Prepared = value
	}
	return req
}

// repeatable tells whether Issue is called again after a lost answer.
func (s *suite) repeatable() bool {
	_, preparer := s.Issuer.(issuer.Preparer)
	_, person := s.Issuer.(issuer.Person)
	return preparer || person
}

// of are the credentials of a subject that are accounted for, oldest first.
func (s *suite) of(sub issuer.Subject) []credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held []credential
	for _, c := range s.known {
		if c.req.Subject.Ref == sub.Ref {
			held = append(held, c)
		}
	}
	slices.SortFunc(held, func(a, b credential) int { return a.req.Version - b.req.Version })
	return held
}

func (s *suite) nameOf(tag string, h issuer.Handle) string {
	if s.Name != nil {
		return s.Name(h)
	}
	return tag
}

// keep accounts for a credential. What was in its slot before has ended.
func (s *suite) keep(req issuer.Request, cred issuer.Credential) credential {
	s.remember(cred.Value)
	c := credential{cred, req}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, old := range s.known {
		if req.Slot != "" && old.req.Slot == req.Slot && old.req.Subject.Ref == req.Subject.Ref {
			delete(s.known, name)
		}
	}
	s.known[s.nameOf(req.Tag, cred.Handle)] = c
	return c
}

func (s *suite) forget(c credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, s.nameOf(c.req.Tag, c.Handle))
}

func (s *suite) remember(v backends.Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for field, text := range v.Reveal() {
		if !slices.Contains(s.Public, field) && !slices.Contains(s.secrets, text) {
			s.secrets = append(s.secrets, text)
		}
	}
}

// issue demands a credential that is whole.
func (s *suite) issue(req issuer.Request) credential {
	s.Helper()
	cred, err := s.Issuer.Issue(s.ctx, req)
	if err != nil {
		s.Fatalf("issuing %s: %v", req.Tag, s.safe(err))
	}
	return s.whole(req, cred)
}

// whole accounts for a credential and looks whether nothing of it is missing.
func (s *suite) whole(req issuer.Request, cred issuer.Credential) credential {
	s.Helper()
	if cred.Value.IsZero() || len(cred.Handle) == 0 {
		s.Errorf("issuing %s: the credential has no value or no handle", req.Tag)
	}
	if !req.Prepared.IsZero() && !cred.Value.Equal(req.Prepared) {
		s.Errorf("issuing %s: the credential is not the one prepared", req.Tag)
	}
	if !cred.NotAfter.IsZero() && !cred.NotAfter.After(time.Now()) {
		s.Errorf("issuing %s: it expires at %s, which is past", req.Tag, cred.NotAfter)
	}
	c := s.keep(req, cred)
	s.noSecret("a handle, which is shown", fmt.Sprint(cred.Handle))
	return c
}

// new issues one more.
func (s *suite) new(tag string) credential {
	s.Helper()
	return s.issue(s.request(tag))
}

// works demands that a credential works, or that it does not.
func (s *suite) works(what string, c credential, want bool) {
	s.Helper()
	if s.Works != nil && s.Works(c.Value) != want {
		s.Errorf("%s: it works: %t, want %t", what, !want, want)
	}
}

// revoke turns a credential off as far as it goes, also removed where that is a
// step of its own.
func (s *suite) revoke(c credential) {
	s.Helper()
	if err := s.end(s.Issuer, c); err != nil {
		s.Fatalf("revoking %s: %v", c.req.Tag, s.safe(err))
	}
	if r, ok := s.Issuer.(issuer.Remover); ok {
		if err := r.Remove(s.ctx, c.req.Subject, c.Handle); err != nil {
			s.Fatalf("removing %s: %v", c.req.Tag, s.safe(err))
		}
	}
	s.forget(c)
}

func (s *suite) revokeAll() {
	s.Helper()
	for _, sub := range append([]issuer.Subject{s.Subject}, s.Others...) {
		for _, c := range s.of(sub) {
			s.revoke(c)
		}
	}
}

// live are the names that the system holds; nil where nobody can look.
func (s *suite) live() []string {
	if s.Live == nil {
		return nil
	}
	return slices.Sorted(slices.Values(s.Live()))
}

// everythingIsKnown asks the question at the end.
func (s *suite) everythingIsKnown() {
	s.Helper()
	if s.Live == nil {
		return
	}
	live := s.live()
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make([]string, 0, len(s.known))
	for name := range s.known {
		known = append(known, name)
	}
	slices.Sort(known)
	if !slices.Equal(live, known) {
		s.Errorf("the issuer holds %v, accounted for are %v", live, known)
	}
}

// noSecret fails the test if a text holds a secret, and tells.
func (s *suite) noSecret(what string, texts ...string) bool {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range texts {
		for _, secret := range s.secrets {
			if secret != "" && strings.Contains(text, secret) {
				s.Errorf("a secret is in %s", what)
				return false
			}
		}
	}
	return true
}
