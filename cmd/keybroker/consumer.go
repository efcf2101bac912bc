package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) consumerCommand() *cobra.Command {
	return group("consumer", "Look at who is told of new versions, and try the way to them", a.consumerListCommand(), a.consumerShowCommand(),
		a.consumerTestCommand(), a.consumerEnableCommand(), a.consumerRotateSigningCommand(), a.consumerInboxCommand())
}

func (a *app) consumerListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the consumers of the configuration, and whether they can be told",
		Long: "List the consumers of the configuration, and whether they can be told.\n\n" +
			"STATE is told, failing (what it is to be told does not arrive, and is tried again),\n" +
			"disabled (it answered that it wants no more: keybroker consumer enable NAME) or\n" +
			"quarantined (it is kept out: keybroker quarantine lift consumer NAME --reason TEXT).\n" +
			"WAITING is how many deliveries it has not got yet.",
		Args: takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Consumers(ctx)
			if err != nil {
				return err
			}
			return a.show(list.Items, func(t *table) {
				t.row("NAME", "TENANT", "KIND", "PAYLOAD", "STATE", "WAITING", "SIGNATURE", "DETAIL")
				for _, one := range list.Items {
					t.row(one.Name, one.Tenant, one.Kind, one.Payload, one.State, one.Waiting, one.Signature, one.Detail)
				}
			})
		}),
	}
}

func (a *app) consumerShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a consumer: how it is told, what its messages are signed with, its last delivery",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeConsumers,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			one, err := c.Consumer(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(one, func(t *table) { drawConsumer(t, one) })
		}),
	}
}

func drawConsumer(t *table, one client.Consumer) {
	t.pair("Name", one.Name)
	t.pair("Tenant", one.Tenant)
	t.pair("Role", one.Role)
	t.pair("Kind", one.Kind)
	t.pair("Endpoint", one.Endpoint)
	t.pair("Payload", one.Payload)
	t.pair("Events", one.Events)
	t.pair("Instances", one.Instances)
	t.pair("Attempts at once", one.Concurrency)
	t.pair("State", one.State)
	t.pair("Detail", one.Detail)
	t.moment("Since", one.Since)
	t.moment("Left alone until", one.LeftAloneUntil)
	t.pair("Resolved by", resolvesConsumer(one))
	t.pair("Waiting", one.Waiting)
	t.moment("Waiting since", one.WaitingSince)
	t.moment("Next attempt", one.NextAttemptAt)
	t.pair("Signature", one.Signature)
	if d := one.LastDelivery; d != nil {
		t.pair("Last delivery", fmt.Sprintf("%s, %s, %s (%s)", d.ID, tells(*d), d.State, relative(d.CreatedAt, t.now)))
	}
	if len(one.SigningKeys) > 0 {
		t.section(signingColumns...)
		drawSigningKeys(t, one.SigningKeys)
	}
}

// tells says what a delivery tells of.
func tells(d client.Delivery) string {
	if d.Secret == "" {
		return d.Event
	}
	return fmt.Sprintf("%s of %s version %d", d.Event, qualified(d.Tenant, d.Secret), d.Version)
}

// resolvesConsumer says how a consumer is told again.
func resolvesConsumer(one client.Consumer) string {
	switch one.State {
	case client.ConsumerKeptOut:
		return "keybroker quarantine lift consumer " + one.Name + " --reason TEXT"
	case client.ConsumerDisabled:
		return "keybroker consumer enable " + one.Name
	case client.ConsumerFailing:
		return "it is tried again by itself; now: keybroker consumer enable " + one.Name
	}
	return ""
}

// completeConsumers completes the names of consumers by asking the server.
func (a *app) completeConsumers(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return completeIDs(a, func(ctx context.Context, c *client.Client, _ client.Page) ([]client.Consumer, error) {
		list, err := c.Consumers(ctx)
		return list.Items, err
	}, func(one client.Consumer) (id, description string) { return one.Name, one.Kind + ", " + one.State })(cmd, args, prefix)
}

// completeConsumerFlag is completeConsumers for a flag.
func (a *app) completeConsumerFlag(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeConsumers(cmd, nil, prefix)
}
