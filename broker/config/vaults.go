package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

const defaultDriftCheck = 15 * time.Minute

// backend decodes a backend: what all vaults have in common, and its own.
func (l *loader) backend(b *hclsyntax.Block) {
	var spec struct {
		Tenant       string        `hcl:"tenant,optional"`
		Environments []string      `hcl:"environments,optional"`
		ReadOnly     bool          `hcl:"read_only,optional"`
		DriftCheck   time.Duration `hcl:"drift_check,optional"`
		Limits       *struct {
			RequestsPerSecond float64       `hcl:"requests_per_second,optional"`
			Timeout           time.Duration `hcl:"timeout,optional"`
			MaxConcurrent     int           `hcl:"max_concurrent,optional"`
		} `hcl:"limits,block"`
	}
	spec.DriftCheck = defaultDriftCheck
	n, known, ok := typed(l, "backend", l.reg.Backends, func(t BackendType) Type { return t.Type }, b, &spec)
	if !ok {
		return
	}
	l.belongs(b, spec.Tenant)
	vault := &Backend{Named: n, Tenant: spec.Tenant, Environments: spec.Environments, ReadOnly: spec.ReadOnly, DriftCheck: spec.DriftCheck}
	if !n.broken {
		vault.Capabilities = known.Capabilities(n.Config)
		if known.Place != nil {
			vault.place = known.Place(n.Config)
		}
		vault.checkName = func(name string) error { return known.CheckName(n.Config, name) }
		if known.CheckName == nil {
			vault.checkName = func(string) error { return nil }
		}
	}
	vault.Capabilities.ReadOnly = vault.Capabilities.ReadOnly || vault.ReadOnly
	l.cfg.Backends = append(l.cfg.Backends, vault)
	l.cfg.backends[n.Name] = vault
	if spec.DriftCheck < 0 {
		l.mistake(at(b, "drift_check"), "drift_check cannot be negative", `Leave it out for the default, "15m"; "0s" is never.`)
	}
	if spec.Limits == nil {
		return
	}
	vault.Limits = backends.Limits{
		Timeout:           spec.Limits.Timeout,
		RequestsPerSecond: spec.Limits.RequestsPerSecond,
		MaxConcurrent:     spec.Limits.MaxConcurrent,
	}
	for name, negative := range map[string]bool{
		"timeout":             vault.Limits.Timeout < 0,
		"requests_per_second": vault.Limits.RequestsPerSecond < 0,
		"max_concurrent":      vault.Limits.MaxConcurrent < 0,
	} {
		if negative {
			l.mistake(at(b, "limits."+name), "A limit cannot be negative", "Leave it out for the default.")
		}
	}
}

// same tells whether two blocks certainly lead to the same secrets.
func (v *Backend) same(other *Backend) bool {
	return v.place != "" && v.where("") == other.where("")
}

// where names a secret of that name in the vault: the same text for what certainly is
// the same secret, whichever block and folder lead to it.
func (v *Backend) where(name string) string {
	if v.place == "" {
		return fmt.Sprintf("block %q %s", v.Name, name)
	}
	return fmt.Sprintf("%s %s/%s", v.Type, strings.TrimSuffix(v.place, "/"), name)
}

// issuer decodes an issuer and asks what it can do.
func (l *loader) issuer(b *hclsyntax.Block) {
	var spec tenantSpec
	n, known, ok := typed(l, "issuer", l.reg.Issuers, func(t IssuerType) Type { return t.Type }, b, &spec)
	if !ok {
		return
	}
	l.belongs(b, spec.Tenant)
	i := &Issuer{Named: n, Tenant: spec.Tenant}
	if !n.broken {
		i.describe(known.Describe(n.Config))
	}
	l.cfg.Issuers = append(l.cfg.Issuers, i)
	l.cfg.issuers[n.Name] = i
}

func (i *Issuer) describe(d Described) {
	i.Traits = d.Traits()
	i.settings, _ = d.(issuer.SettingsChecker)
	i.shaper, _ = d.(issuer.Shaper)
	i.keys, _ = d.(issuer.KeyChecker)
	if p, ok := d.(Placed); ok {
		i.place = p.Place()
	}
}

// For returns the traits for a secret with these settings, which were found right.
func (i *Issuer) For(settings json.RawMessage) issuer.Traits {
	if i.shaper == nil {
		return i.Traits
	}
	return i.shaper.TraitsFor(settings)
}

// probe decodes a way to try credentials.
func (l *loader) probe(b *hclsyntax.Block) {
	var spec tenantSpec
	if n, _, ok := typed(l, "probe", l.reg.Probes, itself, b, &spec); ok {
		l.belongs(b, spec.Tenant)
		l.cfg.Probes = append(l.cfg.Probes, &Probe{Named: n, Tenant: spec.Tenant})
	}
}
