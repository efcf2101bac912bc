package config_test

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// The types of blocks of these tests, shaped like the broker's own.

type vaultConfig struct {
	Address string                `hcl:"address"`
	Mount   string                `hcl:"mount,optional"`
	Token   backends.SecretString `hcl:"token,optional"`
	Auth    *struct {
		Method       string                `hcl:"method,label"`
		RoleID       backends.SecretString `hcl:"role_id"`
		SecretIDFile string                `hcl:"secret_id_file,optional"`
	} `hcl:"auth,block"`
	Headers  map[string]backends.SecretString `hcl:"headers,optional"`
	Keys     []backends.SecretString          `hcl:"keys,optional"`
	Renew    time.Duration                    `hcl:"renew,optional"`
	DefRange hcl.Range                        `hcl:",def_range"`
}

type mintConfig struct {
	MaxLive     int           `hcl:"max_live,optional"`
	MaxOverlap  time.Duration `hcl:"max_overlap,optional"`
	Budget      time.Duration `hcl:"revocation_budget,optional"`
	BudgetRange hcl.Range     `hcl:"revocation_budget,attr_value_range"`
}

// scoped takes the setting "scopes" from each secret.
type scoped struct{}

func (scoped) CheckSettings(settings json.RawMessage) []string {
	var s map[string]any
	if err := json.Unmarshal(settings, &s); err != nil || s["scopes"] == nil {
		return []string{"scopes is missing"}
	}
	return nil
}

type probeConfig struct {
	URL     *hcl.Attribute  `hcl:"url"`
	Headers hcl.Expression  `hcl:"headers,optional"`
	Auth    []httpcall.Auth `hcl:"auth,block"`

	Canary       map[string]backends.SecretString `hcl:"canary,optional"`
	LockoutAfter int                              `hcl:"lockout_after,optional"`

	Accepted struct {
		Status []int `hcl:"status"`
	} `hcl:"accepted,block"`
}

func registry() config.Registry {
	return config.Registry{
		Backends: map[string]config.Type{
			"local": {New: func() any { return &struct{}{} }, SeparatesTenants: true},
			"vault": {New: func() any { return &vaultConfig{} }, Check: checkVault},
		},
		Issuers: map[string]config.IssuerType{
			"api_key": {
				Type: config.Type{New: func() any { return &struct{}{} }},
				Describe: func(any) (issuer.Traits, issuer.SettingsChecker) {
					return issuer.Traits{Kind: issuer.Mint, RevocationBudget: 5 * time.Second}, nil
				},
			},
			"http": {
				Type: config.Type{New: func() any { return &mintConfig{} }, Check: checkMint},
				Describe: func(cfg any) (issuer.Traits, issuer.SettingsChecker) {
					c := cfg.(*mintConfig)
					return issuer.Traits{Kind: issuer.Mint, MaxLive: c.MaxLive, MaxOverlap: c.MaxOverlap, RevocationBudget: c.Budget}, scoped{}
				},
			},
			"set": {
				Type: config.Type{New: func() any { return &struct{}{} }},
				Describe: func(any) (issuer.Traits, issuer.SettingsChecker) {
					return issuer.Traits{Kind: issuer.Set, MaxOverlap: -1}, nil
				},
			},
		},
		Probes: map[string]config.Type{"http": {New: func() any { return &probeConfig{} }}},
	}
}

func checkVault(cfg any, c config.CheckContext) hcl.Diagnostics {
	v := cfg.(*vaultConfig)
	if strings.HasPrefix(v.Address, "https://") {
		return nil
	}
	return hcl.Diagnostics{c.Mistake("address", "Vault is spoken to over https", "Begin with https://.")}
}

func checkMint(cfg any, _ config.CheckContext) hcl.Diagnostics {
	m := cfg.(*mintConfig)
	if m.Budget > 0 {
		return nil
	}
	return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "No budget", Subject: &m.BudgetRange}}
}
