package config

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/policy"
)

// The types of triggers that are the broker's own; the others are in the registry.
const (
	TriggerAPI      = "api"      // an authenticated call of the native API
	TriggerInternal = "internal" // what the broker itself notices
)

const (
	defaultMaxSecrets = 5
	mostMaxSecrets    = 10_000
	defaultCooldown   = 10 * time.Minute
	leastCooldown     = time.Second
	mostCooldown      = 7 * day
	longestReason     = 512 // bytes
)

// triggerSpec is what triggers of all types have in common.
type triggerSpec struct {
	Tenant     string        `hcl:"tenant,optional"`
	Action     Action        `hcl:"action"`
	Secrets    []string      `hcl:"secrets,optional"`
	MaxSecrets int           `hcl:"max_secrets,optional"`
	Cooldown   time.Duration `hcl:"cooldown,optional"`
	Reason     string        `hcl:"reason,optional"`
	Match      *struct {
		Paths  []string          `hcl:"paths,optional"`
		Labels map[string]string `hcl:"labels,optional"`
	} `hcl:"match,block"`
}

// internalSpec is what a trigger of the type internal says beside.
type internalSpec struct {
	On        []string   `hcl:"on,optional"`
	Threshold *Threshold `hcl:"threshold,block"`
}

// vaultNamer is the Config of a type of trigger whose events name secrets as a vault
// does: that of a backend of that type.
type vaultNamer interface {
	Vault() (backend, ofType string)
}

// trigger decodes who may start something from outside, or what does from within.
func (l *loader) trigger(b *hclsyntax.Block) {
	types := map[string]Type{
		TriggerAPI:      {New: func() any { return &struct{}{} }},
		TriggerInternal: {New: func() any { return &internalSpec{} }},
	}
	maps.Copy(types, l.reg.Triggers)
	spec := triggerSpec{MaxSecrets: defaultMaxSecrets, Cooldown: defaultCooldown, Action: ActionRotate}
	n, _, ok := typed(l, "trigger", types, itself, b, &spec)
	if !ok {
		return
	}
	l.belongs(b, spec.Tenant)
	t := &Trigger{Named: n, Tenant: spec.Tenant, Action: spec.Action, Secrets: spec.Secrets, MaxSecrets: spec.MaxSecrets, Cooldown: spec.Cooldown, Reason: spec.Reason}
	if spec.Match != nil {
		t.Match = policy.Match{Paths: spec.Match.Paths, Labels: spec.Match.Labels}
	}
	l.cfg.Triggers = append(l.cfg.Triggers, t)
	l.bounded(b, t)
	l.covered(b, t)
	switch cfg := n.Config.(type) {
	case *internalSpec:
		t.On, t.Threshold = cfg.On, cfg.Threshold
		l.internal(b, t)
	case vaultNamer:
		l.named(b, cfg)
	}
	if n.Type == TriggerAPI && len(t.Secrets) == 0 && t.everything() && !written(b, "secrets") && !l.unknown[b.DefRange()] {
		l.mistake(b.DefRange(), `The attribute "secrets" is missing`, `A trigger of the API acts on the secrets that it covers: write secrets = ["…"] or match { … }.`)
	}
}

// bounded checks what a trigger does, and how much of it.
func (l *loader) bounded(b *hclsyntax.Block, t *Trigger) {
	if where := at(b, "action"); written(b, "action") && !l.spoilt(where) && t.Action != ActionRotate && t.Action != ActionEmergency {
		l.mistake(where, fmt.Sprintf("There is no action %q", string(t.Action)), suggest(string(t.Action), []string{string(ActionRotate), string(ActionEmergency)}))
	}
	if where := at(b, "max_secrets"); !l.spoilt(where) && (t.MaxSecrets < 1 || t.MaxSecrets > mostMaxSecrets) {
		l.mistake(where, fmt.Sprintf("A trigger acts on 1 to %d secrets within its cooldown, not on %d", mostMaxSecrets, t.MaxSecrets),
			fmt.Sprintf("Write how many it may touch before people are asked, or leave it out for %d.", defaultMaxSecrets))
	}
	if where := at(b, "cooldown"); !l.spoilt(where) && (t.Cooldown < leastCooldown || t.Cooldown > mostCooldown) {
		l.mistake(where, fmt.Sprintf("A cooldown is from %s to 7 days long", leastCooldown), `Write for instance cooldown = "10m".`)
	}
	if where := at(b, "reason"); len(t.Reason) > longestReason {
		l.mistake(where, fmt.Sprintf("The reason is longer than %d bytes", longestReason), "It stands in every rotation and incident: write one line.")
	}
}

// covered checks on which secrets a trigger acts.
func (l *loader) covered(b *hclsyntax.Block, t *Trigger) {
	match := blockOf(b, "match")
	if match != nil && len(t.Match.Paths) == 0 && len(t.Match.Labels) == 0 && !l.obscure(match.DefRange()) {
		l.mistake(match.DefRange(), "The match is empty", "Add paths or labels, or leave the block out.")
	}
	var rules []policy.Rule
	check := func(b *hclsyntax.Block, attribute string, paths []string) {
		own := policy.Policy{Name: t.Name}
		for _, path := range paths {
			own.Rules = append(own.Rules, policy.Rule{Path: path, Capabilities: []policy.Capability{policy.Rotate}})
		}
		for _, problem := range policy.Validate(own) {
			l.problem(element(b, attribute, problem.Rule), problem)
		}
		for i, rule := range own.Rules {
			if (policy.Policy{Rules: []policy.Rule{rule}}).Templated() {
				l.mistake(element(b, attribute, i), fmt.Sprintf("The path %q depends on who asks, which a trigger does not", rule.Path), "Write the paths of the secrets themselves.")
			}
		}
		rules = append(rules, own.Rules...)
	}
	check(b, "secrets", t.Secrets)
	if match != nil {
		check(match, "paths", t.Match.Paths)
	}
	if len(rules) > 0 || written(b, "secrets") {
		t.acl = policy.Compile([]policy.Policy{{Name: t.Name, Rules: rules}}, policy.Identity{})
	}
}

// internal checks what the broker is to notice.
func (l *loader) internal(b *hclsyntax.Block, t *Trigger) {
	for i, kind := range t.On {
		switch {
		case !slices.Contains(client.SecretAlertKinds, kind) && slices.Contains(client.AlertKinds, kind):
			l.mistake(element(b, "on", i), fmt.Sprintf("The kind %q is of no single secret that a trigger could act on", kind), suggest("", client.SecretAlertKinds))
		case !slices.Contains(client.SecretAlertKinds, kind):
			l.mistake(element(b, "on", i), fmt.Sprintf("There is no kind of alert %q", kind), suggest(kind, client.SecretAlertKinds))
		case slices.Contains(t.On[:i], kind):
			l.mistake(element(b, "on", i), fmt.Sprintf("The kind %q is listed twice", kind), "Remove one.")
		}
	}
	inner := blockOf(b, "threshold")
	if inner == nil && len(t.On) == 0 && !l.spoilt(at(b, "on")) && !l.unknown[b.DefRange()] {
		l.mistake(b.DefRange(), "The trigger notices nothing", `Write on = ["resurrected"], or threshold { reads_per_minute = … }.`)
	}
	if inner == nil || l.unknown[inner.DefRange()] {
		return
	}
	if t.Threshold.ReadsPerMinute == nil && t.Threshold.DeniedPerMinute == nil {
		l.mistake(inner.DefRange(), "The threshold is empty", "Write reads_per_minute or denied_per_minute.")
	}
	for name, most := range map[string]*int{"reads_per_minute": t.Threshold.ReadsPerMinute, "denied_per_minute": t.Threshold.DeniedPerMinute} {
		if most != nil && *most < 1 && !l.spoilt(at(inner, name)) {
			l.mistake(at(inner, name), fmt.Sprintf("%s is %d, which is reached all the time", name, *most), "Write how many are still usual, of one secret on one node.")
		}
	}
}

// named checks the backend by whose names events name secrets.
func (l *loader) named(b *hclsyntax.Block, cfg vaultNamer) {
	backend, ofType := cfg.Vault()
	where := at(b, "backend")
	if backend == "" || l.spoilt(where) || !l.refer("backend", backend, where) {
		return
	}
	if other := l.declared["backend"][backend]; firstLabel(other) != ofType {
		l.mistake(where, fmt.Sprintf("The backend %q is of the type %q, and these events are about one of the type %q", backend, firstLabel(other), ofType), "Name another backend, or leave it out.")
		return
	}
	l.within("backend", backend, where, b)
}

// Covers tells whether the trigger may act on the secret called name that has these labels.
func (t *Trigger) Covers(name string, labels map[string]string) bool {
	for key, value := range t.Match.Labels {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return t.acl == nil || t.acl.Decide(name, policy.Rotate, policy.Facts{}).Allowed
}

// everything tells whether nothing bounds which secrets the trigger may act on.
func (t *Trigger) everything() bool { return t.acl == nil && len(t.Match.Labels) == 0 }
