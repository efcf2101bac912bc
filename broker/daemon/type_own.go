package daemon

import (
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/apikey"
	"github.com/keybroker/keybroker/rotation/issuer/random"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/apikeyprobe"
)

// What needs no other system: the broker's own keys, its own check of them, and values
// that nobody but their users knows of.
var (
	ownKeys = issuerType{
		IssuerType: config.IssuerType{
			Type:     config.Type{New: func() any { return new(nothing) }},
			Describe: func(any) config.Described { return new(apikey.Issuer) },
		},
		make: func(p *parts, _ any) (issuer.Issuer, error) { return apikey.New(p.db.APIKeys(), p.hasher, p.now), nil },
	}
	atRandom = issuerType{
		IssuerType: config.IssuerType{
			Type: config.Type{New: func() any { return new(random.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
				return c.Mistakes(cfg, cfg.(*random.Config).Validate())
			}},
			Describe: func(cfg any) config.Described { return random.New(*cfg.(*random.Config)) },
		},
		make: func(_ *parts, cfg any) (issuer.Issuer, error) { return random.New(*cfg.(*random.Config)), nil },
	}
	ownCheck = probeType{
		Type: config.Type{New: func() any { return new(nothing) }},
		make: func(p *parts, _ any) (probe.Probe, error) { return apikeyprobe.New(p.check, p.doubts), nil },
	}
)
