package config

import (
	"fmt"
	"io"
	"reflect"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// consumerSpec is a consumer's block.
type consumerSpec struct {
	Name      string           `hcl:"name,label"`
	Tenant    string           `hcl:"tenant,optional"`
	Role      string           `hcl:"role,optional"`
	Events    []rotation.Event `hcl:"events,optional"`
	Instances *int             `hcl:"instances"`
	Webhook   *hclsyntax.Block `hcl:"webhook,block"`
	Inbox     *hclsyntax.Block `hcl:"inbox,block"`
}

// What a slip of the finger is beyond.
const (
	mostInstances   = 1000
	mostConcurrency = 256
)

// defaultConcurrency is how many attempts one consumer bears at once, on each node.
const defaultConcurrency = 4

func (l *loader) consumer(b *hclsyntax.Block) {
	spec := consumerSpec{Tenant: backends.DefaultTenant}
	good := l.block(b, &spec)
	if len(b.Labels) != 1 || !l.declare("consumer", spec.Name, b, b.LabelRanges[0]) {
		return
	}
	c := &Consumer{Name: spec.Name, Tenant: spec.Tenant, Role: spec.Role, Events: spec.Events, Instances: 1,
		Concurrency: defaultConcurrency, Inbox: spec.Inbox != nil, Payload: webhook.Reference, Signature: webhook.Ed25519,
		Range: b.DefRange(), block: b, source: l.tokensOf(b)}
	l.cfg.Consumers = append(l.cfg.Consumers, c)
	l.cfg.consumers[c.Name] = c
	l.belongs(b, spec.Tenant)
	if spec.Role != "" && l.refer("role", spec.Role, at(b, "role")) {
		l.readers[c.Name] = l.roles[spec.Role]
		l.readsAs(b, spec.Role)
		c.reach = l.reach(l.roles[spec.Role])
	}
	l.events(b, spec.Events)
	if spec.Instances != nil && !l.spoilt(at(b, "instances")) {
		c.Instances = *spec.Instances
		l.instances(b, c)
	}
	l.told(c, spec, good)
	inner := blockOf(b, c.way())
	c.faulty = l.obscure(c.Range) || inner != nil && l.obscure(inner.DefRange())
}

// instances checks how many are to say that they use a version.
func (l *loader) instances(b *hclsyntax.Block, c *Consumer) {
	switch where := at(b, "instances"); {
	case c.Instances < 1 || c.Instances > mostInstances:
		l.mistake(where, fmt.Sprintf("%d instances could never say that they use a version", c.Instances), fmt.Sprintf("Write how many there are, 1 to %d, or leave it out.", mostInstances))
	case c.Instances > 1 && !written(b, "role") && blockOf(b, "inbox") == nil && !l.unknown[b.DefRange()]:
		l.mistake(where, fmt.Sprintf("The consumer %q has %d instances, but no role, so only the one that is called could say that it uses a version", c.Name, c.Instances),
			fmt.Sprintf("See %s. Give it a role, as which each of them acknowledges, or leave the instances out.", l.quote(c.Range)))
	}
}

// reach is what a role may do at some time, from some address; nil where nobody knows.
func (l *loader) reach(r *Role) *policy.ACL {
	if r == nil || l.diags.HasErrors() {
		return nil
	}
	var policies []policy.Policy
	for _, p := range l.cfg.Policies {
		if slices.Contains(r.Policies, p.Name) {
			policies = append(policies, p.Sometime())
		}
	}
	who := policy.Identity{Tenant: r.Tenant, Role: r.Name, Name: "-", Environment: r.Environment}
	if slices.Contains(r.Policies, policy.Root) || who.Used(policies).Name != "" {
		return nil
	}
	return policy.Compile(policies, who)
}

// told decodes how a consumer is told: by a webhook or by an inbox.
func (l *loader) told(c *Consumer, spec consumerSpec, good bool) {
	switch {
	case spec.Webhook != nil && spec.Inbox != nil:
		second := spec.Inbox
		if spec.Webhook.Range().Start.Byte > second.Range().Start.Byte {
			second = spec.Webhook
		}
		l.mistake(second.DefRange(), fmt.Sprintf("The consumer %q has a webhook and an inbox", c.Name), "It is told in one way: remove one of the two blocks.")
	case spec.Webhook == nil && spec.Inbox == nil:
		if good {
			l.mistake(c.Range, fmt.Sprintf("The consumer %q has neither a webhook nor an inbox", c.Name), "Add webhook { url = … }, or inbox {} for one that collects its messages.")
		}
	case spec.Webhook != nil:
		l.webhook(spec.Webhook, c)
	default:
		l.inbox(spec.Inbox, c)
	}
}

// events checks which events a consumer wants to be told of.
func (l *loader) events(b *hclsyntax.Block, events []rotation.Event) {
	if l.spoilt(at(b, "events")) {
		return
	}
	var known []string
	for _, e := range rotation.Events() {
		known = append(known, string(e))
	}
	for i, e := range events {
		where := element(b, "events", i)
		switch {
		case !slices.Contains(known, string(e)):
			l.mistake(where, fmt.Sprintf("There is no event %q", string(e)), suggest(string(e), known))
		case slices.Contains(events[:i], e):
			l.mistake(where, fmt.Sprintf("The event %q is listed twice", string(e)), "Remove one.")
		}
	}
}

// inbox decodes how a consumer collects its messages.
func (l *loader) inbox(b *hclsyntax.Block, c *Consumer) {
	var m messageSpec
	l.block(b, &m)
	if c.Role == "" && !l.obscure(c.Range) {
		l.mistake(b.DefRange(), fmt.Sprintf("The consumer %q has an inbox, but no role that could collect from it", c.Name), `Write role = "…" in the consumer's block.`)
	}
	l.message(b, m, c)
	c.digest = func(w io.Writer) { digest(w, "", reflect.ValueOf(m)) }
}

// Digest writes all that makes the consumer what it is: its source without comments and
// layout, and the content of the files that it names. Secrets are among it: w is a keyed
// hash. Left out are the files of a client certificate, which are read anew for each
// connection, and of a signing secret: who signs reads that.
func (c *Consumer) Digest(w io.Writer) {
	_, _ = w.Write(c.source)
	if c.digest != nil {
		c.digest(w)
	}
}

// Written is to a consumer what it is to a Named.
func (c *Consumer) Written() string { return writtenAs(c.source) }

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
