package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) incidentCheckCommand() *cobra.Command {
	var done int
	cmd := &cobra.Command{
		Use:   "check ID|latest [TEXT]",
		Short: "Show what people have to do, add to it, or say that something is done",
		Long: "Show what people have to do in an incident: what keybroker does not manage, and nobody\n" +
			"else will turn off. With TEXT something is added; with --done N the item N is done, and\n" +
			"TEXT remarks on it.",
		Example: "  keybroker incident check 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10\n" +
			"  keybroker incident check 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 'end the sessions of the CI account'\n" +
			"  keybroker incident check 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --done 1 'ended at 03:20, ticket 4711'",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeIncidents(),
	}
	cmd.RunE = a.onOne(func(ctx context.Context, c *client.Client, id string, rest []string) error {
		isDone := cmd.Flags().Changed("done")
		if isDone && done < 1 {
			return usagef("--done is %d; items begin at 1", done)
		}
		r := client.IncidentNoteRequest{Check: !isDone, Done: done}
		if len(rest) == 1 {
			var err error
			if r.Text, err = a.noteText(rest[0]); err != nil {
				return err
			}
		}
		if !isDone && r.Text == "" {
			i, err := c.Incident(ctx, id)
			return a.showChecklist(i, err)
		}
		i, err := c.NoteIncident(ctx, id, r)
		return a.showChecklist(i, err)
	})
	cmd.Flags().IntVar(&done, "done", 0, "the `ITEM` that is done")
	_ = cmd.RegisterFlagCompletionFunc("done", a.completeChecks)
	return cmd
}

func (a *app) showChecklist(i client.Incident, err error) error {
	if err != nil {
		return err
	}
	checks := append([]client.IncidentCheck{}, i.Checklist...) // [] in JSON, not null
	return a.show(checks, func(t *table) {
		if len(checks) == 0 {
			t.row("nothing is to be done by people")
			return
		}
		t.row(checklistColumns...)
		drawChecks(t, checks)
	})
}

// completeChecks completes what is to be done yet of the incident that is named.
func (a *app) completeChecks(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeIDs(a, func(ctx context.Context, c *client.Client, _ client.Page) ([]client.IncidentCheck, error) {
		id, err := findIncident(ctx, c, args[0])
		if err != nil {
			return nil, err
		}
		i, err := c.Incident(ctx, id)
		return i.Checklist, err
	}, func(one client.IncidentCheck) (id, description string) {
		if !one.DoneAt.IsZero() {
			return "", ""
		}
		return fmt.Sprint(one.Item), one.Text
	})(cmd, nil, prefix)
}
