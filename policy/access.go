package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// Capability is one thing that a caller may do on a path.
type Capability string

// The capabilities. Those up to Approve concern secrets, Create, Update and
// Delete concern what lies below sys/ as well.
const (
	Read         Capability = "read"          // the current value
	ReadPrevious Capability = "read_previous" // the value in its overlap
	ReadPending  Capability = "read_pending"  // the value that is not published yet
	List         Capability = "list"          // names and states, never values
	Rotate       Capability = "rotate"
	Revoke       Capability = "revoke"
	Emergency    Capability = "emergency"
	Approve      Capability = "approve"
	Create       Capability = "create"
	Update       Capability = "update"
	Delete       Capability = "delete"
	Deny         Capability = "deny" // takes everything away, whatever else grants it on the same path
)

// Capabilities lists every capability.
func Capabilities() []Capability {
	return []Capability{Read, ReadPrevious, ReadPending, List, Rotate, Revoke, Emergency, Approve, Create, Update, Delete, Deny}
}

// capabilities is a set of them, in the order of Capabilities.
type capabilities uint16

// denial is the set of Deny alone, the last of all.
const denial capabilities = 1 << 11

// capabilityOf is the set of one; an unknown one is in no set.
func capabilityOf(c Capability) capabilities {
	switch c {
	case Read:
		return 1 << 0
	case ReadPrevious:
		return 1 << 1
	case ReadPending:
		return 1 << 2
	case List:
		return 1 << 3
	case Rotate:
		return 1 << 4
	case Revoke:
		return 1 << 5
	case Emergency:
		return 1 << 6
	case Approve:
		return 1 << 7
	case Create:
		return 1 << 8
	case Update:
		return 1 << 9
	case Delete:
		return 1 << 10
	case Deny:
		return denial
	}
	return 0
}

func capabilitiesOf(list []Capability) capabilities {
	var set capabilities
	for _, c := range list {
		set |= capabilityOf(c)
	}
	return set
}

// Rule grants capabilities on the paths that match Path, where its conditions hold.
type Rule struct {
	Path         string
	Capabilities []Capability
	Conditions   Conditions // zero: always
}

// Root is the name of the built-in policy that allows everything. No other
// policy can have it.
const Root = "root"

// RootPolicy returns the policy called Root.
func RootPolicy() Policy {
	all := slices.DeleteFunc(Capabilities(), func(c Capability) bool { return c == Deny })
	return Policy{Name: Root, Rules: []Rule{{Path: "*", Capabilities: all}, {Path: "sys/*", Capabilities: all}}}
}

// Policy is a named set of rules.
type Policy struct {
	Name  string
	Rules []Rule
}

// How large a policy may be. What is larger is a mistake, and would make every
// decision dearer.
const (
	maxRules = 1000
	maxPath  = 512 // bytes: two names of secrets
	maxPlus  = 4   // segments that are "+": with more, what begins alike multiplies
	maxName  = 64  // bytes
)

// Problem is one mistake in a policy.
type Problem struct {
	Rule       int    // which of Policy.Rules, from 0; -1 if it is not about one of them
	Attribute  string // where it stands: "path", "capabilities", "conditions.time", "verify.successes"
	Text       string // what is wrong
	Suggestion string // how to mend it; empty if there is nothing better to say than Text
}

// String joins what is wrong and how to mend it.
func (p Problem) String() string {
	if p.Suggestion == "" {
		return p.Text
	}
	return p.Text + "; " + p.Suggestion
}

// Validate returns every mistake in p, in the order of its rules.
func Validate(p Policy) []Problem {
	var problems []Problem
	if text := nameProblem(p.Name); text != "" {
		problems = append(problems, Problem{Rule: -1, Attribute: "name", Text: text})
	}
	if len(p.Rules) > maxRules {
		problems = append(problems, Problem{
			Rule: -1, Attribute: "path", Text: fmt.Sprintf("the policy has %d rules, the limit is %d", len(p.Rules), maxRules),
			Suggestion: "make several policies of it; a role can have many",
		})
	}
	seen := map[string]bool{}
	for i, r := range p.Rules {
		if text, suggestion := pathProblem(r.Path); text != "" {
			problems = append(problems, Problem{Rule: i, Attribute: "path", Text: text, Suggestion: suggestion})
		} else if seen[r.Path] {
			problems = append(problems, Problem{
				Rule: i, Attribute: "path", Text: fmt.Sprintf("the path %q stands in this policy twice", r.Path),
				Suggestion: "put the capabilities into one block",
			})
		}
		seen[r.Path] = true
		problems = append(problems, capabilityProblems(i, r.Capabilities)...)
		problems = append(problems, conditionProblems(i, r.Conditions)...)
	}
	return problems
}

func capabilityProblems(rule int, given []Capability) []Problem {
	var problems []Problem
	report := func(text, suggestion string) {
		problems = append(problems, Problem{Rule: rule, Attribute: "capabilities", Text: text, Suggestion: suggestion})
	}
	if len(given) == 0 {
		report("the rule has no capabilities", `to forbid everything write ["deny"]`)
	}
	for i, c := range given {
		switch {
		case i == len(Capabilities()): // one of them is there twice, or is none: that was said
			return problems
		case !slices.Contains(Capabilities(), c):
			report(fmt.Sprintf("%q is no capability", string(c)), suggest(string(c), Capabilities()))
		case slices.Contains(given[:i], c):
			report(fmt.Sprintf("the capability %q is given twice", string(c)), "remove one")
		}
	}
	if len(given) > 1 && slices.Contains(given, Deny) {
		report(`"deny" takes everything away, so the other capabilities are without effect`, `write either ["deny"] or the others`)
	}
	return problems
}

func nameProblem(name string) string {
	switch {
	case name == "":
		return "the policy has no name"
	case name == Root:
		return fmt.Sprintf("the policy %q is built in, allows everything and cannot be replaced: choose another name", name)
	case len(name) > maxName:
		return fmt.Sprintf("the policy's name has %d bytes, the limit is %d", len(name), maxName)
	case strings.ContainsAny(name, "/ \t\r\n"):
		return fmt.Sprintf("the policy's name %q contains a slash or white space", name)
	}
	return ""
}

// suggest names the likeliest of the known words, or all of them.
func suggest[T ~string](given string, known []T) string {
	const near = 3 // edits: enough for a missing underscore, a plural and a typing mistake
	best, distance := "", near+1
	for _, k := range known {
		d := levenshtein.Distance(strings.ToLower(given), string(k), nil)
		if d < distance && d < len(k) {
			best, distance = string(k), d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	words := make([]string, len(known))
	for i, k := range known {
		words[i] = string(k)
	}
	return "it is one of " + strings.Join(words, ", ")
}
