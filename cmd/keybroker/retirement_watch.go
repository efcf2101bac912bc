package main

import (
	"context"
	"iter"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) retirementWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch ID",
		Short: "Follow a retirement live, to the proof",
		Long: "Follow the retirement of one version live: a line for each milestone and for each\n" +
			"round of the proof. Exits 0 once it is proven dead, 1 if nothing more can be done\n" +
			"and it is not.",
		Example:           "  keybroker retirement watch 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeRetirements(func(r client.Retirement) bool { return !r.Settled() || r.State != client.ProvenDead }),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			return a.retirementToTheProof(ctx, c, args[0])
		}),
	}
}

func (a *app) retirementToTheProof(ctx context.Context, c *client.Client, id string) error {
	return a.follow(ctx, client.RotationDone, func(ctx context.Context) iter.Seq2[client.Event, error] { return c.WatchRetirement(ctx, id) })
}
