package daemon

import (
	"cmp"
	"slices"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/probe"
)

// asComponents is the Daemon as the Broker sees it.
type asComponents struct{ d *Daemon }

// Issuers implements broker.Components.
func (a asComponents) Issuers() []broker.Component[issuer.Issuer] {
	s, down := a.d.setup.Load(), a.d.engine.IssuersDown()
	var out []broker.Component[issuer.Issuer]
	for _, i := range s.cfg.Issuers {
		c := componentOf(s, "issuer", i.Named, i.Tenant, s.catalog.Issuers)
		if fails := down[i.Name]; fails != nil && c.State == client.ComponentReady {
			c.State, c.Why = client.ComponentLeftAlone, fails.Error
		}
		out = append(out, c)
	}
	return inNameOrder(out)
}

// Probes implements broker.Components.
func (a asComponents) Probes() []broker.Component[probe.Probe] {
	s := a.d.setup.Load()
	var out []broker.Component[probe.Probe]
	for _, b := range s.cfg.Probes {
		out = append(out, componentOf(s, "probe", b.Named, b.Tenant, s.catalog.Probes))
	}
	return inNameOrder(out)
}

func componentOf[T any](s *setup, kind string, n config.Named, tenant string, made map[string]T) broker.Component[T] {
	c := broker.Component[T]{Name: n.Name, Type: n.Type, Tenant: tenant, State: client.ComponentReady}
	if why, missing := s.missing(kind, n.Name); missing {
		c.State, c.Why = client.ComponentMissing, why
		return c
	}
	c.Works = made[n.Name]
	return c
}

func inNameOrder[T any](all []broker.Component[T]) []broker.Component[T] {
	slices.SortFunc(all, func(a, b broker.Component[T]) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Origins implements broker.Node.
func (n asNode) Origins(ref backends.Ref) (broker.Origins, bool) {
	from, ok := n.d.setup.Load().cfg.Origins(ref)
	if !ok {
		return broker.Origins{}, false
	}
	out := broker.Origins{Policy: from.Policy, Settings: map[string]client.Setting{}}
	for _, o := range from.Settings {
		s := client.Setting{From: string(o.Source), Policy: o.Policy}
		s.File, s.Line = place(o.Range)
		if o.Source == policy.FromPolicy && o.Setting == policy.LimitOverlap {
			s.From = client.FromLimit
		}
		out.Settings[o.Setting] = s
	}
	for _, l := range from.Limits {
		limit := client.Limit{Name: l.Limit, Value: l.Bound.String(), Policy: l.Policy}
		limit.File, limit.Line = place(l.Range)
		out.Limits = append(out.Limits, limit)
	}
	return out, true
}

func place(r hcl.Range) (file string, line int) {
	if r.Filename == "" {
		return "", 0
	}
	return r.Filename, r.Start.Line
}
