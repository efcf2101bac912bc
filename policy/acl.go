package policy

import (
	"cmp"
	"slices"
)

// Decision is what the policies say about one request.
type Decision struct {
	Allowed bool
	Policy  string // the policy that granted or denied it; where the rule is silent, one that has the rule
	Path    string // the rule's path, as written; empty if no rule matched
}

// ACL is a set of policies, compiled. It is immutable. A nil ACL allows nothing.
type ACL struct {
	exact map[string]*rule
	// wild holds the other rules by the literal text before their first wildcard.
	// As a later first wildcard wins, the longest literal that has a match decides;
	// within one, rules stand in their order of priority.
	wild    map[string][]*rule
	lengths []int // of the literals, longest first, each once
}

// rule is what all policies say about one path pattern.
type rule struct {
	pattern pattern
	policy  string                // the first policy that has the path
	granted map[Capability]string // by which policy first; Deny among them decides
}

// Compile unites policies that passed Validate: capabilities given for the same
// path add up, and one deny among them takes all away. A path pattern that is
// not valid matches no path that exists.
func Compile(policies []Policy) *ACL {
	byPath := map[string]*rule{}
	for _, p := range policies {
		for _, r := range p.Rules {
			united := byPath[r.Path]
			if united == nil {
				united = &rule{pattern: parsePattern(r.Path), policy: p.Name, granted: map[Capability]string{}}
				byPath[r.Path] = united
			}
			united.add(p.Name, r.Capabilities)
		}
	}
	return index(byPath)
}

func (r *rule) add(policy string, capabilities []Capability) {
	for _, c := range capabilities {
		if _, ok := r.granted[c]; !ok {
			r.granted[c] = policy
		}
	}
}

func index(rules map[string]*rule) *ACL {
	a := &ACL{exact: map[string]*rule{}, wild: map[string][]*rule{}}
	for path, r := range rules {
		if r.pattern.exact() {
			a.exact[path] = r
			continue
		}
		literal := r.pattern.literal()
		if a.wild[literal] == nil {
			a.lengths = append(a.lengths, len(literal))
		}
		a.wild[literal] = append(a.wild[literal], r)
	}
	for _, bucket := range a.wild {
		slices.SortFunc(bucket, func(x, y *rule) int { return y.pattern.compare(x.pattern) })
	}
	slices.SortFunc(a.lengths, func(x, y int) int { return cmp.Compare(y, x) })
	a.lengths = slices.Compact(a.lengths)
	return a
}

// Decide says whether capability c is allowed on path: the name of a secret, a
// folder ending in "/" (or "" for all) where names are listed, or a path below
// "sys/". What no rule grants is refused.
func (a *ACL) Decide(path string, c Capability) Decision {
	r := a.deciding(path)
	if r == nil {
		return Decision{}
	}
	if by, denied := r.granted[Deny]; denied {
		return Decision{Policy: by, Path: r.pattern.text}
	}
	if by, ok := r.granted[c]; ok {
		return Decision{Allowed: true, Policy: by, Path: r.pattern.text}
	}
	return Decision{Policy: r.policy, Path: r.pattern.text}
}

// deciding returns the most specific rule that matches path, or nil.
func (a *ACL) deciding(path string) *rule {
	if a == nil {
		return nil
	}
	if r := a.exact[path]; r != nil {
		return r
	}
	for _, n := range a.lengths {
		if n > len(path) {
			continue
		}
		for _, r := range a.wild[path[:n]] {
			if r.pattern.matches(path) {
				return r
			}
		}
	}
	return nil
}
