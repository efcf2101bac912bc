package main

import (
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) rotationCancelCommand() *cobra.Command {
	return a.onRotation(&cobra.Command{
		Use:   "cancel ID",
		Short: "End a rotation that has published nothing",
		Long: "End a rotation before it publishes: what it minted is revoked and proven dead, and\n" +
			"the current version stays. One that only waits for a proof ends without it, while\n" +
			"the retirement goes on. After it has published, see `keybroker rotation rollback`.",
		Example: "  keybroker rotation cancel 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --reason 'wrong secret'",
	}, "Cancel it?", client.RotationCancelled, func(r client.Rotation) bool {
		return !r.Ended() && r.State != client.RotationOverlap
	}, (*client.Client).Cancel)
}
