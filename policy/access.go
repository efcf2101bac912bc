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

// Rule grants capabilities on the paths that match Path.
type Rule struct {
	Path         string
	Capabilities []Capability
}

// Root is the name of the built-in policy that allows everything. No other
// policy can have it.
const Root = "root"

// Policy is a named set of rules.
type Policy struct {
	Name  string
	Rules []Rule
}

// Problem is one mistake in a policy.
type Problem struct {
	Rule       int    // which of Policy.Rules, from 0; -1 if it is not about one of them
	Attribute  string // where it stands: "path", "capabilities", "verify.successes"
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
	seen := map[string]bool{}
	for i, r := range p.Rules {
		if text, suggestion := patternProblem(r.Path); text != "" {
			problems = append(problems, Problem{Rule: i, Attribute: "path", Text: text, Suggestion: suggestion})
		} else if seen[r.Path] {
			problems = append(problems, Problem{
				Rule: i, Attribute: "path", Text: fmt.Sprintf("the path %q stands in this policy twice", r.Path),
				Suggestion: "put the capabilities into one block",
			})
		}
		seen[r.Path] = true
		problems = append(problems, capabilityProblems(i, r.Capabilities)...)
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
