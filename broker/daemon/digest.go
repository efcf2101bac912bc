package daemon

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
)

// block names a block of the configuration.
type block struct{ kind, name string }

func (b block) String() string { return fmt.Sprintf("%s %q", b.kind, b.name) }

// digest works out of every block a keyed digest of all that it does, secrets
// and files that it names included; consumers get theirs with their signing secrets.
func (p *parts) digest(s *setup) {
	named := func(kind string, n config.Named) {
		var text strings.Builder
		n.Digest(&text)
		s.digests[block{kind, n.Name}] = p.mac(text.String())
	}
	for _, b := range s.cfg.Backends {
		named("backend", b.Named)
	}
	for _, i := range s.cfg.Issuers {
		named("issuer", i.Named)
	}
	for _, b := range s.cfg.Probes {
		named("probe", b.Named)
	}
	for _, a := range s.cfg.Auths {
		named("auth", a.Named)
	}
	for _, a := range s.cfg.AuditSinks {
		named("audit", a.Named)
	}
	for _, n := range s.cfg.Notifiers {
		named("notifier", n.Named)
	}
	for _, t := range s.cfg.Triggers {
		named("trigger", t.Named)
	}
	plain := func(kind, name string, content ...any) {
		text, _ := json.Marshal(content) // settings and names cannot fail
		s.digests[block{kind, name}] = p.mac(string(text))
	}
	for _, r := range s.cfg.RotationPolicies {
		plain("rotation_policy", r.Name, r)
	}
	for _, a := range s.cfg.Policies {
		plain("policy", a.Name, a)
	}
	for _, t := range s.cfg.Tenants {
		plain("tenant", t.Name, t.Limit)
	}
	for _, r := range s.cfg.Roles {
		plain("role", r.Name, r.Role)
	}
	for _, a := range s.cfg.Alerts {
		plain("alert", a.Name, a.Tenant, a.Notifier, a.On, a.Repeat, a.Escalate, a.Heartbeat)
	}
	l := s.cfg.Listener
	plain("listener", "tcp", l.TLSMinVersion, l.TrustedProxies, l.MaxRequestSize, l.Limits)
}

// changedBlocks tells what next does to the blocks of s, by kind and name.
func (s *setup) changedBlocks(next *setup) []client.ConfigChange {
	var out []client.ConfigChange
	add := func(change string, b block) {
		out = append(out, client.ConfigChange{Change: change, Kind: b.kind, Name: b.name})
	}
	for b, digest := range next.digests {
		switch before, ok := s.digests[b]; {
		case !ok:
			add(client.Added, b)
		case before != digest:
			add(client.Changed, b)
		}
	}
	for b := range s.digests {
		if _, ok := next.digests[b]; !ok {
			add(client.Removed, b)
		}
	}
	slices.SortFunc(out, func(a, b client.ConfigChange) int { return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name) })
	return out
}

// types gives the type of every block that has one, and of secrets and consumers
// that they are there. A nil configuration has none.
func types(cfg *config.Config) map[block]string {
	t := map[block]string{}
	if cfg == nil {
		return t
	}
	for _, b := range cfg.Backends {
		t[block{"backend", b.Name}] = b.Type
	}
	for _, i := range cfg.Issuers {
		t[block{"issuer", i.Name}] = i.Type
	}
	for _, b := range cfg.Probes {
		t[block{"probe", b.Name}] = b.Type
	}
	for _, k := range cfg.Consumers {
		t[block{"consumer", k.Name}] = ""
	}
	for _, s := range cfg.Secrets {
		t[block{client.KindSecret, s.Ref.String()}] = ""
	}
	return t
}

// fixed tells what cannot change without a restart and did.
func fixed(now, next *config.Config) []client.ConfigFinding {
	changed := map[string]bool{
		"data_dir":               now.DataDir != next.DataDir,
		"listener.address":       now.Listener.Address != next.Listener.Address,
		"listener.tls_cert_file": now.Listener.TLSCertFile != next.Listener.TLSCertFile,
		"listener.tls_key_file":  now.Listener.TLSKeyFile != next.Listener.TLSKeyFile,
		"telemetry.address":      now.Telemetry.Address != next.Telemetry.Address,
		"telemetry.prometheus":   now.Telemetry.Prometheus != next.Telemetry.Prometheus,
		"telemetry.secret_names": now.Telemetry.SecretNames != next.Telemetry.SecretNames,
		"storage":                now.Storage.Type != next.Storage.Type,
		"storage.path":           now.Storage.Path != next.Storage.Path,
		"storage.url":            now.Storage.URL != next.Storage.URL,
		"seal":                   !config.SameSeals(now.Seals, next.Seals),
	}
	var out []client.ConfigFinding
	for _, attribute := range slices.Sorted(maps.Keys(changed)) {
		if changed[attribute] {
			out = append(out, client.ConfigFinding{What: fmt.Sprintf("%s was changed, which takes a restart", attribute),
				Remedy: "put it back, or restart the server"})
		}
	}
	return out
}
