package policy_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/policy"
)

func limited(name, path string, overlap, age time.Duration, length int) policy.RotationPolicy {
	p := policy.RotationPolicy{Name: name, Match: policy.Match{Paths: []string{path}}}
	if overlap > 0 {
		p.Limits.MaxOverlap = &overlap
	}
	if age > 0 {
		p.Limits.MaxAge = &age
	}
	if length > 0 {
		p.Limits.MinLength = &length
	}
	return p
}

func TestLimitsOfAllMatchesHold(t *testing.T) {
	const day = 24 * time.Hour
	policies := []policy.RotationPolicy{
		limited("strict-overlap", "*", 12*time.Hour, 0, 16),
		limited("special", "mail/*", 48*time.Hour, 30*day, 0),
		limited("elsewhere", "pay/*", time.Hour, time.Hour, 99),
		limited("b-as-long", "mail/+", 0, 30*day, 32),
		limited("as-long", "mail/sender", 0, 0, 32),
	}
	for range policies { // in whatever order they stand
		policies = append(policies[1:], policies[0])
		got := policy.Resolve(policies, "mail/sender", nil, policy.Settings{})
		want := []policy.Bound{
			{Limit: policy.LimitOverlap, Policy: "strict-overlap", Longest: 12 * time.Hour},
			{Limit: policy.LimitAge, Policy: "b-as-long", Longest: 30 * day},
			{Limit: policy.LimitLength, Policy: "as-long", Least: 32},
		}
		if got.Policy != "as-long" || !reflect.DeepEqual(got.Bounds, want) {
			t.Fatalf("of %s: %+v", got.Policy, got.Bounds)
		}
		if got.MaxOverlap != 12*time.Hour || got.Origin("max_overlap").Policy != "strict-overlap" {
			t.Errorf("a maximum of %s from %+v", got.MaxOverlap, got.Origin("max_overlap"))
		}
	}
}

// excesses lists them as "SETTING: POLICY TEXT".
func excesses(found []policy.Excess) (texts []string) {
	for _, e := range found {
		texts = append(texts, e.Attribute+": "+e.Bound.Policy+" "+e.Bound.String()+": "+e.String())
	}
	return texts
}

func TestExcesses(t *testing.T) {
	policies := []policy.RotationPolicy{limited("base", "*", 12*time.Hour, 48*time.Hour, 32)}
	within := func(overlap, age time.Duration, length int) []string {
		s := policy.Settings{Overlap: &overlap, MaxAge: &age}
		s.Key.Length = &length
		return excesses(policy.Resolve(policies, "a", nil, s).Excesses())
	}
	for name, c := range map[string]struct{ got, want []string }{
		"just within":     {within(12*time.Hour, 48*time.Hour, 32), nil},
		"issuer's length": {within(0, time.Hour, 0), nil},
		"just outside": {within(12*time.Hour+1, 48*time.Hour+1, 31), []string{
			`overlap: base 12h0m0s: an overlap of 12h0m0.000000001s is longer than max_overlap of the rotation policy "base", 12h0m0s; shorten the overlap, or raise the limit`,
			`max_age: base 48h0m0s: a max_age of 48h0m0.000000001s is longer than max_age of the rotation policy "base", 48h0m0s; lower max_age, or raise the limit`,
			`key.length: base 32 characters: a key of 31 characters is shorter than min_length of the rotation policy "base", 32 characters; write key { length = 32 }, or lower the limit`,
		}},
		"of any age": {within(time.Hour, 0, 40), []string{
			`max_age: base 48h0m0s: credentials may become of any age, which is more than max_age of the rotation policy "base", 48h0m0s; write max_age, at most "48h0m0s"`,
		}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: got %q, want %q", name, c.got, c.want)
		}
	}
}

// A policy that only limits others gives nothing that could be too much.
func TestPolicyBeyondItsOwnLimits(t *testing.T) {
	p := limited("base", "*", 12*time.Hour, 48*time.Hour, 32)
	if found := p.Excesses(); len(found) > 0 {
		t.Errorf("limits alone: %q", excesses(found))
	}
	overlap, age := 13*time.Hour, 72*time.Hour
	p.Settings = policy.Settings{Overlap: &overlap, MaxAge: &age}
	if found := p.Excesses(); len(found) != 2 || found[0].Attribute != "overlap" || found[1].Attribute != "max_age" {
		t.Errorf("got %q", excesses(found))
	}
}

// TestPlainPayload: somebody must allow it, and nobody forbid it.
func TestPlainPayload(t *testing.T) {
	says := func(name string, allowed bool) policy.RotationPolicy {
		return policy.RotationPolicy{Name: name, Match: policy.Match{Paths: []string{"mail/*"}}, Limits: policy.Limits{PlainPayload: &allowed}}
	}
	quiet := limited("a-quiet", "*", time.Hour, 0, 0)
	for name, test := range map[string]struct {
		policies []policy.RotationPolicy
		secret   string
		said     bool
		want     policy.Bound
	}{
		"nobody says anything":  {[]policy.RotationPolicy{quiet}, "mail/a", false, policy.Bound{}},
		"one allows it":         {[]policy.RotationPolicy{quiet, says("b", true)}, "mail/a", true, policy.Bound{Limit: policy.LimitPlain, Policy: "b", Allowed: true}},
		"one of another secret": {[]policy.RotationPolicy{quiet, says("b", true)}, "db/a", false, policy.Bound{}},
		"one forbids it":        {[]policy.RotationPolicy{says("b", true), says("d", false), says("c", false)}, "mail/a", true, policy.Bound{Limit: policy.LimitPlain, Policy: "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			for range test.policies { // in whatever order they stand
				test.policies = append(test.policies[1:], test.policies[0])
				r := policy.Resolve(test.policies, test.secret, nil, policy.Settings{})
				if got, said := r.PlainPayload(); said != test.said || got != test.want {
					t.Errorf("%+v, said: %t", got, said)
				}
			}
		})
	}
}
