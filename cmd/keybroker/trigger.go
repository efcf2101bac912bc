package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) triggerCommand() *cobra.Command {
	return group("trigger", "Look at what may start rotations and emergencies by events", a.triggerListCommand(), a.triggerShowCommand())
}

func (a *app) triggerListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the triggers of the configuration, and what they did lately",
		Long: "List the triggers of the configuration, and what they did lately. LATELY is how many\n" +
			"times each acted within its cooldown, of how many it may; HELD is how many of its events\n" +
			"wait for people.",
		Args: takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Triggers(ctx)
			if err != nil {
				return err
			}
			return a.show(list.Items, func(t *table) {
				t.row("NAME", "TYPE", "TENANT", "ACTION", "LATELY", "HELD", "EVENTS", "LAST EVENT", "OUTCOME")
				for _, one := range list.Items {
					t.row(one.Name, one.Type, one.Tenant, one.Action, lately(one), one.Held, one.Events, one.LastAt, one.LastOutcome)
				}
			})
		}),
	}
}

func lately(t client.Trigger) string { return fmt.Sprintf("%d of %d", t.ActedLately, t.MaxSecrets) }

func (a *app) triggerShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a trigger, and what it did lately",
		Args:  takes("NAME"),
		ValidArgsFunction: completeIDs(a, func(ctx context.Context, c *client.Client, _ client.Page) ([]client.Trigger, error) {
			list, err := c.Triggers(ctx)
			return list.Items, err
		}, func(one client.Trigger) (id, description string) { return one.Name, one.Type + ": " + one.Action }),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			one, err := c.Trigger(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(one, func(t *table) { drawTrigger(t, one) })
		}),
	}
}

func drawTrigger(t *table, one client.Trigger) {
	t.pair("Name", one.Name)
	t.pair("Type", one.Type)
	t.pair("Tenant", one.Tenant)
	t.pair("Action", one.Action)
	t.pair("Acts", fmt.Sprintf("on %d secrets at most within %s", one.MaxSecrets, time.Duration(one.Cooldown)*time.Second))
	t.pair("Lately", lately(one))
	t.pair("On alerts", one.On)
	t.pair("Reads a minute", one.Reads)
	t.pair("Denied a minute", one.Denied)
	t.pair("Events", one.Events)
	t.pair("Held", one.Held)
	t.moment("Last event", one.LastAt)
	t.pair("Its outcome", one.LastOutcome)
	t.pair("Its id", one.LastID)
	t.pair("Proposed incident", one.IncidentID)
	if one.Held > 0 {
		t.pair("Next", "keybroker event list --outcome held --trigger "+one.Name)
	}
}

// joined are labels as people write them.
func joined(labels map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, key+"="+labels[key])
	}
	return strings.Join(all, ", ")
}
