package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/policy"
)

// unused warns of what is right but does nothing. It is asked only where there is
// no mistake: else it would report what follows from one.
func (l *loader) unused(doc document, whole hcl.Range) {
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
	for i, b := range doc.RotationPolicies {
		if match := blockOf(b, "match"); match != nil {
			l.unusedMatch(match, l.cfg.RotationPolicies[i].Match)
		}
	}
	for i, b := range doc.Triggers {
		for n, path := range l.cfg.Triggers[i].Secrets {
			l.unusedPath(element(b, "secrets", n), path)
		}
	}
}

func (l *loader) unusedMatch(b *hclsyntax.Block, m policy.Match) {
	if len(m.Paths) == 0 && len(m.Labels) == 0 {
		l.warn(b.DefRange(), "The match is empty: the policy is for every secret",
			"Add paths or labels, or leave the block out if that is meant.")
	}
	for n, path := range m.Paths {
		l.unusedPath(element(b, "paths", n), path)
	}
	for _, s := range l.cfg.Secrets {
		if labelled(s, m.Labels) {
			return
		}
	}
	l.warn(at(b, "labels"), "The labels match no secret of the configuration", "A secret must have all of them.")
}

func (l *loader) unusedPath(where hcl.Range, path string) {
	acl := policy.Compile([]policy.Policy{{Rules: []policy.Rule{{Path: path, Capabilities: []policy.Capability{policy.Rotate}}}}})
	names := make([]string, len(l.cfg.Secrets))
	for i, s := range l.cfg.Secrets {
		if names[i] = s.Ref.Name; acl.Decide(s.Ref.Name, policy.Rotate).Allowed {
			return
		}
	}
	l.warn(where, fmt.Sprintf("The path %q matches no secret of the configuration", path), suggest(path, names))
}

func labelled(s *Secret, labels map[string]string) bool {
	for k, v := range labels {
		if have, ok := s.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
