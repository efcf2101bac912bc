package offline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
)

// Choice says which secrets are meant: what it says of several kinds must all hold, of
// names and patterns one must.
type Choice struct {
	Names    []string // TENANT:NAME, or NAME
	Patterns []string // policy paths
	Labels   map[string]string
	Tenant   string
	Backend  string
	Issuer   string // that made any of its versions
	Consumer string
	All      bool
	Versions []int // of the one secret that is named; empty: all
}

// Choose returns the versions that are meant. ErrInvalid if nothing is said, or wrongly;
// ErrNotFound if the kit knows nothing of a name, a version, or of anything that is meant.
func (k *Kit) Choose(c Choice) ([]Item, error) {
	given := len(c.Names)+len(c.Patterns)+len(c.Labels) > 0 || c.Tenant+c.Backend+c.Issuer+c.Consumer != ""
	if given == c.All {
		return nil, fmt.Errorf("%w: say either which secrets are meant, or that all are", backends.ErrInvalid)
	}
	patterns, err := compile(c.Patterns)
	if err != nil {
		return nil, err
	}
	named := map[backends.Ref]bool{}
	for _, name := range c.Names {
		named[refOf(name, c.Tenant)] = false
	}
	var items []Item
	for _, s := range k.Secrets {
		_, is := named[s.Ref()]
		if !c.means(s, is, patterns) {
			continue
		}
		if is {
			named[s.Ref()] = true
		}
		for _, v := range s.Versions {
			if len(c.Versions) == 0 || slices.Contains(c.Versions, v.Number) {
				items = append(items, Item{s, v})
			}
		}
	}
	for ref, found := range named {
		if !found {
			return nil, fmt.Errorf("%w: the kit knows of no secret %s with a version that may be alive", backends.ErrNotFound, ref)
		}
	}
	for _, n := range c.Versions {
		if !slices.ContainsFunc(items, func(i Item) bool { return i.Version.Number == n }) {
			return nil, fmt.Errorf("%w: the kit knows of no version %d that may be alive", backends.ErrNotFound, n)
		}
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("%w: the kit knows of no secret that is meant by that", backends.ErrNotFound)
	}
	return items, nil
}

// refOf reads a name as the command line has it.
func refOf(name, tenant string) backends.Ref {
	if of, rest, ok := strings.Cut(name, ":"); ok {
		return backends.Ref{Tenant: of, Name: rest}
	}
	return backends.Ref{Tenant: cmp.Or(tenant, backends.DefaultTenant), Name: name}
}

func compile(patterns []string) (*policy.ACL, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	meant := policy.Policy{Name: "selector"}
	for _, path := range patterns {
		meant.Rules = append(meant.Rules, policy.Rule{Path: path, Capabilities: []policy.Capability{policy.Emergency}})
	}
	if problems := policy.Validate(meant); len(problems) > 0 || meant.Templated() {
		return nil, fmt.Errorf("%w: a pattern is a path as in policies, such as payments/*", backends.ErrInvalid)
	}
	return policy.Compile([]policy.Policy{meant}, policy.Identity{}), nil
}

func (c Choice) means(s Secret, named bool, patterns *policy.ACL) bool {
	covered := patterns != nil && patterns.Decide(s.Name, policy.Emergency, policy.Facts{}).Allowed
	if len(c.Names)+len(c.Patterns) > 0 && !named && !covered {
		return false
	}
	for label, value := range c.Labels {
		if have, ok := s.Labels[label]; !ok || have != value {
			return false
		}
	}
	return (c.Tenant == "" || c.Tenant == s.Tenant) &&
		(c.Backend == "" || c.Backend == s.Backend || slices.Contains(s.Mirrors, c.Backend)) &&
		(c.Consumer == "" || slices.Contains(s.Consumers, c.Consumer)) &&
		(c.Issuer == "" || slices.ContainsFunc(s.Versions, func(v Version) bool { return v.Issuer == c.Issuer }))
}
