package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) deliveryCommand() *cobra.Command {
	return group("delivery", "Look at what consumers were told, and tell them again", a.deliveryListCommand(), a.deliveryReplayCommand())
}

func (a *app) deliveryListCommand() *cobra.Command {
	var query client.DeliveryQuery
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deliveries, the latest first",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			deliveries, err := collect(client.All(func(after string) (client.List[client.Delivery], error) {
				query.Page = pageFor(limit, after)
				return c.Deliveries(ctx, query)
			}), limit)
			if err != nil {
				return err
			}
			return a.show(deliveries, func(t *table) {
				t.row("ID", "CONSUMER", "SECRET", "VERSION", "STATE", "ATTEMPTS", "RECEIVED", "APPLIED", "NEXT ATTEMPT", "ERROR")
				for _, d := range deliveries {
					t.row(d.ID, d.Consumer, qualified(d.Tenant, d.Secret), d.Version, d.State, d.Attempts, d.ReceivedAt, d.AppliedAt, d.NextAttemptAt, d.Error)
				}
			})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&query.Secret, "secret", "", "only of this secret")
	f.StringVar(&query.Consumer, "consumer", "", "only to this consumer")
	f.StringVar(&query.State, "state", "", "only in this state: pending, received, applied, superseded, dead")
	f.IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{
		client.DeliveryPending, client.DeliveryReceived, client.DeliveryApplied, client.DeliverySuperseded, client.DeliveryDead,
	}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
