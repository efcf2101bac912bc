package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) retirementDoneCommand() *cobra.Command {
	var i intervention
	cmd := &cobra.Command{
		Use:   "done ID",
		Short: "Say that you have turned a credential off by hand",
		Long: "Say that you have turned a credential off by hand, which only a person can. It is\n" +
			"tried at once, and proven dead like any other: what you say counts as what an issuer\n" +
			"acknowledges, and is no proof.",
		Example: "  keybroker retirement done 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --reason 'deleted in the portal'",
		Args:    takes("ID"),
		ValidArgsFunction: a.completeRetirements(func(r client.Retirement) bool {
			return r.WaitingFor == waitHandle || r.WaitingFor == waitByHand || r.ByHand || r.AcknowledgedAt.IsZero()
		}),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			answer, done, err := intervene(ctx, a, i, "Is it turned off?", func(ctx context.Context, r client.InterventionRequest) (client.RetirementIntervention, error) {
				return c.TurnedOff(ctx, args[0], r)
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
