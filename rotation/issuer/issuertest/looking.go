package issuertest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/rotation/issuer"
)

// check asks an issuer for its findings, which must be whole, and changes nothing.
func (s *suite) check(ctx context.Context, is issuer.Issuer) []issuer.Finding {
	s.Helper()
	before := s.live()
	findings := is.(issuer.Checker).Check(ctx, s.Subject)
	if len(findings) == 0 {
		s.Error("a check finds nothing at all")
	}
	for _, f := range findings {
		if !s.noSecret("a finding", f.What, f.Problem, f.Mend) {
			return nil
		}
		if f.What == "" {
			s.Errorf("a finding is about nothing: %+v", f)
		}
		if f.Problem == "" && (f.Unknown || f.Mend != "") {
			s.Errorf("a finding has no problem, but is unknown or to be mended: %+v", f)
		}
	}
	if after := s.live(); !slices.Equal(before, after) {
		s.Errorf("a check has an effect: live was %v, is %v", before, after)
	}
	return findings
}

// problem demands a finding with a problem that has all the words in its texts.
func (s *suite) problem(who string, findings []issuer.Finding, mended bool, word string) {
	s.Helper()
	for _, f := range findings {
		text := f.What + " " + f.Problem + " " + f.Mend
		if f.Problem != "" && (!mended || !f.Unknown && f.Mend != "") && strings.Contains(text, word) {
			return
		}
	}
	s.Errorf("%s: no problem is found with %q and how to mend it: %+v", who, word, findings)
}

func (s *suite) checker() {
	s.Helper()
	if _, ok := s.Issuer.(issuer.Checker); !ok {
		s.cannot("the issuer is no Checker")
	}
}

func (s *suite) checksWithoutEffect() {
	s.checker()
	for i := range 2 { // with nothing issued, and with something
		for _, f := range s.check(s.ctx, s.Issuer) {
			if f.Problem != "" && !f.Unknown {
				s.Errorf("all is well, but found is %+v", f)
			}
		}
		s.works("after a check", s.new(fmt.Sprintf("rot-checked-%d", i)), true)
	}
	held := s.of(s.Subject)
	s.check(s.ctx, s.Issuer)
	for _, c := range held {
		s.works("after another check", c, true)
	}
}

func (s *suite) checkNamesWhatIsMissing() {
	s.checker()
	if s.Denied == nil {
		s.leaves("a check with wrong credentials: the harness has none")
	} else {
		s.problem("wrong credentials", s.check(s.ctx, s.Denied), true, "")
	}
	if s.Harness.Unreachable == nil {
		s.leaves("a check of what cannot be reached: it is reached over no network")
	} else {
		s.problem("unreachable", s.check(s.ctx, s.Harness.Unreachable), false, "")
	}
	if len(s.Lacking) == 0 {
		s.leaves("a check that lacks a permission: the harness has none")
	}
	for missing, is := range s.Lacking {
		s.problem("lacking "+missing, s.check(s.ctx, is), true, missing)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	s.check(ctx, s.Issuer)
}
