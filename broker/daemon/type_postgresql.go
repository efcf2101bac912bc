package daemon

import (
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/postgresql"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/postgresqlprobe"
)

var databaseRoles = issuerType{
	IssuerType: config.IssuerType{
		Type: config.Type{New: func() any { return new(postgresql.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			return c.Mistakes(cfg, cfg.(*postgresql.Config).Validate())
		}},
		Describe: func(cfg any) config.Described { return postgresql.Describe(*cfg.(*postgresql.Config)) },
	},
	make: func(_ *parts, cfg any) (issuer.Issuer, error) {
		is, err := postgresql.New(*cfg.(*postgresql.Config))
		if err != nil {
			return nil, err // and no Issuer that holds a nil
		}
		return is, nil
	},
}

var logIn = probeType{
	Type: config.Type{New: func() any { return new(postgresqlprobe.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
		return c.Mistakes(cfg, cfg.(*postgresqlprobe.Config).Validate())
	}},
	make: func(_ *parts, cfg any) (probe.Probe, error) {
		pr, err := postgresqlprobe.New(*cfg.(*postgresqlprobe.Config))
		if err != nil {
			return nil, err
		}
		return pr, nil
	},
}
