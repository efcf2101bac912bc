package main

import (
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) rotationApproveCommand() *cobra.Command {
	return a.onRotation(&cobra.Command{
		Use:   "approve ID",
		Short: "Let a rotation begin that somebody else has asked for",
		Long: "Approve a rotation whose secret says approval = true. Whoever asked for it cannot\n" +
			"approve it. `keybroker rotation list --live` shows those that wait for approval;\n" +
			"to refuse one, see `keybroker rotation cancel`.",
		Example: "  keybroker rotation approve 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --reason CHG-1234",
	}, "Approve it?", client.RotationDone, func(r client.Rotation) bool {
		return r.State == client.RotationQueued && r.WaitingFor == "approval"
	}, (*client.Client).Approve)
}
