package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) alertCommand() *cobra.Command {
	return group("alert", "Look at what is wrong, and who was told of it",
		a.alertListCommand(), a.alertShowCommand(), a.alertAckCommand(), a.alertTestCommand())
}

func (a *app) alertListCommand() *cobra.Command {
	var query client.AlertQuery
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what is wrong now, the latest first",
		Long: "List what is wrong now, the latest first. With --all, what is over, too.\n\n" +
			"TOLD says how each notifier stands: \"pager sent\", or why it could not be told.",
		Example: "  keybroker alert list\n" +
			"  keybroker alert list --all --kind resurrected",
		Args: takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if query.Kind != "" {
				if err := oneOf("kind", query.Kind, client.AlertKinds...); err != nil {
					return err
				}
			}
			alerts, err := collect(client.All(func(after string) (client.List[client.Alert], error) {
				query.Page = pageFor(limit, after)
				return c.Alerts(ctx, query)
			}), limit)
			if err != nil {
				return err
			}
			return a.show(alerts, func(t *table) { drawAlerts(t, alerts, query.All) })
		}),
	}
	f := cmd.Flags()
	f.StringVar(&query.Kind, "kind", "", "only of this kind: "+strings.Join(client.AlertKinds, ", "))
	f.BoolVar(&query.All, "all", false, "also what is over")
	f.IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(client.AlertKinds, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func drawAlerts(t *table, alerts []client.Alert, all bool) {
	if len(alerts) == 0 {
		if all {
			t.row("there was no alert")
		} else {
			t.row("nothing is wrong")
		}
		return
	}
	t.row("ID", "KIND", "TENANT", "SINCE", "OVER", "ACKNOWLEDGED BY", "TOLD", "WHAT")
	for _, one := range alerts {
		t.row(one.ID, one.Kind, one.Tenant, one.OpenedAt, one.ResolvedAt, one.AcknowledgedBy, told(one.Notices), one.Text)
	}
}

// told says in short how the notifiers stand.
func told(notices []client.Notice) string {
	var all []string
	for _, n := range notices {
		text := n.Notifier + " " + n.State
		if n.State != client.NoticeSent && n.Error != "" {
			text = fmt.Sprintf("%s failed %d times", n.Notifier, n.Attempts)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func (a *app) alertShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "Show an alert, what to do about it, and who was told of it",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeAlerts(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			one, err := c.Alert(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(one, func(t *table) { drawAlert(t, one) })
		}),
	}
}

func drawAlert(t *table, one client.Alert) {
	t.pair("ID", one.ID)
	t.pair("Kind", fmt.Sprintf("%s (%s)", one.Kind, one.Severity))
	t.pair("What", one.Text)
	t.pair("Next", one.Next)
	t.pair("Tenant", one.Tenant)
	t.pair("Subject", one.Subject)
	t.pair("Node", one.Node)
	t.moment("Since", one.OpenedAt)
	if one.Count > 1 {
		t.pair("Times", one.Count)
		t.moment("Last", one.LastAt)
	}
	t.moment("Acknowledged", one.AcknowledgedAt)
	t.pair("Acknowledged by", one.AcknowledgedBy)
	t.pair("Reason", one.Reason)
	t.moment("Over", one.ResolvedAt)
	if len(one.Notices) == 0 {
		return
	}
	t.section("ALERT", "NOTIFIER", "EVENT", "STATE", "TOLD", "LAST", "ATTEMPTS", "NEXT", "ERROR")
	for _, n := range one.Notices {
		t.row(n.Rule, n.Notifier, n.Event, n.State, n.Told, n.SentAt, n.Attempts, n.NextAt, n.Error)
	}
}

func (a *app) completeAlerts() cobra.CompletionFunc {
	return completeIDs(a, func(ctx context.Context, c *client.Client, p client.Page) ([]client.Alert, error) {
		list, err := c.Alerts(ctx, client.AlertQuery{Page: p})
		return list.Items, err
	}, func(one client.Alert) (id, description string) { return one.ID, one.Kind + ": " + one.Text })
}

func (a *app) alertAckCommand() *cobra.Command {
	var r client.AcknowledgeAlertRequest
	cmd := &cobra.Command{
		Use:   "ack ID",
		Short: "Say that you look after an alert: nobody is reminded of it any more",
		Long: "Say that you look after an alert: nobody is reminded of it any more, and it does not\n" +
			"escalate. It stays open until what it is about is over, and whoever was told of it is\n" +
			"told of that. What is about something that has happened (new_root_token, break_glass,\n" +
			"unprovable) is over with the acknowledgement.",
		Example:           "  keybroker alert ack alt_019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --reason 'key turned off at the provider'",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeAlerts(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			one, err := c.AcknowledgeAlert(ctx, args[0], r)
			switch {
			case err != nil:
				return err
			case a.json():
				return a.showJSON(one)
			case r.Reason != "" && r.Reason != one.Reason:
				a.note("alert %s was acknowledged before, by %s at %s; what you say is in the audit log alone", one.ID, one.AcknowledgedBy, stamp(one.AcknowledgedAt))
			case one.ResolvedAt.IsZero():
				a.note("alert %s is acknowledged by %s; it stays open until it is over", one.ID, one.AcknowledgedBy)
			default:
				a.note("alert %s is acknowledged by %s, and over", one.ID, one.AcknowledgedBy)
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&r.Reason, "reason", "", "what you do about it, for those who look at it after you")
	return cmd
}

func (a *app) alertTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "test NOTIFIER",
		Short:   "Have a notifier tell now that it works",
		Example: "  keybroker alert test pager",
		Args:    takes("NOTIFIER"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			out, err := c.TestNotifier(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json() {
				if err := a.showJSON(out); err != nil {
					return err
				}
			}
			if !out.OK {
				return fmt.Errorf("the notifier %s could not tell: %s", out.Notifier, out.Error)
			}
			if !a.json() {
				a.note("the notifier %s has told: see that it has arrived", out.Notifier)
			}
			return nil
		}),
	}
}
