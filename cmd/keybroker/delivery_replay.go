package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) deliveryReplayCommand() *cobra.Command {
	var i intervention
	cmd := &cobra.Command{
		Use:   "replay ID",
		Short: "Deliver once more what a consumer did not get",
		Long: "Deliver once more what was given up, or was delivered and came to nothing. What the\n" +
			"consumer has acknowledged can be, too: it then waits for its answer again. Only the\n" +
			"newest generation of a secret can be: an older one is never delivered after it.",
		Example: "  keybroker delivery list --state dead\n" +
			"  keybroker delivery replay 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10",
		Args: takes("ID"),
		ValidArgsFunction: a.completeDeliveries(func(d client.Delivery) bool {
			return d.Secret != "" && d.State != client.DeliverySuperseded && d.State != client.DeliveryApplied
		}),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			answer, done, err := intervene(ctx, a, i, "Deliver it?", func(ctx context.Context, r client.InterventionRequest) (client.DeliveryIntervention, error) {
				return c.Replay(ctx, args[0], r)
			})
			switch {
			case err != nil || !done:
				return err
			case a.json():
				return a.showJSON(answer)
			}
			d := answer.Delivery
			a.note("delivery %s of %s version %d to %s is %s", d.ID, qualified(d.Tenant, d.Secret), d.Version, d.Consumer, d.State)
			return nil
		}),
	}
	i.flags(cmd)
	return cmd
}
