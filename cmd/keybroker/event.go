package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) eventCommand() *cobra.Command {
	return group("event", "Look at what systems outside reported, and act on what was held", a.eventListCommand(), a.eventShowCommand(), a.eventApplyCommand())
}

func (a *app) eventListCommand() *cobra.Command {
	var query client.InboundEventQuery
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the events that triggers have accepted, the latest first",
		Long: "List the events that triggers have accepted, the latest first: what reports of leaks,\n" +
			"alerts of other systems and what the broker itself noticed were about, and what came\n" +
			"of them. What is held waits for people: see 'keybroker event apply'.",
		Example: "  keybroker event list --outcome held\n" +
			"  keybroker event list --trigger leaks --limit 10",
		Args: takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if query.Outcome != "" {
				if err := oneOf("outcome", query.Outcome, client.EventOutcomes...); err != nil {
					return err
				}
			}
			events, err := collect(client.All(func(after string) (client.List[client.InboundEvent], error) {
				query.Page = pageFor(limit, after)
				return c.InboundEvents(ctx, query)
			}), limit)
			if err != nil {
				return err
			}
			if len(events) == 0 && query.Trigger != "" {
				if _, err := c.Trigger(ctx, query.Trigger); client.Status(err) == http.StatusNotFound {
					return err // else nothing would look like nothing reported
				}
			}
			return a.show(events, func(t *table) {
				t.row("ID", "TRIGGER", "RECEIVED", "OUTCOME", "SECRETS", "TIMES", "WHY")
				for _, ev := range events {
					t.row(ev.ID, ev.Trigger, ev.ReceivedAt, ev.Outcome, secretsOf(ev), ev.Repeats+1, ev.Reason)
				}
			})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&query.Trigger, "trigger", "", "only of this trigger")
	f.StringVar(&query.Outcome, "outcome", "", "only with this outcome: "+strings.Join(client.EventOutcomes, ", "))
	f.IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions(client.EventOutcomes, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// secretsOf names some of the secrets that an event is about.
func secretsOf(ev client.InboundEvent) string {
	const some = 3
	var names []string
	for i, m := range ev.Matches {
		if i == some {
			names = append(names, fmt.Sprintf("%d more", len(ev.Matches)-some))
			break
		}
		names = append(names, qualified(m.Tenant, m.Secret))
	}
	return strings.Join(names, ", ")
}

func (a *app) eventShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "Show an event, and what came of it for each secret",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeEvents(""),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			ev, err := c.InboundEvent(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(ev, func(t *table) { drawEvent(t, ev) })
		}),
	}
}

func drawEvent(t *table, ev client.InboundEvent) {
	t.pair("ID", ev.ID)
	t.pair("Trigger", fmt.Sprintf("%s (%s)", ev.Trigger, ev.Action))
	t.pair("Outcome", ev.Outcome)
	t.pair("Why", ev.Reason)
	t.pair("Source", ev.Source)
	t.pair("See", ev.URL)
	t.pair("Its sender's id", ev.EventID)
	t.pair("From", ev.Address)
	t.pair("Actor", ev.Actor)
	t.moment("Happened", ev.At)
	t.moment("Received", ev.ReceivedAt)
	if ev.Repeats > 0 {
		t.pair("Came again", ev.Repeats)
		t.moment("Last", ev.LastAt)
	}
	t.pair("Names", ev.Names)
	t.pair("Labels", joined(ev.Labels))
	t.pair("Leaked values", ev.Values)
	t.pair("Handles", ev.Handles)
	t.pair("Incident", ev.IncidentID)
	t.pair("Applied by", ev.AppliedBy)
	t.moment("Applied", ev.AppliedAt)
	t.pair("Missing", ev.Error)
	t.moment("Fetched again", ev.RetryAt)
	t.pair("Next", nextOf(ev))
	if len(ev.Matches) == 0 {
		return
	}
	t.section("SECRET", "VERSIONS", "BY", "OUTCOME", "ROTATION", "WHY")
	for _, m := range ev.Matches {
		versions := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(m.Versions)), ", "), "[]")
		t.row(qualified(m.Tenant, m.Secret), versions, m.By, m.Outcome, m.RotationID, m.Error)
	}
}

// nextOf is the command that goes on with an event; empty: there is none.
func nextOf(ev client.InboundEvent) string {
	switch {
	case ev.Outcome == client.OutcomeHeld && ev.IncidentID != "":
		return "keybroker event apply " + ev.ID + ", or for all that is held: keybroker incident approve " + ev.IncidentID
	case ev.Outcome == client.OutcomeHeld:
		return "keybroker event apply " + ev.ID
	case ev.Outcome == client.OutcomeActed && ev.IncidentID != "":
		return "keybroker incident show " + ev.IncidentID
	}
	return ""
}

func (a *app) eventApplyCommand() *cobra.Command {
	var r client.ApplyEventRequest
	cmd := &cobra.Command{
		Use:   "apply ID",
		Short: "Act on what of an event was held",
		Long: "Act on what of an event was held: its trigger had acted on as many secrets as it may\n" +
			"(max_secrets within cooldown). They are rotated, or an emergency is declared for them,\n" +
			"as the trigger would have done. It takes the right to do that to each secret; those\n" +
			"on which it is missing stay held.",
		Example:           "  keybroker event apply evt_019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --reason 'the finding is real'",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeEvents(client.OutcomeHeld),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			ev, err := c.ApplyEvent(ctx, args[0], r)
			if err != nil {
				return err
			}
			refused := 0
			for _, m := range ev.Matches {
				if m.Outcome == client.OutcomeRefused {
					refused++
				}
			}
			if err := a.show(ev, func(t *table) { drawEvent(t, ev) }); err != nil {
				return err
			}
			if refused > 0 {
				return errors.New("for some of the secrets nothing could be begun")
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&r.Reason, "reason", "", "why, for the audit log and for whoever is told; by default what the event says")
	return cmd
}

func (a *app) completeEvents(outcome string) cobra.CompletionFunc {
	return completeIDs(a, func(ctx context.Context, c *client.Client, p client.Page) ([]client.InboundEvent, error) {
		list, err := c.InboundEvents(ctx, client.InboundEventQuery{Outcome: outcome, Page: p})
		return list.Items, err
	}, func(ev client.InboundEvent) (id, description string) {
		return ev.ID, ev.Trigger + ": " + ev.Outcome + ", " + ev.Reason
	})
}
