package daemon

import (
	"context"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/awsiam"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/awssts"
)

var accessKeys = issuerType{
	IssuerType: config.IssuerType{
		Type: config.Type{New: func() any { return new(awsiam.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			return c.Mistakes(cfg, cfg.(*awsiam.Config).Validate())
		}},
		Describe: func(cfg any) config.Described { return *cfg.(*awsiam.Config) },
	},
	make: func(p *parts, cfg any) (issuer.Issuer, error) {
		is, err := awsiam.Open(context.Background(), *cfg.(*awsiam.Config), p.logger.Named("aws_iam")) // asks nobody
		if err != nil {
			return nil, err
		}
		return is, nil
	},
}

var askSTS = probeType{
	Type: config.Type{New: func() any { return new(awssts.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
		return c.Mistakes(cfg, cfg.(*awssts.Config).Validate())
	}},
	make: func(_ *parts, cfg any) (probe.Probe, error) {
		pr, err := awssts.New(*cfg.(*awssts.Config))
		if err != nil {
			return nil, err
		}
		return pr, nil
	},
}
