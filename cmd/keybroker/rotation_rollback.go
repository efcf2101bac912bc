package main

import (
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) rotationRollbackCommand() *cobra.Command {
	return a.onRotation(&cobra.Command{
		Use:   "rollback ID",
		Short: "Make the version current again that a rotation has replaced",
		Long: "Make the previous version current again, as long as its retirement was not requested:\n" +
			"that is, in the overlap. The consumers are told, and the new version is revoked and\n" +
			"proven dead. Afterwards it is refused: what is being revoked cannot come back.",
		Example: "  keybroker rotation rollback 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --reason 'the application cannot use it'",
	}, "Roll it back?", client.RotationRolledBack, func(r client.Rotation) bool {
		return r.State == client.RotationOverlap
	}, (*client.Client).RollBack)
}
