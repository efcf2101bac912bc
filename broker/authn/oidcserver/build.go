package oidcserver

import (
	"context"
	_ "embed"

	"github.com/keybroker/keybroker/backends/backendtest/pinned"
)

//go:embed package.json
var manifest []byte

//go:embed package-lock.json
var lockfile []byte

// Build installs the provider's modules, unless this machine has them already.
func Build(ctx context.Context) (pinned.Modules, error) {
	return pinned.Node(ctx, "oidc", manifest, lockfile)
}
