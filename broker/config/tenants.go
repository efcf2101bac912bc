package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
)

// tenantBlock decodes a tenant. Where there is one such block, every tenant that is
// named has one: a name that was mistyped would else be a tenant of its own.
func (l *loader) tenantBlock(b *hclsyntax.Block) {
	var spec struct {
		Name   string           `hcl:"name,label"`
		Limits *hclsyntax.Block `hcl:"limits,block"`
	}
	l.block(b, &spec)
	if len(b.Labels) != 1 || !l.declare("tenant", spec.Name, b, b.LabelRanges[0]) {
		return
	}
	l.cfg.Tenants = append(l.cfg.Tenants, &Tenant{Name: spec.Name, Limit: l.rate(spec.Limits), Range: b.DefRange()})
}

// tenantSpec is in the blocks of those that serve one tenant, or else all.
type tenantSpec struct {
	Tenant string `hcl:"tenant,optional"`
}

// belongs notes whose b is: empty means nobody's. A name that is wrong is a mistake.
func (l *loader) belongs(b *hclsyntax.Block, tenant string) {
	l.owners[b] = tenant
	where := at(b, "tenant")
	if !written(b, "tenant") || l.spoilt(where) {
		return
	}
	before := len(l.diags)
	if err := backends.ParseTenant(tenant); err != nil {
		l.mistake(where, fmt.Sprintf("%q is no name for a tenant", tenant), reasonOf(err))
	} else if l.tenants && tenant != backends.DefaultTenant { // which is of who names none
		l.refer("tenant", tenant, where)
	}
	if len(l.diags) > before {
		l.report(fault{name: "tenant", value: where, header: b.DefRange()})
	}
}

// whoever tells whether nobody knows whose b is.
func (l *loader) whoever(b *hclsyntax.Block) bool {
	return l.spoilt(at(b, "tenant")) || l.unknown[b.DefRange()]
}

// within refuses what leads from b to the block of that kind and name if it is
// another tenant's. Who is nobody's may lead to what is nobody's alone: what is told
// or asked on its behalf is of all tenants.
func (l *loader) within(kind, name string, where hcl.Range, b *hclsyntax.Block) {
	other := l.declared[kind][name]
	of, ours := l.owners[other], l.owners[b]
	if of == ours || of == "" || l.whoever(b) || l.whoever(other) {
		return
	}
	whose := fmt.Sprintf("to %q", ours)
	mend := fmt.Sprintf("Tenants are kept apart: give both the same tenant, or name another %s.", kind)
	if ours == "" {
		whose = "to no tenant"
	}
	l.mistake(where, fmt.Sprintf("The %s %q belongs to the tenant %q, this %s %s", kind, name, of, b.Type, whose), mend)
}

// rate decodes how many requests are let through, and in the same block what is
// beside. Without a block it is the default.
func (l *loader) rate(b *hclsyntax.Block, beside ...any) policy.Limit {
	if b == nil {
		return policy.Limit{}
	}
	var spec struct {
		RequestsPerMinute int `hcl:"requests_per_minute,optional"`
		Burst             int `hcl:"burst,optional"`
	}
	l.block(b, append(beside, &spec)...)
	minute, burst := at(b, "requests_per_minute"), at(b, "burst")
	if written(b, "requests_per_minute") && spec.RequestsPerMinute <= 0 && !l.spoilt(minute) {
		l.mistake(minute, "requests_per_minute lets nothing through", "Write a number above 0, or leave it out for the default.")
	}
	switch {
	case !written(b, "burst") || l.spoilt(burst):
	case spec.Burst <= 0:
		l.mistake(burst, "A burst lets at least one request through", "Leave it out: then it is as many as in ten seconds.")
	case !written(b, "requests_per_minute") && !l.unknown[b.DefRange()]:
		l.mistake(burst, "There is a burst without a rate", "Add requests_per_minute.")
	}
	return policy.Limit{RequestsPerMinute: spec.RequestsPerMinute, Burst: spec.Burst}
}
