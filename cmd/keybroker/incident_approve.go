package main

import (
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) incidentApproveCommand() *cobra.Command {
	return a.onIncident(&cobra.Command{
		Use:   "approve ID",
		Short: "Have a proposed incident done, as the second person",
		Long: "Have a proposed incident done: what it selected is revoked, proven dead and replaced.\n" +
			"Who proposed it may not approve it, nor may a token of theirs.",
		Example: "  keybroker incident approve 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10",
	}, &incidentAct{
		question: "Is all of that to be turned off?",
		decides:  true,
		call:     (*client.Client).ApproveIncident,
		done: func(i client.Incident) string {
			return "is " + inAWord(i) + "; follow it with: keybroker incident watch " + i.ID
		},
	}, client.IncidentProposed)
}
