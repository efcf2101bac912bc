// Package keybroker holds the configuration that runs as it stands.
package keybroker

import _ "embed" // for DefaultConfig

// DefaultConfig is config.hcl: the embedded default, which needs no other system.
//
//go:embed config.hcl
var DefaultConfig []byte
