package policy_test

import (
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
