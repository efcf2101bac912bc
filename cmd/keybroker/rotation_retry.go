package main

import (
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) rotationRetryCommand() *cobra.Command {
	return a.onRotation(&cobra.Command{
		Use:   "retry ID",
		Short: "Let a rotation try again now",
		Long: "Let a rotation that is waiting try again now instead of at its next look. In place\n" +
			"of one that failed, or was cancelled or rolled back, a new rotation begins.",
		Example: "  keybroker rotation retry 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --wait",
	}, "Try again?", client.RotationDone, func(r client.Rotation) bool {
		return !r.Ended() || r.State == client.RotationFailed || r.State == client.RotationCancelled || r.State == client.RotationRolledBack
	}, (*client.Client).Retry)
}
