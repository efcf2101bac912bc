package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// incidentAct is a command that acts on an incident, after saying on which.
type incidentAct struct {
	question string
	needs    bool // a reason
	decides  bool // on what others proposed: it is named by its id
	done     func(client.Incident) string
	call     func(*client.Client, context.Context, string, client.IncidentActRequest) (client.Incident, error)
	request  client.IncidentActRequest
	yes      bool
}

// onIncident makes cmd one that acts on incidents in these states.
func (a *app) onIncident(cmd *cobra.Command, act *incidentAct, states ...string) *cobra.Command {
	cmd.Args = takes("ID")
	cmd.ValidArgsFunction = a.completeIncidents(states...)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if act.needs && strings.TrimSpace(act.request.Reason) == "" {
			return usagef("--reason is missing: it goes into the record")
		}
		id, err := args[0], error(nil)
		if !act.decides {
			if id, err = findIncident(ctx, c, id); err != nil {
				return err
			}
		}
		if !act.yes && act.question != "" {
			i, err := c.Incident(ctx, id)
			if err != nil {
				return err
			}
			a.note("- %s", printable(aboutIncident(i)))
			if err := a.confirm(act.question); err != nil {
				return err
			}
		}
		i, err := act.call(c, ctx, id, act.request)
		if err != nil {
			return err
		}
		if a.json() {
			return a.showJSON(i)
		}
		a.note("incident %s %s", i.ID, printable(act.done(i)))
		return nil
	})
	cmd.Flags().StringVar(&act.request.Reason, "reason", "", "why, for the record")
	if act.question != "" {
		cmd.Flags().BoolVarP(&act.yes, "yes", "y", false, "do not ask")
	}
	return cmd
}

// aboutIncident is what somebody has to know who decides on an incident.
func aboutIncident(i client.Incident) string {
	text := fmt.Sprintf("%s, declared by %s at %s: %s", extent(i.Progress), declarer(i), stamp(i.DeclaredAt), i.Reason)
	if s := selectedBy(i.Selector); s != "" {
		text += "; selected by " + s
	}
	if i.State == client.IncidentOpen {
		text += fmt.Sprintf("; it is %s, %s contained, %s proven dead", inAWord(i), of(i.Progress.Contained, i.Progress.Versions), of(i.Progress.Proven, i.Progress.Versions))
	}
	return text
}
