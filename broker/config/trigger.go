package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/policy"
)

// trigger decodes who may start something from outside.
func (l *loader) trigger(b *hclsyntax.Block) {
	var spec struct {
		Type    string   `hcl:"type,label"`
		Name    string   `hcl:"name,label"`
		Tenant  string   `hcl:"tenant,optional"`
		Action  Action   `hcl:"action"`
		Secrets []string `hcl:"secrets"`
	}
	known := firstLabel(b) == "api"
	targets := []any{&spec}
	if !known {
		targets = append(targets, anything{})
		spec.Action = ActionRotate
	}
	good := l.block(b, targets...)
	if len(b.Labels) != 2 || !l.declare("trigger", spec.Name, b, b.LabelRanges[1]) ||
		!l.oneOf("trigger", b, spec.Type, "api") {
		return
	}
	l.belongs(b, spec.Tenant)
	if !good {
		return
	}
	if spec.Action != ActionRotate && spec.Action != ActionEmergency {
		l.mistake(at(b, "action"), fmt.Sprintf("There is no action %q", string(spec.Action)),
			suggest(string(spec.Action), []string{string(ActionRotate), string(ActionEmergency)}))
	}
	covered := policy.Policy{Name: spec.Name}
	for _, path := range spec.Secrets {
		covered.Rules = append(covered.Rules, policy.Rule{Path: path, Capabilities: []policy.Capability{policy.Rotate}})
	}
	for _, problem := range policy.Validate(covered) {
		l.problem(element(b, "secrets", problem.Rule), problem)
	}
	for i, rule := range covered.Rules {
		if (policy.Policy{Rules: []policy.Rule{rule}}).Templated() {
			l.mistake(element(b, "secrets", i), fmt.Sprintf("The path %q depends on who asks, which a trigger does not", rule.Path), "Write the paths of the secrets themselves.")
		}
	}
	l.cfg.Triggers = append(l.cfg.Triggers, &Trigger{
		Type: spec.Type, Name: spec.Name, Tenant: spec.Tenant, Action: spec.Action, Secrets: spec.Secrets, Range: b.DefRange(),
		acl: policy.Compile([]policy.Policy{covered}, policy.Identity{}),
	})
}
