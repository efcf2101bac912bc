package config

import (
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
)

// backend decodes a backend: what all vaults have in common, and its own.
func (l *loader) backend(b *hclsyntax.Block) {
	var spec struct {
		Environments []string `hcl:"environments,optional"`
		Limits       *struct {
			RequestsPerSecond float64       `hcl:"requests_per_second,optional"`
			Timeout           time.Duration `hcl:"timeout,optional"`
			MaxConcurrent     int           `hcl:"max_concurrent,optional"`
		} `hcl:"limits,block"`
	}
	n, known, ok := typed(l, "backend", l.reg.Backends, itself, b, &spec)
	if !ok {
		return
	}
	vault := &Backend{Named: n, Environments: spec.Environments, separates: known.SeparatesTenants, held: map[string]*Secret{}}
	l.cfg.Backends = append(l.cfg.Backends, vault)
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

// issuer decodes an issuer and asks what it can do.
func (l *loader) issuer(b *hclsyntax.Block) {
	n, known, ok := typed(l, "issuer", l.reg.Issuers, func(t IssuerType) Type { return t.Type }, b, &struct{}{})
	if !ok {
		return
	}
	i := &Issuer{Named: n}
	if !n.broken {
		i.Traits, i.settings = known.Describe(n.Config)
	}
	l.cfg.Issuers = append(l.cfg.Issuers, i)
	l.cfg.issuers[n.Name] = i
}
