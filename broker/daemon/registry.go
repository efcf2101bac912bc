package daemon

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsparams"
	"github.com/keybroker/keybroker/backends/awssecrets"
	"github.com/keybroker/keybroker/backends/local"
	"github.com/keybroker/keybroker/backends/vault"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/issuer"
	issuerhttp "github.com/keybroker/keybroker/rotation/issuer/httpapi"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/httpprobe"
)

// The types of blocks, by their first label. A new backend, issuer or probe is a
// package and one line here; backends/README.md says what a backend's package has.
var (
	backendTypes = map[string]backendType{
		"aws_parameter_store": vaultOf(awsparams.Open),
		"aws_secrets_manager": vaultOf(awssecrets.Open),
		"local":               embedded,
		"vault":               vaultOf(vault.Open),
	}
	issuerTypes = map[string]issuerType{
		"api_key":        ownKeys,
		"aws_iam":        accessKeys,
		"exec":           byProgram,
		"human":          byHand,
		"http":           overHTTP,
		"postgresql":     databaseRoles,
		"random":         atRandom,
		"vault_database": leased,
	}
	probeTypes = map[string]probeType{
		"api_key":    ownCheck,
		"aws_sts":    askSTS,
		"exec":       tryByProgram,
		"http":       tryHTTP,
		"postgresql": logIn,
	}
)

// Registry says which types of blocks a configuration can have.
func Registry() config.Registry {
	r := config.Registry{Seals: sealTypes(), Backends: map[string]config.BackendType{}, Issuers: map[string]config.IssuerType{}, Probes: map[string]config.Type{}, Auths: authTypes()}
	for name, t := range backendTypes {
		r.Backends[name] = t.BackendType
	}
	for name, t := range issuerTypes {
		r.Issuers[name] = t.IssuerType
	}
	r.Notifiers = map[string]config.NotifierType{}
	for name, t := range notifierTypes {
		r.Notifiers[name] = t.NotifierType
	}
	r.Audits = map[string]config.Type{}
	for name, t := range auditSinkTypes {
		r.Audits[name] = t.Type
	}
	for name, t := range probeTypes {
		r.Probes[name] = t.Type
	}
	r.Triggers = map[string]config.Type{}
	for name, t := range triggerTypes {
		r.Triggers[name] = t.Type
	}
	return r
}

// backendType is how a backend's block is read, and how its vault is opened, which
// need not be up then. What has a Close is closed in the end.
type backendType struct {
	config.BackendType
	open func(ctx context.Context, p *parts, cfg any, logger hclog.Logger) (backends.Driver, error)
}

// vaultConfig is the Config of a backend's package, a struct with hcl tags.
type vaultConfig interface {
	// Validate returns every mistake, joined, each a text that begins with the name
	// of the attribute; see config.CheckContext.Mistakes.
	Validate() error
	// Capabilities says what a vault with this configuration can do, as its Driver's do.
	Capabilities() backends.Capabilities
	// Place names what the configuration leads to: the same text only where two would
	// read and write the same secrets; empty where that cannot be told.
	Place() string
}

// nameChecker is a vaultConfig of a vault that does not take every name.
type nameChecker interface {
	// CheckName is ErrInvalid where the vault has no place for a secret of that name,
	// ErrUnsupported where it makes none, and uses one that is there already: each in
	// one line, "what is wrong: how to mend it".
	CheckName(name string) error
}

// vaultOf makes a type of a package's Config and Open.
func vaultOf[C vaultConfig, D backends.Driver](open func(context.Context, C, hclog.Logger) (D, error)) backendType {
	return backendType{
		BackendType: config.BackendType{
			Type: config.Type{
				New: func() any { return new(C) },
				Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
					return c.Mistakes(cfg, (*cfg.(*C)).Validate())
				},
			},
			Capabilities: func(cfg any) backends.Capabilities { return (*cfg.(*C)).Capabilities() },
			Place:        func(cfg any) string { return (*cfg.(*C)).Place() },
			CheckName: func(cfg any, name string) error {
				if c, ok := any(*cfg.(*C)).(nameChecker); ok {
					return c.CheckName(name)
				}
				return nil
			},
		},
		open: func(ctx context.Context, _ *parts, cfg any, logger hclog.Logger) (backends.Driver, error) {
			d, err := open(ctx, *cfg.(*C), logger)
			if err != nil {
				return nil, err // and no Driver that holds a nil
			}
			return d, nil
		},
	}
}

// nothing is the configuration of a type that has none.
type nothing struct{}

// embedded is the broker's own storage.
var embedded = backendType{
	BackendType: config.BackendType{
		Type:         config.Type{New: func() any { return new(nothing) }},
		Capabilities: func(any) backends.Capabilities { return new(local.Driver).Capabilities() },
		Place:        func(any) string { return "here" },
	},
	open: func(_ context.Context, p *parts, _ any, _ hclog.Logger) (backends.Driver, error) {
		return local.New(p.sealer, p.db.LocalStorage()), nil
	},
}

// issuerType is how an issuer's block is read, and how the issuer is made.
type issuerType struct {
	config.IssuerType
	make func(p *parts, cfg any) (issuer.Issuer, error)
}

var overHTTP = issuerType{
	IssuerType: config.IssuerType{
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
	make: func(_ *parts, cfg any) (issuer.Issuer, error) {
		is, diags := issuerhttp.New(*cfg.(*issuerhttp.Config))
		return is, orNil(diags)
	},
}

// describeHTTP makes an issuer that is only asked what it can do: its
// certificates are not needed for that.
func describeHTTP(cfg any) config.Described {
	described := *cfg.(*issuerhttp.Config)
	described.CAFile = ""
	is, _ := issuerhttp.New(described)
	return is
}

// probeType is how a probe's block is read, and how the probe is made.
type probeType struct {
	config.Type
	make func(p *parts, cfg any) (probe.Probe, error)
}

var tryHTTP = probeType{
	Type: config.Type{New: func() any { return new(httpprobe.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
		checked := *cfg.(*httpprobe.Config)
		if c.Offline {
			checked.CAFile = ""
		}
		_, diags := httpprobe.New(checked)
		return diags
	}},
	make: func(_ *parts, cfg any) (probe.Probe, error) {
		pr, diags := httpprobe.New(*cfg.(*httpprobe.Config))
		return pr, orNil(diags)
	},
}
