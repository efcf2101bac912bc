package daemon

import (
	"net/url"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/policy"
)

// rules are those by which callers are known, and allowed what they ask for, while s is
// in force; down tells which backends are found to be unusable.
func (s *setup) rules(down func(backend string) bool) broker.Rules {
	r := broker.Rules{
		Rules:    authn.Rules{Roles: map[string]*policy.Role{}, Certificates: s.certificates, Logins: s.logins},
		Policies: s.cfg.Policies, Triggers: map[string]broker.Trigger{}, Backends: s.catalog.Backends,
		Environments: map[string][]string{}, Consumers: map[string]broker.Consumer{}, Down: down, Emergency: s.cfg.Emergency,
	}
	for _, role := range s.cfg.Roles {
		r.Roles[role.Name] = &role.Role
	}
	for _, t := range s.cfg.Triggers {
		r.Triggers[t.Name] = s.trigger(t)
	}
	for _, b := range s.cfg.Backends {
		r.Environments[b.Name] = b.Environments
	}
	for _, c := range s.cfg.Consumers {
		r.Consumers[c.Name] = broker.Consumer{Name: c.Name, Tenant: c.Tenant, Role: c.Role, Inbox: c.Inbox, Payload: string(c.Payload), Endpoint: server(c.Endpoint.URL),
			Events: c.Events, Instances: c.Instances, Concurrency: c.Concurrency, Signature: string(c.Signature)}
	}
	return r
}

// trigger is one as the Broker knows it.
func (s *setup) trigger(t *config.Trigger) broker.Trigger {
	out := broker.Trigger{Type: t.Type, Tenant: t.Tenant, Emergency: t.Action == config.ActionEmergency, Covers: t.Covers, MaxSecrets: t.MaxSecrets, Cooldown: t.Cooldown,
		Reason: t.Reason, Receiver: s.receivers[t.Name], On: t.On}
	if large, ok := out.Receiver.(interface{ MaxBody() int64 }); ok {
		out.MaxBody = large.MaxBody()
	}
	if h := t.Threshold; h != nil && h.ReadsPerMinute != nil {
		out.Reads = *h.ReadsPerMinute
	}
	if h := t.Threshold; h != nil && h.DeniedPerMinute != nil {
		out.Denied = *h.DeniedPerMinute
	}
	return out
}

// server is what may be shown of a URL: neither who asks nor path and query, which may
// hold credentials; empty if it is none.
func server(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
