package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) driftRestoreCommand() *cobra.Command {
	var i intervention
	var backend string
	cmd := &cobra.Command{
		Use:   "restore NAME --backend B",
		Short: "Write the current version over what a vault holds",
		Long: "Write the current version of a secret over what somebody else left in a vault, or to\n" +
			"a mirror that is behind. It shows what it will do, and asks before it does that.",
		Example:           "  keybroker drift restore payments/stripe --backend us --reason 'edited by hand'",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if backend == "" {
				return usagef("--backend is missing; `keybroker drift list --secret %s` lists those that are out of step", args[0])
			}
			answer, done, err := intervene(ctx, a, i, "Restore it?", func(ctx context.Context, r client.InterventionRequest) (client.Restoration, error) {
				return c.RestoreDrift(ctx, args[0], client.DriftRequest{Backend: backend, InterventionRequest: r})
			})
			switch {
			case err != nil || !done:
				return err
			case a.json():
				return a.showJSON(answer)
			}
			a.note("%s holds version %d of %s", printable(backend), answer.Placement.HeldVersion, qualified(answer.Placement.Tenant, answer.Placement.Secret))
			return nil
		}),
	}
	i.flags(cmd)
	cmd.Flags().StringVar(&backend, "backend", "", "the vault to write to")
	return cmd
}
