package daemon

import (
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/human"
)

var byHand = issuerType{
	IssuerType: config.IssuerType{
		Type: config.Type{New: func() any { return new(human.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			return c.Mistakes(cfg, cfg.(*human.Config).Validate())
		}},
		Describe: func(cfg any) config.Described { return human.New(*cfg.(*human.Config)) },
	},
	make: func(_ *parts, cfg any) (issuer.Issuer, error) { return human.New(*cfg.(*human.Config)), nil },
}
