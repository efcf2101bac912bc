package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) driftCommand() *cobra.Command {
	return group("drift", "Look at what the vaults hold, and put it right",
		a.driftListCommand(), a.driftCheckCommand(), a.driftRestoreCommand(), a.driftAdoptCommand())
}

func (a *app) driftListCommand() *cobra.Command {
	var query client.DriftQuery
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the vaults that do not hold what they should",
		Long: "List the vaults that do not hold what they should, for each secret: a mirror that was\n" +
			"not brought to the current version yet (behind), or one in which somebody else has\n" +
			"changed something (drifted). With --all, those that are in step, too.",
		Example: "  keybroker drift list --backend us",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			placements, err := placementsOf(ctx, c, query)
			if err != nil {
				return err
			}
			return a.showPlacements(placements, "everything is in step")
		}),
	}
	f := cmd.Flags()
	f.StringVar(&query.Secret, "secret", "", "only of this secret")
	f.StringVar(&query.Backend, "backend", "", "only in this backend")
	f.BoolVar(&query.All, "all", false, "also those that are in step")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	return cmd
}

func placementsOf(ctx context.Context, c *client.Client, q client.DriftQuery) ([]client.Placement, error) {
	return collect(client.All(func(after string) (client.List[client.Placement], error) {
		q.Page = pageFor(0, after)
		return c.Placements(ctx, q)
	}), 0)
}

// showPlacements prints a table of them, or for people what none means.
func (a *app) showPlacements(placements []client.Placement, none string) error {
	return a.show(placements, func(t *table) {
		if len(placements) == 0 {
			t.row(none)
			return
		}
		t.row("SECRET", "BACKEND", "ROLE", "STATE", "WANTED", "HELD", "LAST IN STEP", "FOUND", "DETAIL")
		for _, p := range placements {
			d := client.Drift{}
			if p.Drift != nil {
				d = *p.Drift
			}
			t.row(qualified(p.Tenant, p.Secret), p.Backend, p.Role, p.State, p.WantedVersion, p.HeldVersion, p.SyncedAt, d.FoundAt, p.Detail())
		}
	})
}
