package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

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
			got := policy.Compile([]policy.Policy{grant("p", rules...)}, policy.Identity{}).Decide(c.path, policy.Read, policy.Facts{})
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
		acl := policy.Compile([]policy.Policy{grant("p", rule(c.pattern, policy.Read))}, policy.Identity{})
		if got := acl.Decide(c.path, policy.Read, policy.Facts{}).Allowed; got != c.want {
			t.Errorf("pattern %q, path %q: got %v", c.pattern, c.path, got)
		}
	}
}

func TestOnlySysPatternsReachSys(t *testing.T) {
	for _, pattern := range []string{"*", "s*", "sys*", "+/audit", "+/*", "+", "sy+"} {
		acl := policy.Compile([]policy.Policy{grant("p", rule(pattern, policy.Capabilities()[:11]...))}, policy.Identity{})
		for _, path := range []string{"sys", "sys/", "sys/audit", "sys/tokens/x"} {
			if d := acl.Decide(path, policy.Read, policy.Facts{}); d.Allowed || d.Path != "" {
				t.Errorf("%q reaches %q: %+v", pattern, path, d)
			}
		}
	}
	acl := policy.Compile([]policy.Policy{grant("p", rule("sys*", policy.Read), rule("sys/+/log", policy.Read))}, policy.Identity{})
	for path, want := range map[string]bool{"system/key": true, "sys/audit/log": true, "sys/audit": false} {
		if got := acl.Decide(path, policy.Read, policy.Facts{}).Allowed; got != want {
			t.Errorf("%q: got %v", path, got)
		}
	}
}

func TestPoliciesUniteAndDenyWins(t *testing.T) {
	acl := policy.Compile([]policy.Policy{
		grant("readers", rule("a/*", policy.Read, policy.List)),
		grant("rotators", rule("a/*", policy.Rotate, policy.Read), rule("a/b", policy.Read)),
		grant("", rule("a/b", policy.Deny)), // a nameless deny counts, too
	}, policy.Identity{})
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
		if got := acl.Decide(c.path, c.capability, policy.Facts{}); got != c.want {
			t.Errorf("%s %s: got %+v, want %+v", c.capability, c.path, got, c.want)
		}
	}
	var none *policy.ACL
	if d := none.Decide("a", policy.Read, policy.Facts{}); d != (policy.Decision{}) {
		t.Errorf("a nil ACL decided %+v", d)
	}
}

func compiled(id policy.Identity, rules ...policy.Rule) *policy.ACL {
	return policy.Compile([]policy.Policy{grant("p", rules...)}, id)
}

func TestTemplates(t *testing.T) {
	id := policy.Identity{Tenant: "acme", Role: "deploy", Name: "sys", Environment: "production"}
	for _, c := range []struct {
		pattern, path string
		id            policy.Identity
		want          bool
	}{
		{"teams/{{identity.tenant}}/*", "teams/acme/x", id, true},
		{"teams/{{identity.tenant}}/*", "teams/acm/x", id, false},
		{"teams/{{identity.tenant}}/*", "teams/{{identity.tenant}}/x", id, false},
		{"a/{{identity.role}}-{{identity.environment}}", "a/deploy-production", id, true},
		{"{{identity.tenant}}/+/key", "acme/x/key", id, true},
		{"sys/{{identity.role}}/*", "sys/deploy/x", id, true},
		{"{{identity.tenant}}/{{identity.tenant}}", "acme/acme", id, true},
		// No value, and values that would be more than a part of a segment.
		{"teams/{{identity.tenant}}/*", "teams//x", policy.Identity{}, false},
		{"teams/{{identity.tenant}}/*", "teams/a/b/x", policy.Identity{Tenant: "a/b"}, false},
		{"teams/{{identity.tenant}}/*", "teams/a/x", policy.Identity{Tenant: "+"}, false},
		{"teams/{{identity.tenant}}", "teams/a", policy.Identity{Tenant: "*"}, false},
		{"{{identity.tenant}}/x", "acme/x", policy.Identity{Tenant: "{{identity.role}}", Role: "acme"}, false},
		{"teams/{{identity.name}}", "teams/a b", policy.Identity{Name: "a b"}, false},
		// Nobody gets at the broker's own controls by being called "sys".
		{"{{identity.name}}/*", "sys/tokens", id, false},
		{"s{{identity.name}}/*", "sys/tokens", policy.Identity{Name: "ys"}, false},
	} {
		if got := compiled(c.id, rule(c.pattern, policy.Read)).Decide(c.path, policy.Read, policy.Facts{}).Allowed; got != c.want {
			t.Errorf("%q for %+v, path %q: got %v", c.pattern, c.id, c.path, got)
		}
	}
}

// TestFilledInPathsHaveTheirPriority: what decides is the path as it is after
// filling in; what is told is the rule as it is written.
func TestFilledInPathsHaveTheirPriority(t *testing.T) {
	acl := policy.Compile([]policy.Policy{
		grant("wide", rule("teams/*", policy.Read, policy.List)),
		grant("own", rule("teams/{{identity.tenant}}/*", policy.Read)),
		grant("named", rule("teams/acme/*", policy.Rotate), rule("teams/ac/+", policy.Deny)),
	}, policy.Identity{Tenant: "acme"})
	for c, want := range map[policy.Capability]policy.Decision{
		policy.Read:   {Allowed: true, Policy: "own", Path: "teams/{{identity.tenant}}/*"},
		policy.Rotate: {Allowed: true, Policy: "named", Path: "teams/acme/*"},
		policy.List:   {Policy: "own", Path: "teams/{{identity.tenant}}/*"},
	} {
		if got := acl.Decide("teams/acme/x", c, policy.Facts{}); got != want {
			t.Errorf("%s: got %+v, want %+v", c, got, want)
		}
	}
}

func TestUsedIsWhatTemplatesAskFor(t *testing.T) {
	id := policy.Identity{Tenant: "t", Role: "r", Name: "n", Environment: "e"}
	policies := []policy.Policy{grant("a", rule("x/*", policy.Read), rule("{{identity.tenant}}/*", policy.Read)), grant("b", rule("{{identity.name}}", policy.Read))}
	if got := id.Used(policies); got != (policy.Identity{Tenant: "t", Name: "n"}) {
		t.Errorf("got %+v", got)
	}
	if got := id.Used(policies[:0]); got != (policy.Identity{}) {
		t.Errorf("got %+v", got)
	}
}

func TestConditions(t *testing.T) {
	office := policy.Conditions{Time: "Mon-Fri 08:00-18:00", TimeZone: "Europe/Berlin"}
	noon := time.Date(2026, 3, 2, 11, 0, 0, 0, time.UTC) // a Monday
	facts := policy.Facts{Environment: "production", Address: netip.MustParseAddr("::ffff:10.1.2.3"), At: noon}
	elsewhere := facts
	elsewhere.Address = netip.MustParseAddr("fe80::1%eth0")
	both := policy.Conditions{Environments: []string{"staging", "production"}, CIDRs: prefixes("10.0.0.0/8", "fe80::/10")}
	all := both
	all.Time, all.TimeZone = office.Time, office.TimeZone
	for _, c := range []struct {
		name  string
		when  policy.Conditions
		facts policy.Facts
		unmet string
	}{
		{"none", policy.Conditions{}, policy.Facts{}, ""},
		{"environment", policy.Conditions{Environments: []string{"staging", "production"}}, facts, ""},
		{"other environment", policy.Conditions{Environments: []string{"staging", "dev"}}, facts, "the secret's environment is not staging, dev"},
		{"no environment", policy.Conditions{Environments: []string{"staging", ""}}, policy.Facts{}, "the secret's environment is not staging, "},
		{"IPv4 in IPv6", policy.Conditions{CIDRs: prefixes("10.0.0.0/8")}, facts, ""},
		{"address with a zone", policy.Conditions{CIDRs: prefixes("fe80::/10")}, elsewhere, ""},
		{"other address", policy.Conditions{CIDRs: prefixes("192.0.2.0/24", "2001:db8::/32")}, facts, "the address is not in 192.0.2.0/24, 2001:db8::/32"},
		{"no address", policy.Conditions{CIDRs: prefixes("0.0.0.0/0", "::/0")}, policy.Facts{}, "the address is not in 0.0.0.0/0, ::/0"},
		{"time", office, facts, ""},
		{"other time", office, policy.Facts{At: noon.Add(7 * time.Hour)}, "outside Mon-Fri 08:00-18:00 (Europe/Berlin)"},
		{"no time", policy.Conditions{Time: "00:00-24:00"}, policy.Facts{}, "outside 00:00-24:00 (UTC)"},
		{"all", all, facts, ""},
		{"two of three", all, policy.Facts{At: noon}, "the secret's environment is not staging, production, and the address is not in 10.0.0.0/8, fe80::/10"},
		{"empty list", policy.Conditions{Environments: []string{}}, facts, "the secret's environment is not "},
		{"not valid", policy.Conditions{Time: "noon"}, facts, "the conditions of the rule cannot be read"},
		{"no zone", policy.Conditions{Time: "00:00-24:00", TimeZone: "Local"}, facts, "the conditions of the rule cannot be read"},
	} {
		got := compiled(policy.Identity{}, when(c.when, rule("a", policy.Read))).Decide("a", policy.Read, c.facts)
		if want := (policy.Decision{Allowed: c.unmet == "", Policy: "p", Path: "a", Unmet: c.unmet}); got != want {
			t.Errorf("%s: got %+v", c.name, got)
		}
		// A deny that holds is met by the same, save that one nobody can read always holds.
		denied := policy.Compile([]policy.Policy{grant("deny", when(c.when, rule("a", policy.Deny))), grant("p", rule("a", policy.Read))}, policy.Identity{}).Decide("a", policy.Read, c.facts)
		holds := c.unmet == "" || strings.Contains(c.unmet, "cannot be read")
		if denied.Allowed == holds || (denied.Policy == "deny") != holds || denied.Unmet != "" {
			t.Errorf("deny, %s: got %+v", c.name, denied)
		}
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// TestConditionsDoNotChangeWhichPathDecides: a wider path grants nothing where the
// most specific one does not hold.
func TestConditionsDoNotChangeWhichPathDecides(t *testing.T) {
	staging := policy.Conditions{Environments: []string{"staging"}}
	acl := policy.Compile([]policy.Policy{
		grant("wide", rule("*", policy.Read, policy.List)),
		grant("narrow", when(staging, rule("a/*", policy.Read))),
		grant("deny", when(staging, rule("a/+", policy.Deny))),
	}, policy.Identity{})
	for _, c := range []struct {
		path, environment string
		want              policy.Decision
	}{
		{"b", "", policy.Decision{Allowed: true, Policy: "wide", Path: "*"}},
		{"a/b/c", "staging", policy.Decision{Allowed: true, Policy: "narrow", Path: "a/*"}},
		{"a/b/c", "production", policy.Decision{Policy: "narrow", Path: "a/*", Unmet: "the secret's environment is not staging"}},
		{"a/b", "staging", policy.Decision{Policy: "deny", Path: "a/+"}},
		{"a/b", "production", policy.Decision{Policy: "deny", Path: "a/+"}},
	} {
		if got := acl.Decide(c.path, policy.Read, policy.Facts{Environment: c.environment}); got != c.want {
			t.Errorf("%s in %q: got %+v, want %+v", c.path, c.environment, got, c.want)
		}
	}
}

func TestSometimeIsWhatIsEverAllowed(t *testing.T) {
	day := policy.Conditions{Time: "08:00-18:00"}
	inside := policy.Conditions{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	staged := policy.Conditions{Environments: []string{"staging"}, Time: "08:00-18:00"}
	p := grant("p", rule("*", policy.Read),
		policy.Rule{Path: "a", Capabilities: []policy.Capability{policy.Read}, Conditions: day},
		policy.Rule{Path: "b", Capabilities: []policy.Capability{policy.Deny}, Conditions: inside}, rule("b", policy.Read),
		policy.Rule{Path: "c", Capabilities: []policy.Capability{policy.Deny}, Conditions: day},
		policy.Rule{Path: "d", Capabilities: []policy.Capability{policy.Read}, Conditions: staged},
		policy.Rule{Path: "e", Capabilities: []policy.Capability{policy.Deny}, Conditions: policy.Conditions{Environments: []string{"staging"}}}, rule("e", policy.Read))
	acl := policy.Compile([]policy.Policy{p.Sometime()}, policy.Identity{})
	for _, c := range []struct {
		path, environment string
		want              bool
	}{
		{"a", "", true}, {"b", "", true}, {"c", "", false}, // on c nothing is granted, whatever a wider path says
		{"d", "staging", true}, {"d", "production", false}, {"e", "staging", false}, {"e", "production", true},
	} {
		if got := acl.Decide(c.path, policy.Read, policy.Facts{Environment: c.environment}); got.Allowed != c.want {
			t.Errorf("%s %q: %+v", c.path, c.environment, got)
		}
	}
	if policy.Compile([]policy.Policy{p}, policy.Identity{}).Decide("a", policy.Read, policy.Facts{}).Allowed {
		t.Error("the policy itself was changed")
	}
}

func TestTimesOfTheWeek(t *testing.T) {
	const layout = "2006-01-02 15:04 -0700"
	for _, c := range []struct {
		window, zone, at string
		want             bool
	}{
		{"Mon-Fri 08:00-18:00", "", "2026-03-02 08:00 +0000", true},
		{"Mon-Fri 08:00-18:00", "", "2026-03-02 07:59 +0000", false},
		{"Mon-Fri 08:00-18:00", "", "2026-03-06 17:59 +0000", true},
		{"Mon-Fri 08:00-18:00", "", "2026-03-06 18:00 +0000", false},
		{"Mon-Fri 08:00-18:00", "", "2026-03-07 12:00 +0000", false},
		{"Fri-Mon 08:00-18:00", "", "2026-03-08 12:00 +0000", true}, // over the end of the week
		{"Fri-Mon 08:00-18:00", "", "2026-03-03 12:00 +0000", false},
		{"Sat 22:00-06:00", "", "2026-03-07 23:00 +0000", true}, // into Sunday, where the week begins
		{"Sat 22:00-06:00", "", "2026-03-08 05:59 +0000", true},
		{"Sat 22:00-06:00", "", "2026-03-08 06:00 +0000", false},
		{"Sat 22:00-06:00", "", "2026-03-07 05:00 +0000", false},
		{"22:00-06:00", "", "2026-03-04 03:00 +0000", true},
		{"Mon 08:00-09:00, Wed 08:00-24:00", "", "2026-03-04 23:59 +0000", true},
		{"Mon 08:00-09:00,Wed 08:00-24:00", "", "2026-03-03 08:30 +0000", false},
		{"00:00-24:00", "", "2026-03-03 00:00 +0000", true},
		// Berlin: the day there decides, and its clock in summer and winter.
		{"Mon 00:00-01:00", "Europe/Berlin", "2026-03-01 23:30 +0000", true},
		{"08:00-09:00", "Europe/Berlin", "2026-03-28 07:30 +0000", true},
		{"08:00-09:00", "Europe/Berlin", "2026-03-29 07:30 +0000", false},
		{"08:00-09:00", "Europe/Berlin", "2026-03-29 06:30 +0000", true},
		{"08:00-09:00", "Europe/Berlin", "2026-10-25 07:30 +0000", true},
		// On the last Sunday of March 02:00 is 03:00, in October it is 02:30 twice.
		{"02:00-03:00", "Europe/Berlin", "2026-03-29 00:59 +0000", false},
		{"02:00-03:00", "Europe/Berlin", "2026-03-29 01:00 +0000", false},
		{"02:00-03:00", "Europe/Berlin", "2026-10-25 00:30 +0000", true},
		{"02:00-03:00", "Europe/Berlin", "2026-10-25 01:30 +0000", true},
		{"02:00-03:00", "Europe/Berlin", "2026-10-25 02:30 +0000", false},
		{"Sat 22:00-04:00", "Europe/Berlin", "2026-03-29 01:59 +0000", true}, // 03:59
		{"Sat 22:00-04:00", "Europe/Berlin", "2026-03-29 02:00 +0000", false},
	} {
		at, err := time.Parse(layout, c.at)
		if err != nil {
			t.Fatal(err)
		}
		acl := compiled(policy.Identity{}, when(policy.Conditions{Time: c.window, TimeZone: c.zone}, rule("a", policy.Read)))
		if got := acl.Decide("a", policy.Read, policy.Facts{At: at}).Allowed; got != c.want {
			t.Errorf("%s %s at %s: got %v", c.window, c.zone, c.at, got)
		}
	}
}

// TestDecideAllocatesNothing asks the set of policies that the benchmark measures.
func TestDecideAllocatesNothing(t *testing.T) {
	var e estate
	teams(&e, 100)
	lengths(&e, 100)
	pluses(&e, 100)
	acl := policy.Compile(e.policies, someID)
	for _, facts := range []policy.Facts{
		{},
		{Environment: "production", Address: netip.MustParseAddr("192.168.7.7"), At: time.Date(2026, 8, 3, 15, 4, 5, 0, time.UTC)},
		{Environment: "dev", Address: netip.MustParseAddr("fe80::1%eth0"), At: time.Date(2026, 12, 6, 15, 4, 5, 0, time.UTC)},
	} {
		n := 0
		if got := testing.AllocsPerRun(5*len(e.paths), func() {
			acl.Decide(e.paths[n%len(e.paths)], policy.Capabilities()[n%12], facts)
			n++
		}); got != 0 {
			t.Errorf("%+v: %v allocations", facts, got)
		}
	}
}
