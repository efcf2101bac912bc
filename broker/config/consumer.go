package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/webhook"
)

func (l *loader) consumer(b *hclsyntax.Block) {
	var spec struct {
		Name    string           `hcl:"name,label"`
		Tenant  string           `hcl:"tenant,optional"`
		Role    string           `hcl:"role,optional"`
		Webhook *hclsyntax.Block `hcl:"webhook,block"`
	}
	spec.Tenant = backends.DefaultTenant
	good := l.block(b, &spec)
	if len(b.Labels) != 1 || !l.declare("consumer", spec.Name, b, b.LabelRanges[0]) {
		return
	}
	c := &Consumer{Name: spec.Name, Tenant: spec.Tenant, Role: spec.Role, Range: b.DefRange()}
	l.cfg.Consumers = append(l.cfg.Consumers, c)
	l.belongs(b, spec.Tenant)
	if spec.Role != "" && l.refer("role", spec.Role, at(b, "role")) {
		l.readers[c.Name] = l.roles[spec.Role]
		l.readsAs(b, spec.Role)
	}
	if !good {
		return
	}
	if spec.Webhook == nil {
		l.mistake(b.DefRange(), fmt.Sprintf("The consumer %q has no webhook", spec.Name), "Add webhook { url = … }.")
		return
	}
	c.Webhook = l.webhook(spec.Webhook)
}

func (l *loader) webhook(b *hclsyntax.Block) Webhook {
	var spec struct {
		URL                 string                `hcl:"url"`
		Payload             webhook.Payload       `hcl:"payload,optional"`
		SigningSecret       backends.SecretString `hcl:"signing_secret,optional"`
		SigningSecretFile   string                `hcl:"signing_secret_file,optional"`
		AllowPrivateNetwork bool                  `hcl:"allow_private_network,optional"`
	}
	spec.Payload = webhook.Reference
	good := l.block(b, &spec)
	w := Webhook{
		Endpoint:          webhook.Endpoint{URL: spec.URL, AllowPrivate: spec.AllowPrivateNetwork, Payload: spec.Payload},
		SigningSecret:     spec.SigningSecret,
		SigningSecretFile: spec.SigningSecretFile,
	}
	if !good {
		return w
	}
	switch spec.Payload {
	case webhook.Plain, webhook.Reference:
		l.webhookURL(b, w.Endpoint)
	default:
		l.mistake(at(b, "payload"), fmt.Sprintf("There is no payload %q", string(spec.Payload)),
			suggest(string(spec.Payload), []string{string(webhook.Reference), string(webhook.Plain)}))
	}
	if spec.SigningSecret != "" && spec.SigningSecretFile != "" {
		l.mistake(at(b, "signing_secret_file"), "There are two signing secrets", "Write signing_secret or signing_secret_file, or neither: then one is made.")
	}
	if spec.SigningSecret != "" && !l.opts.Offline {
		if _, err := webhook.NewSigner(spec.SigningSecret); err != nil {
			l.mistake(at(b, "signing_secret"), "The signing secret cannot be used", reasonOf(err))
		}
	}
	return w
}

// webhookURL checks where deliveries go. The URL is not shown where it may hold
// credentials.
func (l *loader) webhookURL(b *hclsyntax.Block, e webhook.Endpoint) {
	where := at(b, "url")
	u, err := url.Parse(e.URL)
	if err != nil || u.User != nil {
		l.hidden = append(l.hidden, where)
	}
	if err := e.Check(); err != nil {
		l.mistake(where, "The webhook's url cannot be used", reasonOf(err))
		return
	}
	if u.User != nil {
		l.mistake(where, "A literal where a secret belongs: the url holds credentials",
			"Leave them out: deliveries are signed, and that is how the consumer knows them.")
		return
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil && loopback(u.Hostname()) {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if !addr.IsValid() {
		return // a name: the guard judges what it resolves to, when it is used
	}
	if err := outbound.CheckAddr(addr, e.AllowPrivate); err != nil {
		l.mistake(where, "The webhook's url leads where deliveries may not go", reasonOf(err))
	}
}

// reasonOf gives an error's text as a sentence, without its class.
func reasonOf(err error) string { return upper(reasonText(err)) + "." }

func reasonText(err error) string {
	if class := backends.Class(err); class != nil {
		return strings.TrimPrefix(err.Error(), class.Error()+": ")
	}
	return err.Error()
}

// readsAs refuses a role that is not of the consumer's tenant: one without a tenant
// sees those of all.
func (l *loader) readsAs(b *hclsyntax.Block, role string) {
	if l.owners[l.declared["role"][role]] != "" {
		l.within("role", role, at(b, "role"), b)
	} else if !l.whoever(b) && !l.whoever(l.declared["role"][role]) {
		l.mistake(at(b, "role"), fmt.Sprintf("The role %q belongs to no tenant, this consumer to %q", role, l.owners[b]),
			fmt.Sprintf("The role would see the secrets of all tenants: write tenant = %q in its block.", l.owners[b]))
	}
}

// environmentOf refuses a consumer of a secret that its role does not reach: it would
// be told, and with a plain payload given, what is beyond its environment.
func (l *loader) environmentOf(s *Secret, consumer string, where hcl.Range) {
	role, env := l.readers[consumer], s.Labels[EnvironmentLabel]
	if role == nil || role.Environment == "" || role.Environment == env || l.unlabelled(s) {
		return
	}
	of := "of none"
	if env != "" {
		of = fmt.Sprintf("of %q", env)
	}
	l.mistake(where, fmt.Sprintf("The consumer %q reads as the role %q of the environment %q, but this secret is %s", consumer, role.Name, role.Environment, of),
		fmt.Sprintf("Set the secret's label %q, or name another consumer.", EnvironmentLabel))
}

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
