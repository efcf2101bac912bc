package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) freezeCommand() *cobra.Command {
	var i intervention
	cmd := &cobra.Command{
		Use:   "freeze --reason TEXT",
		Short: "Keep everything as it is, except in emergencies",
		Long: "Keep everything as it is, of all tenants: no rotation begins, publishes or ends its\n" +
			"overlap, and nothing is revoked. What has begun outside is finished, deliveries and\n" +
			"probing go on, and emergencies are exempt. `keybroker freeze status` tells whether\n" +
			"everything is frozen, `keybroker unfreeze` ends it.",
		Example: "  keybroker freeze --reason 'black friday'",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if strings.TrimSpace(i.reason) == "" {
				return usagef("--reason is missing: whoever waits for the end of the freeze will read it")
			}
			answer, done, err := intervene(ctx, a, i, "Freeze everything?", c.Freeze)
			if err != nil || !done {
				return err
			}
			if a.json() {
				return a.showJSON(answer)
			}
			a.note("everything is frozen; end it with: keybroker unfreeze")
			return nil
		}),
	}
	i.flags(cmd)
	cmd.AddCommand(a.freezeStatusCommand())
	return cmd
}

func (a *app) freezeStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell whether everything is frozen, by whom and why",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			f, err := c.Frozen(ctx)
			if err != nil {
				return err
			}
			return a.show(f, func(t *table) {
				if !f.Frozen {
					t.row("nothing is frozen")
					return
				}
				t.pair("Frozen by", f.By)
				t.pair("Reason", f.Reason)
				t.moment("Since", f.At)
			})
		}),
	}
}
