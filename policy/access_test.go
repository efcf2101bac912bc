package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/policy"
)

func TestValidateReportsEveryMistake(t *testing.T) {
	problems := policy.Validate(policy.Policy{Rules: []policy.Rule{
		rule("payments/*", policy.Read, policy.List),
		rule("/payments/x", "raed"),
		rule("a*b"),
		rule("payments/*", policy.Rotate, policy.Rotate),
		rule("a//b", policy.Deny, policy.Read),
		rule("a/b+/c", "read-previous"),
		rule("a b", "sudo"),
		rule("a/+*", policy.Read),
		rule("", policy.Read),
	}})
	want := []string{
		"-1 name: the policy has no name",
		`1 path: the path "/payments/x" begins with a slash; write "payments/x"`,
		`1 capabilities: "raed" is no capability; did you mean "read"?`,
		`2 path: the path "a*b" has a * that is not at its end; for one whole segment write "+", as in "payments/+/key"`,
		`2 capabilities: the rule has no capabilities; to forbid everything write ["deny"]`,
		`3 path: the path "payments/*" stands in this policy twice; put the capabilities into one block`,
		`3 capabilities: the capability "rotate" is given twice; remove one`,
		`4 path: the path "a//b" has an empty segment; write single slashes`,
		`4 capabilities: "deny" takes everything away, so the other capabilities are without effect; write either ["deny"] or the others`,
		`5 path: the path "a/b+/c" has a + that is not a segment of its own; "+" stands between slashes, as in "payments/+/key"`,
		`5 capabilities: "read-previous" is no capability; did you mean "read_previous"?`,
		`6 path: the path "a b" contains white space, which no path has; remove it`,
		`6 capabilities: "sudo" is no capability; it is one of read, read_previous, read_pending, list, rotate, revoke, emergency, approve, create, update, delete, deny`,
		`7 path: the path "a/+*" has a + that is not a segment of its own; "+" stands between slashes, as in "payments/+/key"`,
		`8 path: the path is empty; write a secret's name, a prefix such as "payments/*", or "*" for all secrets`,
	}
	var got []string
	for _, p := range problems {
		got = append(got, strings.Join([]string{itoa(p.Rule), " ", p.Attribute, ": ", p.String()}, ""))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func itoa(n int) string {
	if n < 0 {
		return "-1"
	}
	return string(rune('0' + n))
}

func TestValidateAcceptsEveryCapabilityAndGoodPaths(t *testing.T) {
	var rules []policy.Rule
	for _, path := range []string{"*", "+", "a", "a/*", "a/b*", "+/b", "a/+/c*", "sys/audit", "sys/*", "a/"} {
		rules = append(rules, rule(path, policy.Capabilities()[:11]...))
	}
	rules = append(rules, rule("b", policy.Deny))
	if problems := policy.Validate(grant("ok", rules...)); len(problems) > 0 {
		t.Errorf("got %v", problems)
	}
}

// problemsOf validates one rule that may read, and joins what is said of it.
func problemsOf(r policy.Rule) string {
	var said []string
	for _, p := range policy.Validate(grant("p", r)) {
		said = append(said, p.Attribute+": "+p.String())
	}
	return strings.Join(said, " | ")
}

func TestValidateTemplates(t *testing.T) {
	for path, want := range map[string]string{
		"teams/{{identity.tenant}}/*":                  "",
		"{{identity.role}}-{{identity.environment}}/+": "",
		"a/{{identity.name}}":                          "",
		"teams/{{identity.tennant}}/*":                 `path: the path "teams/{{identity.tennant}}/*" has the template "{{identity.tennant}}", which there is none of; did you mean "{{identity.tenant}}"?`,
		"teams/{{ identity.role }}/*":                  `path: the path "teams/{{ identity.role }}/*" has the template "{{ identity.role }}", which there is none of; did you mean "{{identity.role}}"?`,
		"teams/{{x}}":                                  `path: the path "teams/{{x}}" has the template "{{x}}", which there is none of; it is one of {{identity.tenant}}, {{identity.role}}, {{identity.name}}, {{identity.environment}}`,
		"teams/{identity.tenant}":                      `path: the path "teams/{identity.tenant}" has a brace that belongs to no template; a template is written as in "teams/{{identity.tenant}}/*"`,
		"teams/{{identity.tenant":                      `path: the path "teams/{{identity.tenant" has a brace that belongs to no template; a template is written as in "teams/{{identity.tenant}}/*"`,
		"a}}":                                          `path: the path "a}}" has a brace that belongs to no template; a template is written as in "teams/{{identity.tenant}}/*"`,
		"teams/{{identity.tenant}}*":                   `path: the path "teams/{{identity.tenant}}*" gives "a" what belongs to "ab", too; write "teams/{{identity.tenant}}/*"`,
		"a/+{{identity.tenant}}":                       `path: the path "a/+{{identity.tenant}}" has a + that is not a segment of its own; "+" stands between slashes, as in "payments/+/key"`,
		"/{{identity.tenant}}":                         `path: the path "/{{identity.tenant}}" begins with a slash; write "{{identity.tenant}}"`,
	} {
		if got := problemsOf(rule(path, policy.Read)); got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", path, got, want)
		}
	}
}

func TestValidateConditions(t *testing.T) {
	for _, c := range []struct {
		when policy.Conditions
		want string
	}{
		{policy.Conditions{}, ""},
		{policy.Conditions{
			Environments: []string{"production", "eu-1"}, CIDRs: prefixes("10.0.0.0/8", "2001:db8::1/128", "0.0.0.0/0"),
			Time: "Mon-Fri 08:00-18:00, 22:00-06:00,Sat  00:00-24:00", TimeZone: "Europe/Berlin",
		}, ""},
		{policy.Conditions{Environments: []string{}}, "conditions.environments: environments is empty, so the rule never holds; leave it out if the rule holds for all"},
		{policy.Conditions{Environments: []string{"", "a b"}}, `conditions.environments: "" is no environment; write what the secrets' label environment says, at most 64 bytes without white space | ` +
			`conditions.environments: "a b" is no environment; write what the secrets' label environment says, at most 64 bytes without white space`},
		{policy.Conditions{CIDRs: []netip.Prefix{}}, "conditions.cidrs: cidrs is empty, so the rule never holds; leave it out if the rule holds for all"},
		{policy.Conditions{CIDRs: []netip.Prefix{{}}}, `conditions.cidrs: this is no range of addresses; write for instance "10.20.0.0/16" or "2001:db8::/32"`},
		{policy.Conditions{CIDRs: prefixes("10.1.2.3/8")}, `conditions.cidrs: 10.1.2.3/8 names an address and a range at once; write "10.0.0.0/8" for the range or "10.1.2.3/32" for the address`},
		{policy.Conditions{CIDRs: prefixes("::ffff:10.0.0.0/104")}, "conditions.cidrs: ::ffff:10.0.0.0/104 is an IPv4 address in the form of IPv6, which nobody calls from; write it as IPv4"},
		{policy.Conditions{Environments: slices.Repeat([]string{"a"}, 65)}, "conditions.environments: environments has 65 elements, the limit is 64"},
		{policy.Conditions{Time: strings.Repeat("00:00-24:00,", 64) + "00:00-24:00"}, "conditions.time: these are 65 times of the week, the limit is 64"},
		{policy.Conditions{Time: "Mon,Tue 08:00-18:00"}, `conditions.time: "Mon" is no time of the week; give it times of its own, as in "Mon 00:00-24:00"`},
		{policy.Conditions{Time: "Sat-Sun"}, `conditions.time: "Sat-Sun" is no time of the week; give it times of its own, as in "Sat-Sun 00:00-24:00"`},
		{policy.Conditions{Time: "8:00-18:00"}, `conditions.time: "8:00-18:00" is no time of the week; write for instance "Mon-Fri 08:00-18:00", several joined by ","`},
		{policy.Conditions{Time: "08:00-18:00,"}, `conditions.time: "" is no time of the week; write for instance "Mon-Fri 08:00-18:00", several joined by ","`},
		{policy.Conditions{Time: "Mo-Fri 08:00-18:00"}, `conditions.time: "Mo" is no day of the week; did you mean "Mon"?`},
		{policy.Conditions{Time: "08:00-24:01"}, `conditions.time: "08:00-24:01" has a time that no clock shows; a day goes from 00:00 to 24:00`},
		{policy.Conditions{Time: "08:60-09:00"}, `conditions.time: "08:60-09:00" has a time that no clock shows; a day goes from 00:00 to 24:00`},
		{policy.Conditions{Time: "24:00-08:00"}, `conditions.time: "24:00-08:00" has a time that no clock shows; a day goes from 00:00 to 24:00`},
		{policy.Conditions{Time: "08:00-08:00"}, `conditions.time: "08:00-08:00" begins when it ends; for a whole day write "00:00-24:00"`},
		{policy.Conditions{Time: "08:00-09:00", TimeZone: "Europe/Berln"}, `conditions.time_zone: there is no time zone "Europe/Berln"; write an IANA name such as "Europe/Berlin"`},
		{policy.Conditions{Time: "08:00-09:00", TimeZone: "Local"}, `conditions.time_zone: there is no time zone "Local"; write an IANA name such as "Europe/Berlin"`},
		{policy.Conditions{TimeZone: "Europe/Berlin"}, `conditions.time_zone: a time zone without a time says nothing; add time = "Mon-Fri 08:00-18:00", or leave time_zone out`},
	} {
		if got := problemsOf(when(c.when, rule("a", policy.Read))); got != c.want {
			t.Errorf("%+v:\ngot  %s\nwant %s", c.when, got, c.want)
		}
	}
}

func TestValidateBoundsSizes(t *testing.T) {
	rules := make([]policy.Rule, 1001)
	for i := range rules {
		rules[i] = rule(strings.Repeat("a", i%400+1)+"/"+strings.Repeat("b", i/400+1), policy.Read)
	}
	for _, c := range []struct {
		p    policy.Policy
		want string
	}{
		{grant("p", rules[:1000]...), ""},
		{grant("p", rules...), "the policy has 1001 rules, the limit is 1000; make several policies of it; a role can have many"},
		{grant(strings.Repeat("p", 65), rules[0]), "the policy's name has 65 bytes, the limit is 64"},
		{grant("p", rule(strings.Repeat("a", 512), policy.Read)), ""},
		{grant("p", rule(strings.Repeat("a", 513), policy.Read)), "the path has 513 bytes, the limit is 512; end it earlier, with *"},
		{grant("p", rule("a/"+strings.Repeat("+/", 4)+"b", policy.Read)), ""},
		{grant("p", rule("a/+/+/+/+/+", policy.Read)), `the path "a/+/+/+/+/+" has 5 segments that are +, the limit is 4; end it earlier, with *`},
	} {
		var said []string
		for _, problem := range policy.Validate(c.p) {
			said = append(said, problem.String())
		}
		if got := strings.Join(said, " | "); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	endless := slices.Repeat([]policy.Capability{policy.Read}, 100_000)
	if problems := policy.Validate(grant("p", rule("a", endless...))); len(problems) > len(policy.Capabilities()) {
		t.Errorf("%d problems of one list", len(problems))
	}
}

func TestRootPolicyAllowsEverything(t *testing.T) {
	acl := policy.Compile([]policy.Policy{policy.RootPolicy()}, policy.Identity{})
	for _, path := range []string{"", "a", "a/b", "sys/", "sys/tokens/x"} {
		for _, c := range policy.Capabilities() {
			if got := acl.Decide(path, c, policy.Facts{}).Allowed; got != (c != policy.Deny) {
				t.Errorf("%s on %q: %v", c, path, got)
			}
		}
	}
}
