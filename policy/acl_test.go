package policy_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/keybroker/keybroker/policy"
)

func grant(name string, rules ...policy.Rule) policy.Policy {
	return policy.Policy{Name: name, Rules: rules}
}

func rule(path string, capabilities ...policy.Capability) policy.Rule {
	return policy.Rule{Path: path, Capabilities: capabilities}
}

func TestMostSpecificPathDecides(t *testing.T) {
	// In each case the second rule decides on the path, in whatever order they stand.
	for _, c := range []struct{ path, loser, winner string }{
		{"a/b", "a/*", "a/b"},                 // exact
		{"a/b", "a/+", "a/b"},                 // exact
		{"a/b/c", "+/b/*", "a/+/*"},           // later first wildcard
		{"a/b/c", "a/*", "a/b/*"},             // later first wildcard
		{"a/b/c", "a/+/c", "a/b/*"},           // later first wildcard, though it ends in *
		{"a/b/c", "a/+/*", "a/+/c"},           // no trailing *
		{"a/b", "a/*", "a/+"},                 // no trailing *
		{"a/b/c/d", "a/+/+/d", "a/+/c/d"},     // fewer +
		{"a/b/cde", "a/+/c*", "a/+/cd*"},      // longer
		{"a/b/c/d", "a/+/+/d", "a/+/c/+"},     // same length and number of +: greater text
		{"a/bc", "a/b*", "a/bc*"},             // a prefix may be the whole path
		{"payments/stripe", "*", "payments*"}, // longer prefix
		{"sys/audit", "sys/*", "sys/audit"},
	} {
		for _, swap := range []bool{false, true} {
			rules := []policy.Rule{rule(c.loser, policy.List), rule(c.winner, policy.Read)}
			if swap {
				slices.Reverse(rules)
			}
			got := policy.Compile([]policy.Policy{grant("p", rules...)}).Decide(c.path, policy.Read)
			if want := (policy.Decision{Allowed: true, Policy: "p", Path: c.winner}); got != want {
				t.Errorf("%s with %s and %s: got %+v", c.path, c.loser, c.winner, got)
			}
		}
	}
}

func TestMatching(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/b/c", false},
		{"a/b", "a", false},
		{"a/b*", "a/b", true},
		{"a/b*", "a/bc/d", true},
		{"a/b*", "a/c", false},
		{"*", "a/b", true},
		{"*", "", true}, // the list of everything
		{"a/*", "a/", true},
		{"a/*", "a", false},
		{"+", "a", true},
		{"+", "a/b", false},
		{"+/b", "a/b", true},
		{"a/+", "a/b", true},
		{"a/+", "a", false},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a/b/d", false},
		{"a/+/c", "a/b/b/c", false},
		{"a/+/c*", "a/b/cd/e", true},
		{"a/+/*", "a/b/c", true},
		{"a/+/*", "a/b", false},
	} {
		acl := policy.Compile([]policy.Policy{grant("p", rule(c.pattern, policy.Read))})
		if got := acl.Decide(c.path, policy.Read).Allowed; got != c.want {
			t.Errorf("pattern %q, path %q: got %v", c.pattern, c.path, got)
		}
	}
}

func TestOnlySysPatternsReachSys(t *testing.T) {
	for _, pattern := range []string{"*", "s*", "sys*", "+/audit", "+/*", "+", "sy+"} {
		acl := policy.Compile([]policy.Policy{grant("p", rule(pattern, policy.Capabilities()[:11]...))})
		for _, path := range []string{"sys", "sys/", "sys/audit", "sys/tokens/x"} {
			if d := acl.Decide(path, policy.Read); d.Allowed || d.Path != "" {
				t.Errorf("%q reaches %q: %+v", pattern, path, d)
			}
		}
	}
	acl := policy.Compile([]policy.Policy{grant("p", rule("sys*", policy.Read), rule("sys/+/log", policy.Read))})
	for path, want := range map[string]bool{"system/key": true, "sys/audit/log": true, "sys/audit": false} {
		if got := acl.Decide(path, policy.Read).Allowed; got != want {
			t.Errorf("%q: got %v", path, got)
		}
	}
}

func TestPoliciesUniteAndDenyWins(t *testing.T) {
	acl := policy.Compile([]policy.Policy{
		grant("readers", rule("a/*", policy.Read, policy.List)),
		grant("rotators", rule("a/*", policy.Rotate, policy.Read), rule("a/b", policy.Read)),
		grant("", rule("a/b", policy.Deny)), // a nameless deny counts, too
	})
	for _, c := range []struct {
		path       string
		capability policy.Capability
		want       policy.Decision
	}{
		{"a/x", policy.Read, policy.Decision{Allowed: true, Policy: "readers", Path: "a/*"}},
		{"a/x", policy.Rotate, policy.Decision{Allowed: true, Policy: "rotators", Path: "a/*"}},
		{"a/x", policy.Revoke, policy.Decision{Policy: "readers", Path: "a/*"}},
		{"a/x", policy.Deny, policy.Decision{Policy: "readers", Path: "a/*"}},
		{"a/b", policy.Read, policy.Decision{Path: "a/b"}},
		{"a/b", policy.Deny, policy.Decision{Path: "a/b"}},
		{"b", policy.Read, policy.Decision{}},
	} {
		if got := acl.Decide(c.path, c.capability); got != c.want {
			t.Errorf("%s %s: got %+v, want %+v", c.capability, c.path, got, c.want)
		}
	}
	var none *policy.ACL
	if d := none.Decide("a", policy.Read); d != (policy.Decision{}) {
		t.Errorf("a nil ACL decided %+v", d)
	}
}

// reference decides by trying every rule with a regular expression and sorting
// those that match; it shares nothing with the code under test.
func reference(policies []policy.Policy, path string, c policy.Capability) (allowed bool, by string) {
	matching := map[string]map[policy.Capability]bool{}
	for _, p := range policies {
		for _, r := range p.Rules {
			if !referenceMatches(r.Path, path) {
				continue
			}
			if matching[r.Path] == nil {
				matching[r.Path] = map[policy.Capability]bool{}
			}
			for _, granted := range r.Capabilities {
				matching[r.Path][granted] = true
			}
		}
	}
	var paths []string
	for p := range matching {
		paths = append(paths, p)
	}
	if len(paths) == 0 {
		return false, ""
	}
	slices.SortFunc(paths, func(a, b string) int { return -referenceCompare(a, b) })
	granted := matching[paths[0]]
	return granted[c] && !granted[policy.Deny], paths[0]
}

func referenceMatches(pattern, path string) bool {
	inSys := path == "sys" || strings.HasPrefix(path, "sys/")
	if inSys && pattern != "sys" && !strings.HasPrefix(pattern, "sys/") {
		return false
	}
	expr := regexp.QuoteMeta(strings.TrimSuffix(pattern, "*"))
	expr = strings.ReplaceAll(expr, `\+`, `[^/]*`)
	if strings.HasSuffix(pattern, "*") {
		expr += `.*`
	}
	return regexp.MustCompile(`\A(?s:` + expr + `)\z`).MatchString(path)
}

func referenceCompare(a, b string) int {
	key := func(p string) []int {
		first := strings.IndexAny(p, "+*")
		exact, noGlob := 0, 1
		if first < 0 {
			exact, first = 1, len(p)
		}
		if strings.HasSuffix(p, "*") {
			noGlob = 0
		}
		return []int{exact, first, noGlob, -strings.Count(p, "+"), len(p)}
	}
	return cmp.Or(slices.Compare(key(a), key(b)), cmp.Compare(a, b))
}

var words = []string{"a", "b", "ab", "sys", "s", ""}

// randomPattern makes a valid pattern out of few words, so that many match.
func randomPattern(r *rand.Rand) string {
	for {
		var segments []string
		for range 1 + r.IntN(4) {
			if r.IntN(3) == 0 {
				segments = append(segments, "+")
			} else {
				segments = append(segments, words[r.IntN(len(words))])
			}
		}
		p := strings.Join(segments, "/")
		if r.IntN(2) == 0 {
			p += "*"
		}
		if len(policy.Validate(grant("p", rule(p, policy.Read)))) == 0 {
			return p
		}
	}
}

func randomPath(r *rand.Rand) string {
	var segments []string
	for range 1 + r.IntN(4) {
		segments = append(segments, words[r.IntN(len(words))])
	}
	return strings.Join(segments, "/")
}

func randomPolicies(r *rand.Rand) []policy.Policy {
	all := policy.Capabilities()
	var policies []policy.Policy
	for i := range 1 + r.IntN(4) {
		p := policy.Policy{Name: fmt.Sprint("p", i)}
		for range 1 + r.IntN(6) {
			capabilities := []policy.Capability{all[r.IntN(len(all)-1)], policy.Read}
			if r.IntN(6) == 0 {
				capabilities = []policy.Capability{policy.Deny}
			}
			p.Rules = append(p.Rules, rule(randomPattern(r), capabilities...))
		}
		policies = append(policies, p)
	}
	return policies
}

func compareWithReference(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	policies := randomPolicies(r)
	acl := policy.Compile(policies)
	for range 40 {
		path, c := randomPath(r), policy.Capabilities()[r.IntN(12)]
		got := acl.Decide(path, c)
		allowed, by := reference(policies, path, c)
		if c == policy.Deny {
			allowed = false
		}
		if got.Allowed != allowed || got.Path != by {
			t.Fatalf("seed %d: %s on %q: got %+v, reference %v by %q, of %+v", seed, c, path, got, allowed, by, policies)
		}
	}
}

func TestDecideAgreesWithReference(t *testing.T) {
	for seed := range uint64(300) {
		compareWithReference(t, seed)
	}
}

// FuzzDecide compares arbitrary patterns and paths with the reference. A pattern
// that Validate refuses is left out, as it is never compiled, and so is what is
// no UTF-8, which the reference cannot express.
func FuzzDecide(f *testing.F) {
	f.Add("*", "a/+/c*", "a/b/c")
	f.Add("sys/*", "+/audit", "sys/audit")
	f.Add("+/+", "a/*", "a/")
	f.Fuzz(func(t *testing.T, first, second, path string) {
		if !(utf8.ValidString(first) && utf8.ValidString(second) && utf8.ValidString(path)) {
			return
		}
		policies := []policy.Policy{
			grant("one", rule(first, policy.Read)),
			grant("two", rule(second, policy.List)),
		}
		if len(policy.Validate(policies[0]))+len(policy.Validate(policies[1])) > 0 {
			return
		}
		acl := policy.Compile(policies)
		for _, c := range []policy.Capability{policy.Read, policy.List} {
			got := acl.Decide(path, c)
			if allowed, by := reference(policies, path, c); got.Allowed != allowed || got.Path != by {
				t.Fatalf("%s on %q with %q, %q: got %+v, reference %v by %q", c, path, first, second, got, allowed, by)
			}
		}
	})
}
