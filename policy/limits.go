package policy

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Limits are what no secret that a policy matches may go beyond, whatever it says itself
// and whichever policy gives it its settings. Nil: there is no such limit.
type Limits struct {
	MaxOverlap *time.Duration // overlap is at most this
	MaxAge     *time.Duration // there is a max_age, of at most this
	MinLength  *int           // key.length is at least this, of values that the broker makes
	// PlainPayload: consumers may be sent the credential itself, readable by whoever sees
	// the message. Nobody may unless a policy that matches says so, and none says no.
	PlainPayload *bool
}

// The limits, as in the configuration.
const (
	LimitOverlap = "max_overlap"
	LimitAge     = "max_age"
	LimitLength  = "min_length"
	LimitPlain   = "plain_payload"
)

// Bound is a limit that holds for a secret: the strictest of its kind among those of
// all policies that match.
type Bound struct {
	Limit   string        // LimitOverlap, LimitAge, LimitLength or LimitPlain
	Policy  string        // whose; among several as strict the one whose name comes first
	Longest time.Duration // of LimitOverlap and LimitAge
	Least   int           // of LimitLength, characters
	Allowed bool          // of LimitPlain
}

// String is the bound's value.
func (b Bound) String() string {
	switch b.Limit {
	case LimitLength:
		return fmt.Sprintf("%d characters", b.Least)
	case LimitPlain:
		return strconv.FormatBool(b.Allowed)
	}
	return b.Longest.String()
}

// stricter compares bounds of one limit.
func (b Bound) stricter(than Bound) bool {
	switch {
	case b.Longest != than.Longest:
		return b.Longest < than.Longest
	case b.Least != than.Least:
		return b.Least > than.Least
	case b.Allowed != than.Allowed:
		return than.Allowed
	}
	return b.Policy < than.Policy
}

// strictest collects bounds; of those without a limit nothing was found. What
// ValidateRotation refuses limits nothing.
type strictest [4]Bound

func (s *strictest) add(p *RotationPolicy) {
	if d := p.Limits.MaxOverlap; d != nil && *d >= 0 {
		s.note(0, Bound{Limit: LimitOverlap, Policy: p.Name, Longest: *d})
	}
	if d := p.Limits.MaxAge; d != nil && *d > 0 {
		s.note(1, Bound{Limit: LimitAge, Policy: p.Name, Longest: *d})
	}
	if n := p.Limits.MinLength; n != nil && *n > 0 {
		s.note(2, Bound{Limit: LimitLength, Policy: p.Name, Least: *n})
	}
	if allowed := p.Limits.PlainPayload; allowed != nil {
		s.note(3, Bound{Limit: LimitPlain, Policy: p.Name, Allowed: *allowed})
	}
}

func (s *strictest) note(i int, b Bound) {
	if s[i].Limit == "" || b.stricter(s[i]) {
		s[i] = b
	}
}

func (s *strictest) list() []Bound {
	var found []Bound
	for _, b := range s {
		if b.Limit != "" {
			found = append(found, b)
		}
	}
	return found
}

// Least returns the strictest min_length that holds; 0: none.
func (r Resolved) Least() int {
	b, _ := r.bound(LimitLength)
	return b.Least
}

// PlainPayload returns who allows or forbids that consumers are sent the credential
// itself; false: no policy says anything of it, which forbids it.
func (r Resolved) PlainPayload() (Bound, bool) { return r.bound(LimitPlain) }

func (r Resolved) bound(limit string) (Bound, bool) {
	i := slices.IndexFunc(r.Bounds, func(b Bound) bool { return b.Limit == limit })
	if i < 0 {
		return Bound{}, false
	}
	return r.Bounds[i], true
}

// Excess is a setting that goes beyond a limit. The problem is about the setting.
type Excess struct {
	Problem
	Bound Bound
}

// Excesses returns every setting that goes beyond a limit that holds. A key length of 0
// leaves it to the issuer, and is beyond none: who knows what that makes of it sets it
// before.
func (r Resolved) Excesses() []Excess {
	var found []Excess
	for _, b := range r.Bounds {
		limit := fmt.Sprintf("%s of the rotation policy %q, %s", b.Limit, b.Policy, b)
		report := func(setting, suggestion, format string, args ...any) {
			found = append(found, Excess{Bound: b, Problem: Problem{
				Rule: -1, Attribute: setting, Text: fmt.Sprintf(format, args...) + " " + limit, Suggestion: suggestion,
			}})
		}
		switch {
		case b.Limit == LimitOverlap && r.Overlap > b.Longest:
			whose := "an"
			if r.Origin("overlap").Source == FromDefault {
				whose = "the default"
			}
			report("overlap", "shorten the overlap, or raise the limit", "%s overlap of %s is longer than", whose, r.Overlap)
		case b.Limit == LimitAge && r.MaxAge == 0:
			report("max_age", fmt.Sprintf("write max_age, at most %q", b), "credentials may become of any age, which is more than")
		case b.Limit == LimitAge && r.MaxAge > b.Longest:
			report("max_age", "lower max_age, or raise the limit", "a max_age of %s is longer than", r.MaxAge)
		case b.Limit == LimitLength && r.Key.Length > 0 && r.Key.Length < b.Least:
			report("key.length", fmt.Sprintf("write key { length = %d }, or lower the limit", b.Least), "a key of %d characters is shorter than", r.Key.Length)
		}
	}
	return found
}

// Excesses returns the settings that the policy itself gives beyond its own limits: no
// secret could have them.
func (p RotationPolicy) Excesses() []Excess {
	var bounds strictest
	bounds.add(&p)
	m := merge{policy: p.Settings, policyName: p.Name, bounds: bounds.list()}
	given := m.run()
	var found []Excess
	for _, e := range given.Excesses() {
		if given.Origin(e.Attribute).Source == FromPolicy {
			found = append(found, e)
		}
	}
	return found
}
