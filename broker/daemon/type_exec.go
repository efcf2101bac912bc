package daemon

import (
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/exec"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/execprobe"
)

var byProgram = issuerType{
	IssuerType: config.IssuerType{
		Type: config.Type{New: func() any { return new(exec.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			return c.Mistakes(cfg, cfg.(*exec.Config).Validate())
		}},
		Describe: func(cfg any) config.Described { return exec.New(*cfg.(*exec.Config)) },
	},
	make: func(_ *parts, cfg any) (issuer.Issuer, error) { return exec.New(*cfg.(*exec.Config)), nil },
}

var tryByProgram = probeType{
	Type: config.Type{New: func() any { return new(execprobe.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
		return c.Mistakes(cfg, cfg.(*execprobe.Config).Validate())
	}},
	make: func(_ *parts, cfg any) (probe.Probe, error) { return execprobe.New(*cfg.(*execprobe.Config)), nil },
}
