package motoserver

import (
	"context"
	_ "embed"

	"github.com/keybroker/keybroker/backends/backendtest/pinned"
)

//go:embed requirements.txt
var requirements []byte

// Build returns the Python that has moto installed, installing it unless this machine
// has it already.
func Build(ctx context.Context) (string, error) {
	return pinned.Python(ctx, "moto", requirements)
}
