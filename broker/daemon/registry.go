package daemon

import (
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends/vault"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/apikey"
	issuerhttp "github.com/keybroker/keybroker/rotation/issuer/httpapi"
	"github.com/keybroker/keybroker/rotation/probe/httpprobe"
)

// The types of blocks, by their first label. A new backend, issuer or probe is
// named here and in catalog.go, nowhere else.
const (
	typeLocal  = "local"
	typeVault  = "vault"
	typeAPIKey = "api_key"
	typeHTTP   = "http"
)

// nothing is the configuration of a type that has none.
type nothing struct{}

// Registry says which types of blocks a configuration can have.
func Registry() config.Registry {
	return config.Registry{
		Backends: map[string]config.Type{
			typeLocal: {New: func() any { return new(nothing) }, SeparatesTenants: true},
			typeVault: {New: func() any { return new(vault.Config) }, Check: checkVault},
		},
		Issuers: map[string]config.IssuerType{
			typeAPIKey: {
				Type:     config.Type{New: func() any { return new(nothing) }},
				Describe: func(any) (issuer.Traits, issuer.SettingsChecker) { return (&apikey.Issuer{}).Traits(), nil },
			},
			typeHTTP: {
				Type: config.Type{New: func() any { return new(issuerhttp.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
					checked := *cfg.(*issuerhttp.Config)
					if c.Offline {
						checked.CAFile = "" // no file is read then
					}
					_, diags := issuerhttp.New(checked)
					return diags
				}},
				Describe: describeHTTP,
			},
		},
		Probes: map[string]config.Type{
			typeHTTP: {New: func() any { return new(httpprobe.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
				checked := *cfg.(*httpprobe.Config)
				if c.Offline {
					checked.CAFile = ""
				}
				_, diags := httpprobe.New(checked)
				return diags
			}},
		},
	}
}

// describeHTTP makes an issuer that is only asked what it can do: its
// certificates are not needed for that.
func describeHTTP(cfg any) (issuer.Traits, issuer.SettingsChecker) {
	described := *cfg.(*issuerhttp.Config)
	described.CAFile = ""
	is, _ := issuerhttp.New(described)
	checker, _ := is.(issuer.SettingsChecker)
	return is.Traits(), checker
}

// checkVault turns what vault.Config finds wrong with itself into diagnostics.
func checkVault(cfg any, c config.CheckContext) (diags hcl.Diagnostics) {
	err := cfg.(*vault.Config).Validate()
	if err == nil {
		return nil
	}
	for _, text := range strings.Split(err.Error(), "\n") {
		text = strings.TrimPrefix(text, "invalid: ")
		attribute, _, _ := strings.Cut(text, " ")
		if attribute == "there" { // … is no such auth block
			attribute = "auth"
		}
		diags = append(diags, c.Mistake(attribute, "The vault backend is not complete", strings.ToUpper(text[:1])+text[1:]+"."))
	}
	return diags
}
