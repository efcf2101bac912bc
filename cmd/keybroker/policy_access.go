package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/policy"
)

// access answers questions about who may do what by a configuration, as a node that
// has it would.
type access struct{ cfg *config.Config }

// question is about one request.
type question struct {
	role        string
	name        string // of who has the role, for {{identity.name}}
	path        string // of a secret, or below sys/; TENANT:NAME where several tenants have a secret of that name
	capability  policy.Capability
	environment string     // of the secret; empty: what its label says
	address     netip.Addr // of who asks; invalid: not said
	at          time.Time
}

// answer says what a node would do, and by what.
type answer struct {
	Allowed    bool              `json:"allowed"`
	Role       string            `json:"role"`
	Path       string            `json:"path"`
	Capability policy.Capability `json:"capability"`
	Why        string            `json:"why"`
	Policy     string            `json:"policy,omitempty"` // that decided
	Rule       string            `json:"rule,omitempty"`   // its path, as written
	File       string            `json:"file,omitempty"`   // of the rule
	Line       int               `json:"line,omitempty"`
	Unmet      string            `json:"unmet,omitempty"` // conditions of a rule that would grant it
	Walls      []string          `json:"walls,omitempty"` // of the role, whatever its policies say
	Needs      []string          `json:"needs,omitempty"` // what must be so as well, and cannot be told from here
	Unknown    bool              `json:"unknown_secret,omitempty"`
}

// where is the rule's place.
func (w answer) where() string {
	if w.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", w.File, w.Line)
}

func (x *access) ask(q question) (answer, error) {
	role, err := x.role(q.role)
	if err != nil {
		return answer{}, err
	}
	secret, err := x.secret(q.path, role.Tenant)
	if err != nil {
		return answer{}, err
	}
	if q.environment == "" && secret != nil {
		q.environment = secret.Labels[policy.EnvironmentLabel]
	}
	_, path := named(q.path)
	acl := policy.Compile(x.policies(role.Policies), policy.Identity{Tenant: role.Tenant, Role: role.Name, Name: q.name, Environment: role.Environment})
	d := acl.Decide(path, q.capability, policy.Facts{Environment: q.environment, Address: q.address, At: q.at})
	out := answer{Allowed: d.Allowed, Role: role.Name, Path: q.path, Capability: q.capability, Policy: d.Policy, Rule: d.Path, Unmet: d.Unmet, Why: x.why(d)}
	if at, ok := x.cfg.RuleRange(d.Policy, d.Path); ok {
		out.File, out.Line = at.Filename, at.Start.Line
	}
	out.Unknown = secret == nil && !controls(path)
	if controls(path) {
		out.behind(before(role.Walls(), q), "")
	} else {
		out.behind(x.walls(role.Walls(), secret, q))
	}
	out.behind(from(role, q.address))
	return out, nil
}

// behind adds a wall, which refuses, and what else is needed.
func (w *answer) behind(wall, need string) {
	if wall != "" {
		w.Walls, w.Allowed = append(w.Walls, wall), false
	}
	if need != "" {
		w.Needs = append(w.Needs, need)
	}
}

func (x *access) role(name string) (*policy.Role, error) {
	known := make([]string, len(x.cfg.Roles))
	for i, r := range x.cfg.Roles {
		if known[i] = r.Name; r.Name == name {
			return &r.Role, nil
		}
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("there is no role %q: the configuration has none at all", name)
	}
	return nil, fmt.Errorf("there is no role %q: the configuration has %s", name, strings.Join(known, ", "))
}

func (x *access) policies(names []string) []policy.Policy {
	var all []policy.Policy
	for _, name := range names {
		if name == policy.Root {
			all = append(all, policy.RootPolicy())
		}
		for _, p := range x.cfg.Policies {
			if p.Name == name {
				all = append(all, p)
			}
		}
	}
	return all
}

// secret finds the one that a path is about to a role of that tenant, if the
// configuration has it: first of the role's own tenant, then of others.
func (x *access) secret(path, tenant string) (*config.Secret, error) {
	of, name := named(path)
	qualified := of != ""
	if !qualified {
		of = tenant
	}
	var own, others []*config.Secret
	for _, s := range x.cfg.Secrets {
		switch {
		case s.Ref.Name != name:
		case s.Ref.Tenant == of:
			own = append(own, s)
		default:
			others = append(others, s)
		}
	}
	switch {
	case len(own) > 0:
		return own[0], nil
	case qualified || len(others) == 0:
		return nil, nil
	case tenant == "" && len(others) > 1:
		return nil, fmt.Errorf("several tenants have a secret %q: say TENANT:%s", name, name)
	}
	return others[0], nil
}

// named parts TENANT:NAME; tenant is empty where none is said.
func named(path string) (tenant, name string) {
	if of, name, ok := strings.Cut(path, ":"); ok && !controls(path) {
		return of, name
	}
	return "", path
}

// controls tells whether a path leads to no secret but to the broker's own controls.
func controls(path string) bool { return path == "sys" || strings.HasPrefix(path, "sys/") }

// before says what keeps a role from one of the broker's own controls.
func before(w policy.Walls, q question) string {
	switch w.Before(q.path, q.capability) {
	case policy.TenantWall:
		return fmt.Sprintf("it concerns all tenants, and the role is bound to %q", w.Tenant)
	case policy.EnvironmentWall:
		return fmt.Sprintf("it concerns all environments, and the role is bound to %q", w.Environment)
	}
	return ""
}

// walls says what keeps a role from a secret, which is nil where the configuration
// does not have it, and what else is needed.
func (x *access) walls(w policy.Walls, secret *config.Secret, q question) (wall, need string) {
	if secret == nil {
		return unknownSecret(w, q)
	}
	h := policy.Holding{Tenant: secret.Ref.Tenant, Environment: q.environment}
	for _, b := range x.cfg.Backends {
		if b.Name == secret.Backend || slices.Contains(secret.Mirrors, b.Name) {
			h.Declared = append(h.Declared, b.Environments)
		}
	}
	switch w.Between(h) {
	case policy.TenantWall:
		return fmt.Sprintf("the secret is of the tenant %q, the role of %q", h.Tenant, w.Tenant), ""
	case policy.EnvironmentWall:
		return fmt.Sprintf("the role is bound to the environment %q, the secret %s", w.Environment, labelled(q.environment)), ""
	case policy.BackendWall:
		return fmt.Sprintf("the role is bound to the environment %q, which not every backend of the secret declares", w.Environment), ""
	}
	return "", ""
}

func labelled(environment string) string {
	if environment == "" {
		return "has no label environment"
	}
	return fmt.Sprintf("is labelled %q", environment)
}

// unknownSecret is walls for a secret that the configuration does not have: one made
// by the API, or a folder that is listed.
func unknownSecret(w policy.Walls, q question) (wall, need string) {
	var needs []string
	if of, _ := named(q.path); of != "" && w.Tenant != "" && of != w.Tenant {
		return fmt.Sprintf("the secret is of the tenant %q, the role of %q", of, w.Tenant), ""
	}
	if w.Tenant != "" {
		needs = append(needs, fmt.Sprintf("is of the tenant %q", w.Tenant))
	}
	if w.Environment != "" {
		if q.environment != "" && q.environment != w.Environment {
			return fmt.Sprintf("the role is bound to the environment %q, the secret %s", w.Environment, labelled(q.environment)), ""
		}
		needs = append(needs, fmt.Sprintf("is labelled environment = %q", w.Environment), "is only in backends that declare it")
	}
	if len(needs) == 0 {
		return "", ""
	}
	return "", "the secret, which the configuration does not have, " + strings.Join(needs, ", and ")
}

// from says whether the role may be used from an address.
func from(role *policy.Role, address netip.Addr) (wall, need string) {
	var ranges []string
	for _, p := range role.CIDRs {
		ranges = append(ranges, p.String())
	}
	switch {
	case len(ranges) == 0, address.IsValid() && role.Admits(address):
		return "", ""
	case address.IsValid():
		return fmt.Sprintf("the role is for callers from %s, not %s", strings.Join(ranges, ", "), address), ""
	}
	return "", "the caller's address is in " + strings.Join(ranges, ", ")
}

// why says in a sentence what the policies decided, and by what.
func (x *access) why(d policy.Decision) string {
	by := fmt.Sprintf("policy %q, by its path %q", d.Policy, d.Path)
	switch {
	case d.Path == "":
		return "no policy of the role has a path that matches"
	case d.Allowed:
		return by + ", grants it"
	case d.Unmet != "":
		return by + ", would grant it, but does not hold: " + d.Unmet
	case x.denies(d):
		return by + ", denies it"
	}
	return by + ", is the most specific and does not grant it"
}

func (x *access) denies(d policy.Decision) bool {
	for _, p := range x.policies([]string{d.Policy}) {
		for _, r := range p.Rules {
			if r.Path == d.Path && slices.Contains(r.Capabilities, policy.Deny) {
				return true
			}
		}
	}
	return false
}
