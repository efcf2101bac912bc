package issuertest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

func (s *suite) traits() {
	t := s.traitsOf(s.Subject)
	if !reflect.DeepEqual(t, s.traitsOf(s.Subject)) {
		s.Error("the traits change")
	}
	_, setter := s.Issuer.(issuer.Setter)
	_, preparer := s.Issuer.(issuer.Preparer)
	_, finder := s.Issuer.(issuer.Finder)
	_, lister := s.Issuer.(issuer.Lister)
	_, remover := s.Issuer.(issuer.Remover)
	sorted := slices.Sorted(slices.Values(t.Slots))
	for what, wrong := range map[string]bool{
		fmt.Sprintf("the kind is %q", t.Kind):        t.Kind != issuer.Mint && t.Kind != issuer.Set,
		"the kind set has slots, the kind mint none": (t.Kind == issuer.Set) != (len(t.Slots) > 0),
		"two slots have the same name":               len(slices.Compact(sorted)) != len(t.Slots),
		"the kind set is Setter, Preparer, Finder":   t.Kind == issuer.Set && (!setter || !preparer || !finder),
		"the fields are not sorted":                  !slices.IsSorted(t.Fields),
		"the parts of the handle are not sorted":     !slices.IsSorted(t.Handle),
		"only a Lister can be exclusive":             t.Exclusive && !lister,
		"only a Remover has a soak":                  t.Soak != 0 && !remover,
		"a negative number":                          t.MaxLive < 0 || t.RevocationBudget < 0 || t.Soak < 0,
	} {
		if wrong {
			s.Error(what)
		}
	}
	if shaper, ok := s.Issuer.(issuer.Shaper); ok {
		for _, settings := range []string{"", "null", "{}", `[1]`, `{"`} {
			if got := shaper.TraitsFor([]byte(settings)); got.Kind != t.Kind {
				s.Errorf("with the settings %s the kind is %q", settings, got.Kind)
			}
		}
	}
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

func (s *suite) issuesWhatWorks() {
	cred := s.new("rot-one-1")
	if s.Works == nil {
		s.leaves("whether a credential works: the harness cannot tell")
	}
	if s.Live == nil {
		s.leaves("what is held at the end of each test: nobody holds anything, or can look")
	}
	s.works("a fresh credential", cred, true)
	t := s.traitsOf(s.Subject)
	if t.Fields != nil && !slices.Equal(cred.Value.FieldNames(), t.Fields) {
		s.Errorf("the value has the fields %q, the traits declare %q", cred.Value.FieldNames(), t.Fields)
	}
	parts := slices.Sorted(maps.Keys(cred.Handle))
	if t.Handle != nil && !slices.Equal(parts, t.Handle) {
		s.Errorf("the handle has the parts %q, the traits declare %q", parts, t.Handle)
	}
	again := s.new("rot-two-1")
	if again.Value.Equal(cred.Value) {
		s.Error("two credentials have the same value")
	}
	if maps.Equal(again.Handle, cred.Handle) {
		s.Error("two credentials have the same handle")
	}
	s.works("the second credential", again, true)
	s.works("the first credential", cred, !t.InPlace())
}

func (s *suite) repeatedCalls() {
	if !s.repeatable() {
		s.cannot("the issuer is no Preparer: a repeated Issue may make a second credential")
	}
	req := s.request("rot-same-1")
	first := s.issue(req)
	for range 2 {
		if again := s.issue(req); !maps.Equal(first.Handle, again.Handle) {
			s.Error("the same request gave another handle")
		}
	}
	s.works("issued three times", first, true)
}

// A worker that slept wakes while another does the same.
func (s *suite) repeatedAtOnce() {
	if !s.repeatable() {
		s.cannot("the issuer is no Preparer: a repeated Issue may make a second credential")
	}
	req := s.request("rot-race-1")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cred, err := s.Issuer.Issue(s.ctx, req)
			switch {
			case err == nil:
				s.whole(req, cred)
			case !backends.Retryable(err):
				s.Errorf("one of several at once: %v", s.safe(err))
			}
		})
	}
	wg.Wait()
	s.works("issued several times at once", s.issue(req), true)
}

func (s *suite) anotherValueForTheTag() {
	if _, ok := s.Issuer.(issuer.Preparer); !ok || s.traitsOf(s.Subject).Kind == issuer.Set {
		s.cannot("the issuer makes the value itself, or sets that of a version")
	}
	if s.Live == nil {
		s.cannot("nobody holds anything")
	}
	req := s.unprepared(s.Subject, "rot-same-1")
	first := s.issue(s.prepared(req))
	_, err := s.Issuer.Issue(s.ctx, s.prepared(req))
	s.fails("another value under the same tag", err, backends.ErrConflict)
	s.works("after another value was refused", first, true)
}

func (s *suite) findsExactTagOnly() {
	finder, ok := s.Issuer.(issuer.Finder)
	if !ok {
		s.cannot("the issuer is no Finder")
	}
	want := map[string]issuer.Handle{"rot-abc": nil, "rot-none-1": nil, "rot-abc-1": nil, "ROT-ABC-10": nil}
	for _, tag := range []string{"rot-abc-1", "rot-abc-10", "rot-abc-2"} {
		s.new(tag)
	}
	for _, c := range s.of(s.Subject) { // there may be room for fewer
		want[c.req.Tag] = c.Handle
	}
	for tag, handle := range want {
		found, err := finder.Find(s.ctx, s.Subject, tag)
		if err != nil {
			s.Fatalf("finding %s: %v", tag, s.safe(err))
		}
		switch {
		case handle == nil && len(found) != 0:
			s.Errorf("finding %s: got %v, want none", tag, found)
		case handle != nil && (len(found) != 1 || found[0].Tag != tag || !maps.Equal(found[0].Handle, handle)):
			s.Errorf("finding %s: got %v, want %v", tag, found, handle)
		}
	}
	revoked := s.of(s.Subject)[0]
	s.revoke(revoked)
	found, err := finder.Find(s.ctx, s.Subject, revoked.req.Tag)
	if err != nil || len(found) != 0 {
		s.Errorf("a revoked credential is found: %v, %v", found, s.safe(err))
	}
}

// list is what a Lister lists, and nothing of any other.
func (s *suite) list() []issuer.Handle {
	s.Helper()
	lister, ok := s.Issuer.(issuer.Lister)
	if !ok {
		return nil
	}
	handles, err := lister.List(s.ctx, s.Subject)
	if err != nil {
		s.Fatalf("listing: %v", s.safe(err))
	}
	return handles
}

func (s *suite) listsWhatThereIs() {
	if _, ok := s.Issuer.(issuer.Lister); !ok {
		s.cannot("the issuer is no Lister")
	}
	if got := s.list(); len(got) != 0 {
		s.Errorf("nothing was issued, but listed is %v", got)
	}
	first := s.new("rot-list-1")
	s.new("rot-list-2")
	s.listed(s.Subject)
	if held := s.of(s.Subject); held[0].req.Tag == first.req.Tag {
		if err := s.end(s.Issuer, first); err != nil {
			s.Fatalf("revoking: %v", s.safe(err))
		}
		if s.traitsOf(s.Subject).Soak > 0 { // it can be made live again, and stays on the list
			s.listed(s.Subject)
		}
		s.revoke(first)
		s.listed(s.Subject)
	}
}

// listed demands that what is listed of a subject is what is accounted for of it.
func (s *suite) listed(sub issuer.Subject) {
	s.Helper()
	got, err := s.Issuer.(issuer.Lister).List(s.ctx, sub)
	if err != nil {
		s.Errorf("listing: %v", s.safe(err))
		return
	}
	want := s.of(sub)
	same := len(got) == len(want)
	for _, c := range want {
		same = same && containsHandle(got, c.Handle)
	}
	if !same {
		s.Errorf("of %s are listed %v, accounted for are %d others", sub.Ref, got, len(want))
	}
}

func containsHandle(list []issuer.Handle, h issuer.Handle) bool {
	return slices.ContainsFunc(list, func(o issuer.Handle) bool { return maps.Equal(o, h) })
}

// A value that the system does not take is refused for good, with nothing made.
func (s *suite) refusedValues() {
	if s.Refused == nil {
		s.cannot("the harness knows nothing that the system refuses")
	}
	req := s.Refused(s.unprepared(s.Subject, "rot-refused-1"))
	s.remember(req.Prepared)
	if p, ok := s.Issuer.(issuer.Preparer); ok && req.Prepared.IsZero() {
		value, err := p.Prepare(req)
		if err != nil {
			s.fails("preparing", err, backends.ErrInvalid)
			s.works("issued after a refusal", s.new("rot-taken-1"), true)
			return
		}
		s.remember(value)
		req.Prepared = value
	}
	for range 2 {
		_, err := s.Issuer.Issue(s.ctx, req)
		s.fails("issuing what is refused", err, backends.ErrInvalid)
		s.everythingIsKnown()
	}
	s.works("issued after a refusal", s.new("rot-taken-1"), true)
}

func (s *suite) limitOfLiveKeys() {
	t := s.traitsOf(s.Subject)
	if t.Kind == issuer.Set || t.MaxLive == 0 {
		s.cannot("the issuer declares no limit of live credentials")
	}
	if !s.Limited {
		s.cannot("the harness's system does not hold to the limit")
	}
	for i := range t.MaxLive {
		s.new(fmt.Sprintf("rot-full-%d", i+1))
	}
	req := s.prepared(s.unprepared(s.Subject, "rot-over-1"))
	_, err := s.Issuer.Issue(s.ctx, req)
	s.fails("one more than the limit", err, backends.ErrConflict)
	for _, c := range s.of(s.Subject) {
		s.works("at the limit", c, true)
	}
	s.everythingIsKnown()
	s.works("issued where there is room again", s.new("rot-room-1"), true)
}
