package config

import (
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/policy"
)

// unused warns of what is right but does nothing. It is asked only where there is
// no mistake: else it would report what follows from one.
func (l *loader) unused(doc document, whole hcl.Range) {
	l.unusedAccess()
	l.untold(doc.Listener)
	if len(l.cfg.Secrets) == 0 {
		start := hcl.Range{Filename: whole.Filename, Start: hcl.InitialPos, End: hcl.InitialPos}
		l.warn(start, "The configuration declares no secret", `There is nothing to rotate: write secret "NAME" { … }.`)
		return
	}
	for _, s := range l.cfg.Secrets {
		if s.Issuer == "" && blockOf(s.block, "rotation") == nil {
			l.warn(s.Range, "The secret has no issuer: nobody can rotate or fill it", `Add issuer "NAME" {}.`)
		}
	}
	l.pairs()
	for i, b := range doc.RotationPolicies {
		if match := blockOf(b, "match"); match != nil {
			l.unusedMatch(match, l.cfg.RotationPolicies[i].Match, "")
		}
	}
	for i, b := range doc.Triggers {
		if t := l.cfg.Triggers[i]; len(t.Secrets) == 0 && len(t.Match.Paths) == 0 { // else these are said to match nothing
			l.unusedTenant(b, t.Tenant)
		}
		for n, path := range l.cfg.Triggers[i].Secrets {
			l.unusedPath(element(b, "secrets", n), path, l.cfg.Triggers[i].Tenant)
		}
		if match := blockOf(b, "match"); match != nil {
			l.unusedMatch(match, l.cfg.Triggers[i].Match, l.cfg.Triggers[i].Tenant)
		}
	}
}

// pairs warns of pairs that are none, and of those whose secrets stand in each other's
// way.
func (l *loader) pairs() {
	type pair struct{ tenant, name string }
	members := map[pair][]*Secret{}
	for _, s := range l.cfg.Secrets {
		if s.Pair != "" && s.Issuer != "" {
			p := pair{s.Ref.Tenant, s.Pair}
			members[p] = append(members[p], s)
		}
	}
	for p, secrets := range members {
		first := at(secrets[0].block, "pair")
		if len(secrets) == 1 {
			l.warn(first, fmt.Sprintf("The pair %q has one secret alone", p.name),
				fmt.Sprintf("Give another secret of the tenant %q the same pair, or leave it out.", p.tenant))
			continue
		}
		busy := 0.0
		for _, s := range secrets {
			busy += l.cfg.timings.share(l.cfg.Resolve(s).Rotation)
		}
		if busy >= 1 {
			l.warn(first, fmt.Sprintf("The overlaps of the %d secrets of the pair %q leave no time: they are due more often than they can follow one another", len(secrets), p.name),
				"What becomes due in the overlap of another waits: shorten the overlaps or rotate less often.")
		}
	}
}

// unusedAccess warns of what is there for nobody.
func (l *loader) unusedAccess() {
	bound, granted, told := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range l.cfg.Roles {
		for _, b := range r.Bindings {
			bound[b.Method] = true
		}
		for _, name := range r.Policies {
			granted[name] = true
		}
		l.unusedRole(r)
		l.namesakes(r)
	}
	for _, a := range l.cfg.Auths {
		if !bound[a.Name] {
			l.warn(a.Range, fmt.Sprintf("Nobody comes in by the auth %q: no role binds it", a.Name), fmt.Sprintf("Write bind %q { … } in a role.", a.Name))
		} else if a.Type == authCertificate && !l.cfg.Listener.TLS() {
			l.warn(a.Range, fmt.Sprintf("Nobody comes in by the auth %q: over plain HTTP nobody shows a certificate", a.Name), "Set the listener's tls_cert_file and tls_key_file.")
		}
	}
	for _, p := range l.cfg.Policies {
		l.idle(p)
		if len(l.cfg.Roles) > 0 && !granted[p.Name] {
			l.warn(l.declared["policy"][p.Name].DefRange(), fmt.Sprintf("No role names the policy %q: only tokens that are made with it have it", p.Name), "Name it in a role, or remove it.")
		}
	}
	for _, a := range l.cfg.Alerts {
		l.unusedAlert(a)
		told[a.Notifier] = true
		if a.Escalate != nil {
			told[a.Escalate.Notifier] = true
		}
	}
	for _, n := range l.cfg.Notifiers {
		if !told[n.Name] {
			l.warn(n.Range, fmt.Sprintf("The notifier %q tells nobody: no alert names it", n.Name), fmt.Sprintf("Write notifier = %q in an alert.", n.Name))
		}
	}
}

// idle warns of rules for what nobody ever asks for.
func (l *loader) idle(p policy.Policy) {
	var rules []*hclsyntax.Block
	for _, b := range l.declared["policy"][p.Name].Body.Blocks {
		if b.Type == "path" {
			rules = append(rules, b)
		}
	}
	for _, problem := range policy.Idle(p) {
		where := at(rules[problem.Rule], problem.Attribute)
		if problem.Attribute == "path" {
			where = labelRange(rules[problem.Rule], 0)
		}
		l.warn(where, summary(problem.Text), sentence(problem.Suggestion))
	}
}

// unusedAlert warns of what is never told.
func (l *loader) unusedAlert(a *Alert) {
	b := l.declared["alert"][a.Name]
	for i, kind := range a.On {
		own := func(b *Backend) bool { return b.Tenant == a.Tenant }
		switch {
		case a.Tenant == "":
		case slices.Contains(ofNoTenant, kind):
			l.warn(element(b, "on", i), fmt.Sprintf("The alert is never told of %q: that is of no tenant", kind), "Leave it out, or name it in an alert without a tenant.")
		case kind == "backend_down" && !slices.ContainsFunc(l.cfg.Backends, own):
			l.warn(element(b, "on", i), fmt.Sprintf("The alert is never told of %q: the tenant %q has no backend of its own", kind, a.Tenant),
				"Leave it out, or name it in an alert without a tenant.")
		}
	}
	for _, n := range l.cfg.Notifiers {
		if a.Heartbeat > 0 && n.Name == a.Notifier && n.NoHeartbeat {
			l.warn(at(b, "heartbeat"), fmt.Sprintf("Nobody notices where a heartbeat stays away: the notifier %q is of the type %q, which cannot tell", n.Name, n.Type),
				"Send it to one that can, such as a webhook of a service that watches jobs, or leave it out.")
		}
	}
}

// unusedRole warns of walls that every secret is behind.
func (l *loader) unusedRole(r *Role) {
	reached := func(s *Secret) bool {
		h := policy.Holding{Tenant: s.Ref.Tenant, Environment: s.Labels[EnvironmentLabel]}
		for _, v := range l.cfg.keepers(s) {
			h.Declared = append(h.Declared, v.Environments)
		}
		return r.Walls().Reaches(h)
	}
	if len(l.cfg.Secrets) > 0 && !slices.ContainsFunc(l.cfg.Secrets, reached) {
		l.warn(r.Range, fmt.Sprintf("The role %q reaches no secret: none is of its tenant and environment", r.Name),
			fmt.Sprintf("A secret's environment is its label %q; what has none is in no environment.", EnvironmentLabel))
	}
}

// namesakes warns of policies that go by the name of who calls, where others may come
// to have the same name.
func (l *loader) namesakes(r *Role) {
	byName := func(p policy.Policy) bool {
		return slices.Contains(r.Policies, p.Name) && policy.Identity{Name: "x"}.Used([]policy.Policy{p}).Name != ""
	}
	i := slices.IndexFunc(l.cfg.Policies, byName)
	if i < 0 {
		return
	}
	const mend = `Grant by {{identity.role}} or {{identity.tenant}} instead, or let who has a name come in one way only, by "sub".`
	what := fmt.Sprintf("The policy %q of the role %q grants by {{identity.name}}", l.cfg.Policies[i].Name, r.Name)
	var methods []string
	for _, b := range r.Bindings {
		if slices.Contains(methods, b.Method) {
			continue
		}
		methods = append(methods, b.Method)
		claim := l.declared["auth"][b.Method].Body.Attributes["name_claim"]
		if claim == nil {
			continue
		}
		val, _ := l.constant("name_claim", claim.Expr)
		if from, ok := oneOrMany(val); ok && from[0] != "sub" {
			l.warn(r.Range, fmt.Sprintf("%s, which the auth %q takes from the claim %q: who can change that takes another's place", what, b.Method, from[0]), mend)
		}
	}
	if len(methods) > 1 {
		l.warn(r.Range, fmt.Sprintf("%s, and two who come in by different auths, %q and %q, may have the same", what, methods[0], methods[1]), mend)
	}
}

// untold warns of a node for others of which nobody hears when something is wrong.
func (l *loader) untold(listener *hclsyntax.Block) {
	rotates := slices.ContainsFunc(l.cfg.Secrets, func(s *Secret) bool { return s.Issuer != "" })
	if rotates && len(l.cfg.Alerts) == 0 && !loopback(l.cfg.Listener.Address) {
		l.warn(at(listener, "address"), "Nobody is told when something is wrong, such as a revoked credential that still works",
			`Write notifier "TYPE" "NAME" { … } and alert "NAME" { notifier = … }.`)
	}
}

func (l *loader) unusedMatch(b *hclsyntax.Block, m policy.Match, tenant string) {
	if len(m.Paths) == 0 && len(m.Labels) == 0 {
		l.warn(b.DefRange(), "The match is empty: the policy is for every secret",
			"Add paths or labels, or leave the block out if that is meant.")
	}
	for n, path := range m.Paths {
		l.unusedPath(element(b, "paths", n), path, tenant)
	}
	for _, s := range l.cfg.Secrets {
		if labelled(s, m.Labels) {
			return
		}
	}
	l.warn(at(b, "labels"), "The labels match no secret of the configuration", "A secret must have all of them.")
}

// unusedTenant warns of a trigger whose tenant has no secret.
func (l *loader) unusedTenant(b *hclsyntax.Block, tenant string) {
	has := func(s *Secret) bool { return s.Ref.Tenant == tenant }
	if tenant != "" && len(l.cfg.Secrets) > 0 && !slices.ContainsFunc(l.cfg.Secrets, has) {
		l.warn(at(b, "tenant"), fmt.Sprintf("The tenant %q has no secret, so that events match nothing", tenant), "Name the tenant of the secrets, or leave it out for all.")
	}
}

// unusedPath warns of a path that no secret has; with a tenant, none of that tenant.
func (l *loader) unusedPath(where hcl.Range, path, tenant string) {
	acl := policy.Compile([]policy.Policy{{Rules: []policy.Rule{{Path: path, Capabilities: []policy.Capability{policy.Rotate}}}}}, policy.Identity{})
	var names []string
	for _, s := range l.cfg.Secrets {
		if tenant != "" && tenant != s.Ref.Tenant {
			continue
		}
		if names = append(names, s.Ref.Name); acl.Decide(s.Ref.Name, policy.Rotate, policy.Facts{}).Allowed {
			return
		}
	}
	whose := "the configuration"
	if tenant != "" {
		whose = fmt.Sprintf("the tenant %q", tenant)
	}
	l.warn(where, fmt.Sprintf("The path %q matches no secret of %s", path, whose), suggest(path, names))
}

func labelled(s *Secret, labels map[string]string) bool {
	for k, v := range labels {
		if have, ok := s.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
