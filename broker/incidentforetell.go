package broker

import (
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// foretell is what a declaration would make of what was looked up for it.
func (b *Broker) foretell(p authn.Principal, d *declaration) client.Incident {
	now := b.Now()
	x := &incidentState{inc: d.incident, targets: d.targets, kept: b.keptOut, secrets: map[string]store.TargetSecret{}}
	x.inc.Actor, x.inc.DeclaredAt = p.ID, now
	if x.inc.DetectedAt.IsZero() {
		x.inc.DetectedAt = now
	}
	meant := map[string]matched{}
	for _, m := range d.hits {
		x.secrets[m.secret.ID] = store.TargetSecret{Secret: m.secret}
		meant[m.secret.ID] = m
	}
	out := viewIncident(x.inc, rotation.Tally{Secrets: len(d.targets), Pending: len(d.targets)}, now)
	out.ID, out.DryRun = "", true
	out.Consumers, out.Quarantine = x.consumers(), d.quarantine.views()
	for _, t := range d.targets {
		target := foretoldTarget(t, meant[t.SecretID])
		out.Targets = append(out.Targets, target)
		out.Progress.Versions += len(target.Versions)
	}
	for _, s := range d.skipped {
		out.Skipped = append(out.Skipped, client.IncidentSkipped{Secret: s.Ref.Name, Tenant: s.Ref.Tenant, Why: s.Why})
	}
	for i, text := range d.checks {
		out.Checklist = append(out.Checklist, client.IncidentCheck{Item: i + 1, Text: text})
	}
	return out
}

// foretoldTarget is one secret of an incident that is not declared.
func foretoldTarget(t rotation.Target, m matched) client.IncidentTarget {
	d := m.secret.Definition
	out := client.IncidentTarget{Secret: t.Ref.Name, Tenant: t.Ref.Tenant, State: string(rotation.TargetPending), Pinned: t.Versions, Consumers: d.Consumers}
	for _, a := range m.meant() {
		v := client.IncidentVersion{Version: a.Number, Issuer: a.Issuer}
		if a.Retirement != nil {
			v.RetirementID, v.State, v.RequestedAt = a.Retirement.ID, string(a.Retirement.State), utc(a.Retirement.RequestedAt)
		}
		out.Versions = append(out.Versions, v)
	}
	if len(out.Versions) == 0 {
		out.State = string(rotation.TargetNothingAlive)
		switch {
		case len(t.Versions) > 0 && m.undead:
			out.State = string(rotation.TargetUnprovable)
		case len(t.Versions) > 0:
			out.State = string(rotation.TargetAlreadyDead)
		}
	}
	return out
}
