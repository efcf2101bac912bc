package daemon

import (
	"context"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/vaultdb"
)

var leased = issuerType{
	IssuerType: config.IssuerType{
		Type: config.Type{New: func() any { return new(vaultdb.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			return c.Mistakes(cfg, cfg.(*vaultdb.Config).Validate())
		}},
		Describe: func(cfg any) config.Described { return *cfg.(*vaultdb.Config) },
	},
	make: func(p *parts, cfg any) (issuer.Issuer, error) {
		return vaultdb.Open(context.Background(), *cfg.(*vaultdb.Config), p.logger.Named("vault_database")) // asks nobody
	},
}
