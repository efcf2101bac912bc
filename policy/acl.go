package policy

import (
	"cmp"
	"slices"
)

// Decision is what the policies say about one request.
type Decision struct {
	Allowed bool
	Policy  string // the policy that granted or denied it; where none did, one that has the rule
	Path    string // the rule's path, as written in that policy; empty if no rule matched
	// Unmet says why a rule that grants the capability does not hold, as in "outside
	// Mon-Fri 08:00-18:00 (Europe/Berlin)": by its conditions alone it was refused.
	// Empty if it was allowed, denied, or is granted by no rule of that path.
	Unmet string
}

// ACL is a set of policies, compiled for one identity. It is immutable and safe for
// concurrent use. A nil ACL allows nothing.
type ACL struct {
	secrets trie    // of the patterns that match secrets
	system  trie    // of those below "sys/"
	rules   []rule  // the one of rank n is at n-1
	entries []entry // of all rules
}

// rule is what all policies say about one path: its entries in the order in which
// they are asked.
type rule struct {
	from, to uint32 // in ACL.entries
	first    uint32 // the one of the first policy that has the path
}

// entry is what one policy says about a path.
type entry struct {
	policy string
	path   string // as the policy writes it
	when   *when  // nil: always
	what   capabilities
}

// Compile unites policies that passed Validate, for an identity that fills in
// their templates: capabilities given for the same path add up, and one deny among
// them that holds takes all away. A path that is not valid matches nothing. Of a
// rule whose conditions are not valid a grant never holds, and a deny always does.
func Compile(policies []Policy, id Identity) *ACL {
	c := compiler{byPath: map[string][]entry{}, conditions: map[string]*when{}}
	for _, p := range policies {
		for _, r := range p.Rules {
			if path, ok := fill(r.Path, id); ok {
				c.byPath[path] = append(c.byPath[path], c.entry(p.Name, r))
			}
		}
	}
	patterns := make([]pattern, 0, len(c.byPath))
	for path := range c.byPath {
		patterns = append(patterns, parsePattern(path))
	}
	slices.SortFunc(patterns, pattern.compare)
	a := &ACL{rules: make([]rule, 0, len(patterns))}
	var secrets, controls []ranked
	for _, p := range patterns {
		a.rules = append(a.rules, a.rule(c.byPath[p.text]))
		one := ranked{stem: p.stem(), trailing: p.trailing, rank: uint32(len(a.rules))}
		if system(p.text) {
			controls = append(controls, one)
		} else {
			secrets = append(secrets, one)
		}
	}
	a.secrets, a.system = newTrie(secrets), newTrie(controls)
	return a
}

type compiler struct {
	byPath     map[string][]entry // by path, filled in
	conditions map[string]*when   // each once, so that equal ones are known to be
}

func (c *compiler) entry(policy string, r Rule) entry {
	e := entry{policy: policy, path: r.Path, what: capabilitiesOf(r.Capabilities), when: c.when(r.Conditions)}
	if e.what&denial != 0 {
		e.what = denial
		if e.when != nil && e.when.broken {
			e.when = nil
		}
	}
	return e
}

func (c *compiler) when(conditions Conditions) *when {
	if conditions.always() {
		return nil
	}
	key := conditions.key()
	if c.conditions[key] == nil {
		c.conditions[key] = newWhen(conditions)
	}
	return c.conditions[key]
}

// rule takes over what policies say about one path, and puts it into the order in
// which the first that is about a request, and holds, decides: denials, what always
// holds, the rest. What an earlier one says under the same conditions is left out,
// so that ten thousand policies with the same rule are one entry.
func (a *ACL) rule(entries []entry) rule {
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int {
		return cmp.Or(
			compareBool(entries[y].what == denial, entries[x].what == denial),
			compareBool(entries[y].when == nil, entries[x].when == nil))
	})
	made := rule{from: uint32(len(a.entries))}
	said := map[*when]capabilities{}
	for _, i := range order {
		e := entries[i]
		e.what &^= said[e.when]
		said[e.when] |= e.what
		if i == 0 {
			made.first = uint32(len(a.entries))
		}
		if i == 0 || e.what != 0 {
			a.entries = append(a.entries, e)
		}
	}
	made.to = uint32(len(a.entries))
	return made
}

// Decide says whether capability c is allowed on path: the name of a secret, a
// folder ending in "/" (or "" for all) where names are listed, or a path below
// "sys/". What no rule grants is refused. It allocates nothing.
func (a *ACL) Decide(path string, c Capability, f Facts) Decision {
	rank := a.deciding(path)
	if rank == 0 {
		return Decision{}
	}
	r := a.rules[rank-1]
	entries := a.entries[r.from:r.to]
	var refused Decision
	asked := capabilityOf(c) | denial
	for i := range entries {
		e := &entries[i]
		if e.what&asked == 0 {
			continue
		}
		unmet := e.when.unmet(f)
		switch {
		case unmet == "":
			return Decision{Allowed: e.what != denial, Policy: e.policy, Path: e.path}
		case refused.Unmet == "" && e.what != denial:
			refused = Decision{Policy: e.policy, Path: e.path, Unmet: unmet}
		}
	}
	if refused.Unmet == "" {
		first := &a.entries[r.first]
		refused = Decision{Policy: first.policy, Path: first.path}
	}
	return refused
}

// deciding returns the rank of the most specific rule that matches path, or 0.
func (a *ACL) deciding(path string) uint32 {
	switch {
	case a == nil:
		return 0
	case system(path):
		return a.system.find(path)
	default:
		return a.secrets.find(path)
	}
}
