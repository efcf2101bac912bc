package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) unfreezeCommand() *cobra.Command {
	var i intervention
	cmd := &cobra.Command{
		Use:     "unfreeze",
		Short:   "End a freeze",
		Long:    "End a freeze: what was waiting for it goes on.",
		Example: "  keybroker unfreeze --yes",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			answer, done, err := intervene(ctx, a, i, "Unfreeze everything?", c.Unfreeze)
			if err != nil || !done {
				return err
			}
			if a.json() {
				return a.showJSON(answer)
			}
			a.note("nothing is frozen")
			return nil
		}),
	}
	i.flags(cmd)
	return cmd
}
