package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) retirementProbeCommand() *cobra.Command {
	var i intervention
	cmd := &cobra.Command{
		Use:   "probe ID",
		Short: "Try a revoked version now instead of at its next time",
		Long: "Try a revoked version now: one round, over every address and beside its control, as\n" +
			"those of the proof. It shortens no proof: the rounds that are needed stay spread over\n" +
			"the window. A version that is proven dead can be tried again like this.",
		Example:           "  keybroker retirement probe 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --wait",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeRetirements(func(r client.Retirement) bool { return r.State != client.Requested }),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			answer, done, err := intervene(ctx, a, i, "Try it now?", func(ctx context.Context, r client.InterventionRequest) (client.RetirementIntervention, error) {
				return c.Probe(ctx, args[0], r)
			})
			if err != nil || !done {
				return err
			}
			switch {
			case i.wait:
				return a.retirementToTheProof(ctx, c, args[0])
			case a.json():
				return a.showJSON(answer)
			}
			return a.retirementBegun(ctx, c, answer.Retirement, false)
		}),
	}
	i.flags(cmd)
	i.waitFlag(cmd, "follow it; exit 1 unless it is proven dead")
	return cmd
}
