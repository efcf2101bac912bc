package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) deliveryCommand() *cobra.Command {
	return group("delivery", "Look at what consumers were told, and tell them again", a.deliveryListCommand(), a.deliveryShowCommand(), a.deliveryReplayCommand())
}

func (a *app) deliveryListCommand() *cobra.Command {
	var query client.DeliveryQuery
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deliveries, the latest first",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if query.Event != "" {
				if err := oneOf("event", query.Event, client.DeliveryEvents...); err != nil {
					return err
				}
			}
			if query.State != "" {
				if err := oneOf("state", query.State, client.DeliveryStates...); err != nil {
					return err
				}
			}
			deliveries, err := collect(client.All(func(after string) (client.List[client.Delivery], error) {
				query.Page = pageFor(limit, after)
				return c.Deliveries(ctx, query)
			}), limit)
			if err != nil {
				return err
			}
			if len(deliveries) == 0 && query.Consumer != "" {
				if _, err := c.Consumer(ctx, query.Consumer); client.Status(err) == http.StatusNotFound {
					return err // else nothing would look like nothing to do
				}
			}
			return a.show(deliveries, func(t *table) {
				t.row("ID", "CONSUMER", "SECRET", "VERSION", "EVENT", "STATE", "ATTEMPTS", "RECEIVED", "FETCHED", "APPLIED", "NEXT ATTEMPT", "ERROR")
				for _, d := range deliveries {
					t.row(d.ID, d.Consumer, ofSecret(d), d.Version, d.Event, d.State, d.Attempts, d.ReceivedAt, d.FetchedAt, d.AppliedAt, d.NextAttemptAt, d.Error)
				}
			})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&query.Secret, "secret", "", "only of this secret")
	f.StringVar(&query.Consumer, "consumer", "", "only to this consumer")
	f.StringVar(&query.State, "state", "", "only in this state: "+strings.Join(client.DeliveryStates, ", "))
	f.StringVar(&query.Event, "event", "", "only of this event: "+strings.Join(client.DeliveryEvents, ", "))
	f.IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	_ = cmd.RegisterFlagCompletionFunc("consumer", a.completeConsumerFlag)
	_ = cmd.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(client.DeliveryEvents, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(client.DeliveryStates, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// ofSecret names the secret that a delivery tells of; empty: none.
func ofSecret(d client.Delivery) string {
	if d.Secret == "" {
		return ""
	}
	return qualified(d.Tenant, d.Secret)
}

func (a *app) deliveryShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "Show a delivery, and which instances of its consumer acknowledged it",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeDeliveries(func(client.Delivery) bool { return true }),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.Delivery(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(d, func(t *table) { drawDelivery(t, d) })
		}),
	}
}

func drawDelivery(t *table, d client.Delivery) {
	t.pair("ID", d.ID)
	t.pair("Consumer", d.Consumer)
	t.pair("Event", d.Event)
	t.pair("Secret", ofSecret(d))
	t.pair("Version", d.Version)
	t.pair("Generation", d.Generation)
	t.pair("Trigger", d.Trigger)
	t.pair("Reason", d.Reason)
	t.moment("Due", d.DueAt)
	t.pair("State", d.State)
	t.pair("Attempts", d.Attempts)
	t.pair("Error", d.Error)
	t.moment("Made", d.CreatedAt)
	t.moment("Next attempt", d.NextAttemptAt)
	t.moment("Received", d.ReceivedAt)
	t.moment("Fetched", d.FetchedAt)
	t.moment("Applied", d.AppliedAt)
	using := 0
	for _, k := range d.Acks {
		if k.Status == client.AckApplied {
			using++
		}
	}
	if len(d.Acks) > 0 || d.Instances > 1 {
		t.pair("Instances", fmt.Sprintf("%d/%d", using, d.Instances))
	}
	if d.State == client.DeliveryDead {
		t.pair("Resolved by", "keybroker delivery replay "+d.ID)
	}
	if len(d.Acks) == 0 {
		return
	}
	t.section("INSTANCE", "SAYS", "AT", "SAID BY")
	for _, k := range d.Acks {
		t.row(k.Instance, k.Status, k.At, k.By)
	}
}

// completeDeliveries completes the ids of those deliveries for which of is true.
func (a *app) completeDeliveries(of func(client.Delivery) bool) cobra.CompletionFunc {
	return completeIDs(a, func(ctx context.Context, c *client.Client, p client.Page) ([]client.Delivery, error) {
		list, err := c.Deliveries(ctx, client.DeliveryQuery{Page: p})
		return list.Items, err
	}, func(d client.Delivery) (id, description string) {
		if !of(d) {
			return "", ""
		}
		return d.ID, tells(d) + " to " + d.Consumer + ", " + d.State
	})
}
