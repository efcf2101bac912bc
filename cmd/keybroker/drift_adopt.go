package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) driftAdoptCommand() *cobra.Command {
	var i intervention
	var backend string
	cmd := &cobra.Command{
		Use:   "adopt NAME [--backend B]",
		Short: "Make the value current that somebody else wrote to a vault",
		Long: "Make the value current that somebody else wrote to a vault: by a rotation that waits\n" +
			"until somebody else approves it, and goes on only if the value's probe accepts it. What\n" +
			"was current before is then revoked and proven dead, as after any rotation.",
		Example:           "  keybroker drift adopt payments/stripe --reason 'rotated by hand in an incident'",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			answer, done, err := intervene(ctx, a, i, "Ask for it?", func(ctx context.Context, r client.InterventionRequest) (client.RotationIntervention, error) {
				return c.AdoptDrift(ctx, args[0], client.DriftRequest{Backend: backend, InterventionRequest: r})
			})
			switch {
			case err != nil || !done:
				return err
			case i.wait:
				return a.rotationUntil(ctx, c, answer.Rotation, client.RotationDone)
			case a.json():
				return a.showJSON(answer)
			}
			a.note("rotation %s waits for an approval, by somebody else than %s", answer.Rotation.ID, printable(answer.Rotation.Actor))
			a.note("who may: keybroker rotation approve %s", answer.Rotation.ID)
			return nil
		}),
	}
	i.flags(cmd)
	i.waitFlag(cmd, "follow it; exit 1 unless it ends done and what it replaces is proven dead")
	cmd.Flags().StringVar(&backend, "backend", "", "the vault that holds it; default the secret's backend")
	return cmd
}
