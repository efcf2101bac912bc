package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) incidentCloseCommand() *cobra.Command {
	var keep bool
	act := &incidentAct{
		question: "Are people done with it?",
		needs:    true,
		call: func(c *client.Client, ctx context.Context, id string, r client.IncidentActRequest) (client.Incident, error) {
			r.Hold = &keep
			return c.CloseIncident(ctx, id, r)
		},
		done: func(i client.Incident) string {
			text := "is closed; its report: keybroker incident report " + i.ID
			if i.Hold {
				text += "; its evidence is still held, until: keybroker incident hold " + i.ID + " --release"
			}
			return text
		},
	}
	cmd := a.onIncident(&cobra.Command{
		Use:   "close ID|latest --reason TEXT",
		Short: "Say that people are done with an incident",
		Long: "Say that people are done with an incident. What it began goes on to its proof, and\n" +
			"quarantines stay until they are lifted. What may be evidence is pruned as usual from\n" +
			"then on, unless it is kept: make the report first.",
		Example: "  keybroker incident close 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --reason 'reviewed on Monday' --keep-hold",
	}, act, client.IncidentOpen)
	cmd.Flags().BoolVar(&keep, "keep-hold", false, "go on holding what may be evidence")
	return cmd
}
