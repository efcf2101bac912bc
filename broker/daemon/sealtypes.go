package daemon

import (
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/config"
)

// sealTypes are the types of seals besides the key file, which every configuration has.
func sealTypes() map[string]config.Type {
	return map[string]config.Type{
		seal.TypeKMS:     sealOf[seal.KMSConfig](),
		seal.TypeTransit: sealOf[seal.TransitConfig](),
	}
}

// sealOf is a type whose block is read into a C.
func sealOf[C interface{ Validate() error }]() config.Type {
	return config.Type{
		New:   func() any { return new(C) },
		Check: func(cfg any, c config.CheckContext) hcl.Diagnostics { return c.Mistakes(cfg, (*cfg.(*C)).Validate()) },
	}
}
