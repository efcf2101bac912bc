package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) incidentHoldCommand() *cobra.Command {
	var release bool
	act := &incidentAct{
		done: func(i client.Incident) string {
			if i.Hold {
				return "holds what may be evidence: nothing of it is pruned"
			}
			return "holds no evidence any more: what is old enough is pruned"
		},
	}
	cmd := a.onIncident(&cobra.Command{
		Use:   "hold ID|latest",
		Short: "Keep what may be evidence from being pruned, or let it be",
		Long: "Keep audit records, events, reads, tokens and alerts from being pruned, whatever their\n" +
			"retention says. An open incident does so by itself; --release ends it.",
		Example: "  keybroker incident hold 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --reason 'the lawyers want to see it'\n" +
			"  keybroker incident hold 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --release",
	}, act)
	cmd.Flags().BoolVar(&release, "release", false, "do not hold it any more")
	act.call = func(c *client.Client, ctx context.Context, id string, r client.IncidentActRequest) (client.Incident, error) {
		hold := !release
		r.Hold = &hold
		return c.HoldIncident(ctx, id, r)
	}
	return cmd
}
