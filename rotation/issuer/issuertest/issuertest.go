// Package issuertest is the conformance suite that every issuer passes.
package issuertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Harness is one issuer with a fresh system behind it, and what the suite must
// know of that system. Functions that may be nil switch their tests off.
type Harness struct {
	Issuer  issuer.Issuer
	Subject issuer.Subject // with settings that the issuer takes

	// Live returns the tags of the credentials live at the issuer, seen from its
	// own side, not through Issuer.
	Live func() []string
	// Works tells whether a credential works where it is used.
	Works func(backends.Value) bool
	// LoseAnswer makes the next Issue act and then lose its answer.
	LoseAnswer func()
	// Outage makes the system answer that it is out of order, or work again.
	Outage func(on bool)
	// Denied is an issuer for the same system with wrong credentials.
	Denied issuer.Issuer
	// Unreachable is an issuer for a place where nobody listens.
	Unreachable issuer.Issuer

	// Secrets must be in no error: the issuer's own credentials.
	Secrets []string
}

// Factory makes a harness with nothing live.
type Factory func(t *testing.T) Harness

const timeout = 30 * time.Second

// Run runs the suite. Each test ends with the question which credentials the
// issuer holds, and whether all of them are accounted for.
func Run(t *testing.T, factory Factory) {
	for _, tt := range []struct {
		name string
		test func(*suite)
	}{
		{"IssuesWhatWorks", (*suite).issuesWhatWorks},
		{"TagRepeated", (*suite).tagRepeated},
		{"FindsExactTagOnly", (*suite).findsExactTagOnly},
		{"RevokesOnlyWhatItIsTold", (*suite).revokesOnlyWhatItIsTold},
		{"RevokeIsIdempotent", (*suite).revokeIsIdempotent},
		{"LostAnswer", (*suite).lostAnswer},
		{"WrongCredentials", (*suite).wrongCredentials},
		{"Outage", (*suite).outage},
		{"Unreachable", (*suite).unreachable},
		{"Cancelled", (*suite).cancelled},
		{"Settings", (*suite).settings},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := factory(t)
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			s := &suite{T: t, Harness: h, ctx: ctx, known: map[string]issuer.Handle{}, secrets: h.Secrets}
			tt.test(s)
			s.everythingIsKnown()
		})
	}
}

type suite struct {
	*testing.T
	Harness
	ctx     context.Context
	known   map[string]issuer.Handle // tag → handle of what should be live
	secrets []string
}

func (s *suite) request(tag string) issuer.Request {
	s.Helper()
	req := issuer.Request{Subject: s.Subject, Tag: tag, Attempt: 1, Version: 1}
	if p, ok := s.Issuer.(issuer.Preparer); ok {
		value, err := p.Prepare(req)
		if err != nil || value.IsZero() {
			s.Fatalf("preparing %s: %v", tag, err)
		}
		req.Prepared = value
		s.remember(value)
	}
	return req
}

func (s *suite) remember(v backends.Value) {
	s.secrets = append(s.secrets, slices.Collect(maps.Values(v.Reveal()))...)
}

func (s *suite) issue(req issuer.Request) issuer.Credential {
	s.Helper()
	cred, err := s.Issuer.Issue(s.ctx, req)
	if err != nil {
		s.Fatalf("issuing %s: %v", req.Tag, s.safe(err))
	}
	s.remember(cred.Value)
	if cred.Value.IsZero() || len(cred.Handle) == 0 {
		s.Fatalf("issuing %s: the credential has no value or no handle", req.Tag)
	}
	for name, text := range cred.Handle {
		if slices.Contains(s.secrets, text) {
			s.Errorf("handle.%s is secret, but handles are shown", name)
		}
	}
	s.known[req.Tag] = cred.Handle
	return cred
}

func (s *suite) revoke(tag string) {
	s.Helper()
	if err := s.Issuer.Revoke(s.ctx, s.Subject, s.known[tag]); err != nil {
		s.Fatalf("revoking %s: %v", tag, s.safe(err))
	}
	delete(s.known, tag)
}

// fails demands an error of one class that holds no secret.
func (s *suite) fails(what string, err, class error) {
	s.Helper()
	if !errors.Is(err, class) {
		s.Errorf("%s: got %v, want the class %q", what, s.safe(err), class)
	}
	_ = s.safe(err)
}

// safe fails the test if err holds a secret, and hides it then.
func (s *suite) safe(err error) error {
	s.Helper()
	if err == nil {
		return nil
	}
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
		for _, secret := range s.secrets {
			if secret != "" && strings.Contains(text, secret) {
				s.Errorf("an error holds a secret")
				return errors.New("(hidden: it holds a secret)")
			}
		}
	}
	return err
}

func (s *suite) everythingIsKnown() {
	s.Helper()
	live := slices.Sorted(slices.Values(s.Live()))
	known := slices.Sorted(maps.Keys(s.known))
	if !slices.Equal(live, known) {
		s.Errorf("the issuer holds %v, accounted for are %v", live, known)
	}
}

func (s *suite) issuesWhatWorks() {
	if k := s.Issuer.Traits().Kind; k != issuer.Mint && k != issuer.Set {
		s.Errorf("the kind is %q", k)
	}
	req := s.request("rot-one-1")
	cred := s.issue(req)
	if !s.Works(cred.Value) {
		s.Error("the credential does not work")
	}
	if !req.Prepared.IsZero() && !cred.Value.Equal(req.Prepared) {
		s.Error("the credential is not the one prepared")
	}
	if want := s.Issuer.Traits().Fields; want != nil && !slices.Equal(cred.Value.FieldNames(), want) {
		s.Errorf("the value has the fields %q, the traits declare %q", cred.Value.FieldNames(), want)
	}
	if want := s.Issuer.Traits().Handle; want != nil && !slices.Equal(slices.Sorted(maps.Keys(cred.Handle)), want) {
		s.Errorf("the handle has the parts %q, the traits declare %q", slices.Sorted(maps.Keys(cred.Handle)), want)
	}
	if again := s.issue(s.request("rot-two-1")); again.Value.Equal(cred.Value) {
		s.Error("two credentials have the same value")
	}
}

func (s *suite) tagRepeated() {
	if _, ok := s.Issuer.(issuer.Preparer); !ok {
		s.Skip("the issuer is no Preparer: a repeated Issue may make a second credential")
	}
	req := s.request("rot-same-1")
	first, second := s.issue(req), s.issue(req)
	if !first.Value.Equal(second.Value) || !maps.Equal(first.Handle, second.Handle) {
		s.Error("the same request gave another credential")
	}
	_, err := s.Issuer.Issue(s.ctx, s.request("rot-same-1"))
	s.fails("another value under the same tag", err, backends.ErrConflict)
}

func (s *suite) findsExactTagOnly() {
	finder, ok := s.Issuer.(issuer.Finder)
	if !ok {
		s.Skip("the issuer is no Finder")
	}
	for _, tag := range []string{"rot-abc-1", "rot-abc-10", "rot-abc-2"} {
		s.issue(s.request(tag))
	}
	for _, tag := range []string{"rot-abc-1", "rot-abc", "rot-none-1"} {
		found, err := finder.Find(s.ctx, s.Subject, tag)
		if err != nil {
			s.Fatalf("finding %s: %v", tag, s.safe(err))
		}
		want := 0
		if s.known[tag] != nil {
			want = 1
		}
		if len(found) != want {
			s.Fatalf("finding %s: got %d credentials, want %d", tag, len(found), want)
		}
		if want == 1 && (found[0].Tag != tag || !maps.Equal(found[0].Handle, s.known[tag])) {
			s.Errorf("finding %s: got %v, want %v", tag, found[0], s.known[tag])
		}
	}
	s.revoke("rot-abc-1")
	found, err := finder.Find(s.ctx, s.Subject, "rot-abc-1")
	if err != nil || len(found) != 0 {
		s.Errorf("a revoked credential is found: %v, %v", found, s.safe(err))
	}
}

func (s *suite) revokesOnlyWhatItIsTold() {
	kept, revoked := s.issue(s.request("rot-keep-1")), s.issue(s.request("rot-drop-1"))
	s.revoke("rot-drop-1")
	if s.Works(revoked.Value) {
		s.Error("the revoked credential still works")
	}
	if !s.Works(kept.Value) {
		s.Error("the other credential does not work any more")
	}
}

func (s *suite) revokeIsIdempotent() {
	handle := s.issue(s.request("rot-twice-1")).Handle
	s.revoke("rot-twice-1")
	if err := s.Issuer.Revoke(s.ctx, s.Subject, handle); err != nil {
		s.Errorf("revoking again: %v", s.safe(err))
	}
	unknown := issuer.Handle{}
	for name := range handle {
		unknown[name] = "no-such-credential"
	}
	if err := s.Issuer.Revoke(s.ctx, s.Subject, unknown); err != nil {
		s.Errorf("revoking an unknown handle: %v", s.safe(err))
	}
}

func (s *suite) lostAnswer() {
	if s.LoseAnswer == nil {
		s.Skip("the harness cannot lose answers")
	}
	req := s.request("rot-lost-1")
	s.LoseAnswer()
	_, err := s.Issuer.Issue(s.ctx, req)
	s.fails("an answer lost", err, backends.ErrUnavailable)
	if errors.Is(err, issuer.ErrNotSent) {
		s.Errorf("the request acted, but %q says that it was not sent", s.safe(err))
	}
	if live := s.Live(); !slices.Equal(live, []string{req.Tag}) {
		s.Fatalf("the harness lost the request, not the answer: live is %v", live)
	}
	if _, ok := s.Issuer.(issuer.Preparer); ok {
		if cred := s.issue(req); !s.Works(cred.Value) {
			s.Error("the credential issued again does not work")
		}
		return
	}
	finder, ok := s.Issuer.(issuer.Finder)
	if !ok {
		s.Skip("the issuer is neither Preparer nor Finder: an orphan is left")
	}
	found, err := finder.Find(s.ctx, s.Subject, req.Tag)
	if err != nil || len(found) != 1 {
		s.Fatalf("finding what was made: %v, %v", found, s.safe(err))
	}
	s.known[req.Tag] = found[0].Handle
	s.revoke(req.Tag) // its value was shown once, to nobody
	s.issue(s.request("rot-lost-2"))
}

func (s *suite) wrongCredentials() {
	if s.Denied == nil {
		s.Skip("the issuer needs no credentials")
	}
	handle := s.issue(s.request("rot-mine-1")).Handle
	_, err := s.Denied.Issue(s.ctx, s.request("rot-denied-1"))
	s.fails("issuing", err, backends.ErrDenied)
	s.fails("revoking", s.Denied.Revoke(s.ctx, s.Subject, handle), backends.ErrDenied)
	if finder, ok := s.Denied.(issuer.Finder); ok {
		_, err := finder.Find(s.ctx, s.Subject, "rot-mine-1")
		s.fails("finding", err, backends.ErrDenied)
	}
}

func (s *suite) outage() {
	if s.Outage == nil {
		s.Skip("the harness makes no outage")
	}
	handle := s.issue(s.request("rot-before-1")).Handle
	s.Outage(true)
	_, err := s.Issuer.Issue(s.ctx, s.request("rot-during-1"))
	s.fails("issuing", err, backends.ErrUnavailable)
	s.fails("revoking", s.Issuer.Revoke(s.ctx, s.Subject, handle), backends.ErrUnavailable)
	if finder, ok := s.Issuer.(issuer.Finder); ok {
		_, err := finder.Find(s.ctx, s.Subject, "rot-before-1")
		s.fails("finding", err, backends.ErrUnavailable)
	}
	s.Outage(false)
	s.issue(s.request("rot-after-1"))
}

func (s *suite) unreachable() {
	if s.Harness.Unreachable == nil {
		s.Skip("the issuer is reached over no network")
	}
	_, err := s.Harness.Unreachable.Issue(s.ctx, s.request("rot-nowhere-1"))
	s.fails("issuing", err, backends.ErrUnavailable)
	s.fails("issuing", err, issuer.ErrNotSent)
	err = s.Harness.Unreachable.Revoke(s.ctx, s.Subject, s.issue(s.request("rot-there-1")).Handle)
	s.fails("revoking", err, backends.ErrUnavailable)
}

func (s *suite) cancelled() {
	handle := s.issue(s.request("rot-done-1")).Handle
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.Issuer.Issue(ctx, s.request("rot-cancelled-1"))
	s.fails("issuing", err, backends.ErrUnavailable)
	s.fails("revoking", s.Issuer.Revoke(ctx, s.Subject, handle), backends.ErrUnavailable)
}

func (s *suite) settings() {
	checker, ok := s.Issuer.(issuer.SettingsChecker)
	if !ok {
		if len(s.Subject.Settings) != 0 {
			s.Error("the issuer takes no settings, but the harness gives some")
		}
		return
	}
	if problems := checker.CheckSettings(s.Subject.Settings); len(problems) != 0 {
		s.Errorf("the harness's settings are refused: %v", problems)
	}
	if problems := checker.CheckSettings([]byte(`"text"`)); len(problems) == 0 {
		s.Error("settings that are no object are taken")
	}
}
