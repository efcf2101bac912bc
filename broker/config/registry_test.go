package config_test

import (
	"cmp"
	"encoding/json"
	"fmt"
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

// weakConfig is a vault that lacks what its block says.
type weakConfig struct {
	Path         string `hcl:"path"`
	Field        string `hcl:"field,optional"`
	MaxValueSize int    `hcl:"max_value_size,optional"`
	Old          bool   `hcl:"old,optional"` // it cannot be written to
	Compares     bool   `hcl:"compares,optional"`
	Binary       bool   `hcl:"binary,optional"`
}

func (c weakConfig) capabilities() backends.Capabilities {
	return backends.Capabilities{Field: c.Field, MaxValueSize: c.MaxValueSize, ReadOnly: c.Old, CompareSwap: c.Compares, Binary: c.Binary}
}

// checkName is of a vault that spells no @, and makes no secret that is called old.
func (c weakConfig) checkName(name string) error {
	switch {
	case strings.Contains(name, "@"):
		return fmt.Errorf("%w: the name %q has an @ in it", backends.ErrInvalid, name)
	case strings.HasPrefix(name, "old"):
		return fmt.Errorf("%w: the name %q is an old one: choose a new one", backends.ErrUnsupported, name)
	}
	return nil
}

func able(any) backends.Capabilities { return backends.Capabilities{CompareSwap: true} }

type mintConfig struct {
	Fields      []string      `hcl:"fields,optional"`
	MaxLive     int           `hcl:"max_live,optional"`
	Exclusive   bool          `hcl:"exclusive,optional"`
	MaxOverlap  time.Duration `hcl:"max_overlap,optional"`
	Soak        time.Duration `hcl:"soak,optional"`
	Budget      time.Duration `hcl:"revocation_budget,optional"`
	BudgetRange hcl.Range     `hcl:"revocation_budget,attr_value_range"`
}

// traits is an issuer that can do what its traits say.
type traits issuer.Traits

func (t traits) Traits() issuer.Traits { return issuer.Traits(t) }

// keyed makes keys of base62, of 30 characters unless asked for others.
type keyed struct{ traits }

func (keyed) CheckKey(spec issuer.KeySpec) (issuer.KeySpec, error) {
	if spec.Alphabet = cmp.Or(spec.Alphabet, "base62"); spec.Alphabet != "base62" {
		return spec, fmt.Errorf("%w: key.alphabet: keys are made of base62, not of %q: leave the alphabet out", backends.ErrInvalid, spec.Alphabet)
	}
	spec.Length = cmp.Or(spec.Length, 30)
	return spec, nil
}

type serverConfig struct {
	Server    string `hcl:"server,optional"`
	Exclusive bool   `hcl:"exclusive,optional"`
}

// accounts sets the values of the accounts that a secret names; of one if it names none.
// If it mints it has no accounts.
type accounts struct {
	traits
	server string
}

func (a accounts) Place() string { return a.server }

func (accounts) CheckSettings(json.RawMessage) []string { return nil }

func (a accounts) TraitsFor(settings json.RawMessage) issuer.Traits {
	var s struct {
		Roles []string
		Field string
	}
	_ = json.Unmarshal(settings, &s)
	t := issuer.Traits(a.traits)
	if t.Kind == issuer.Mint {
		t.Fields = []string{cmp.Or(s.Field, "value")}
		return t
	}
	if t.Slots = s.Roles; len(t.Slots) == 0 {
		t.Slots = []string{"one"}
	}
	return t
}

// scoped takes the setting "scopes" from each secret.
type scoped struct{ traits }

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

type certificateConfig struct {
	CAFile string `hcl:"ca_file"`
}

type providerConfig struct {
	DiscoveryURL   string   `hcl:"discovery_url,optional"`
	ClientID       string   `hcl:"client_id,optional"`
	NameClaim      string   `hcl:"name_claim,optional"`
	BoundAudiences []string `hcl:"bound_audiences"`
}

type hookConfig struct {
	SigningSecret backends.SecretString `hcl:"signing_secret"`
}

// queueConfig is of a trigger whose events name secrets as a vault does.
type queueConfig struct {
	Backend string `hcl:"backend,optional"`
}

func (c queueConfig) Vault() (backend, ofType string) { return c.Backend, "vault" }

type fileConfig struct {
	Path string `hcl:"path"`
}

type receiverConfig struct {
	URL   string                `hcl:"url"`
	Token backends.SecretString `hcl:"token,optional"`
}

func registry() config.Registry {
	return config.Registry{
		Seals: sealTypes(),
		Backends: map[string]config.BackendType{
			"local": {
				Type: config.Type{New: func() any { return &struct{}{} }},
				Capabilities: func(any) backends.Capabilities {
					return backends.Capabilities{CompareSwap: true, Tenants: true, Binary: true}
				},
				Place: func(any) string { return "here" },
			},
			"vault": {
				Type:         config.Type{New: func() any { return &vaultConfig{} }, Check: checkVault},
				Capabilities: able,
				Place:        func(cfg any) string { return cfg.(*vaultConfig).Address + "/" + cfg.(*vaultConfig).Mount },
			},
			"weak": {
				Type:         config.Type{New: func() any { return &weakConfig{} }},
				Capabilities: func(cfg any) backends.Capabilities { return cfg.(*weakConfig).capabilities() },
				CheckName:    func(cfg any, name string) error { return cfg.(*weakConfig).checkName(name) },
			},
		},
		Issuers: map[string]config.IssuerType{
			"api_key": {
				Type: config.Type{New: func() any { return &struct{}{} }},
				Describe: func(any) config.Described {
					return keyed{traits(issuer.Traits{Kind: issuer.Mint, Fields: []string{"key"}, RevocationBudget: 5 * time.Second})}
				},
			},
			"http": {
				Type: config.Type{New: func() any { return &mintConfig{} }, Check: checkMint},
				Describe: func(cfg any) config.Described {
					c := cfg.(*mintConfig)
					return scoped{traits(issuer.Traits{Kind: issuer.Mint, Fields: c.Fields, MaxLive: c.MaxLive, MaxOverlap: c.MaxOverlap, Exclusive: c.Exclusive, Soak: c.Soak, RevocationBudget: c.Budget})}
				},
			},
			"exec": {
				Type:     config.Type{New: func() any { return &struct{}{} }},
				Describe: func(any) config.Described { return keyed{traits{Kind: issuer.Mint}} },
			},
			"lease": {
				Type: config.Type{New: func() any { return &serverConfig{} }},
				Describe: func(cfg any) config.Described {
					c := cfg.(*serverConfig)
					return accounts{traits(issuer.Traits{Kind: issuer.Mint, Exclusive: c.Exclusive}), c.Server}
				},
			},
			"set": {
				Type: config.Type{New: func() any { return &serverConfig{} }},
				Describe: func(cfg any) config.Described {
					return accounts{traits(issuer.Traits{Kind: issuer.Set}), cfg.(*serverConfig).Server}
				},
			},
		},
		Triggers: map[string]config.Type{
			"webhook": {New: func() any { return &hookConfig{} }},
			"queue":   {New: func() any { return &queueConfig{} }},
		},
		Probes: map[string]config.Type{"http": {New: func() any { return &probeConfig{} }}},
		Auths: map[string]config.Type{
			"mtls": {New: func() any { return &certificateConfig{} }},
			"oidc": {New: func() any { return &providerConfig{} }},
			"jwt":  {New: func() any { return &providerConfig{} }},
			"ldap": {New: func() any { return &struct{}{} }},
		},
		Audits: map[string]config.Type{
			"file":       {New: func() any { return &fileConfig{} }},
			"splunk_hec": {New: func() any { return &receiverConfig{} }},
		},
		Notifiers: map[string]config.NotifierType{
			"webhook":   {Type: config.Type{New: func() any { return &receiverConfig{} }}},
			"pagerduty": {Type: config.Type{New: func() any { return &struct{}{} }}, NoHeartbeat: true},
		},
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
