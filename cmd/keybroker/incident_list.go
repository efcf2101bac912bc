package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) incidentListCommand() *cobra.Command {
	var query client.IncidentQuery
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List incidents, the latest first",
		Long: "List incidents, the latest first.\n\n" +
			"STATE of an open incident is open, contained (everything was rejected) or proven.\n" +
			"EVIDENCE is held where nothing is pruned that may be evidence.",
		Example: "  keybroker incident list --state open\n" +
			"  keybroker incident list --secret payments/stripe",
		Args: takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if query.State != "" {
				if err := oneOf("state", query.State, client.IncidentStates...); err != nil {
					return err
				}
			}
			incidents, err := collect(client.All(func(after string) (client.List[client.Incident], error) {
				query.Page = pageFor(limit, after)
				return c.Incidents(ctx, query)
			}), limit)
			if err != nil {
				return err
			}
			return a.show(incidents, func(t *table) { drawIncidents(t, incidents) })
		}),
	}
	f := cmd.Flags()
	f.StringVar(&query.State, "state", "", "only in this state: "+strings.Join(client.IncidentStates, ", "))
	f.StringVar(&query.Secret, "secret", "", "only about this secret")
	f.IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(client.IncidentStates, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func drawIncidents(t *table, incidents []client.Incident) {
	if len(incidents) == 0 {
		t.row("there is no incident")
		return
	}
	t.row("ID", "STATE", "DECLARED", "BY", "SECRETS", "CONTAINED", "PROVEN DEAD", "REPLACED", "EVIDENCE", "REASON")
	for _, i := range incidents {
		p := i.Progress
		held := ""
		if i.Hold {
			held = "held"
		}
		t.row(i.ID, inAWord(i), i.DeclaredAt, declarer(i), p.Secrets, of(p.Contained, p.Versions), of(p.Proven, p.Versions), of(p.Replaced, p.Secrets), held, i.Reason)
	}
}

// declarer is who declared an incident.
func declarer(i client.Incident) string {
	switch {
	case i.Trigger != "":
		return "trigger " + i.Trigger
	case i.DeclaredBy == "":
		return i.Cause
	}
	return i.DeclaredBy
}

// of counts some of all.
func of(some, all int) string { return fmt.Sprintf("%d/%d", some, all) }
