package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) incidentCommand() *cobra.Command {
	return group("incident", "Follow emergencies, and keep the record of them",
		a.incidentListCommand(), a.incidentShowCommand(), a.incidentWatchCommand(),
		a.incidentNoteCommand(), a.incidentCheckCommand(), a.incidentReportCommand(), a.incidentVerifyCommand(),
		a.incidentApproveCommand(), a.incidentRejectCommand(), a.incidentCloseCommand(), a.incidentHoldCommand())
}

// latest names the incident that was declared last, of those that the caller sees. It is
// not taken where something is decided on for others.
const latest = "latest"

// findIncident takes the id of an incident, or "latest".
func findIncident(ctx context.Context, c *client.Client, arg string) (string, error) {
	if arg != latest {
		return arg, nil
	}
	// A page may have none of the caller's own, although a later one has.
	found, err := collect(client.All(func(after string) (client.List[client.Incident], error) {
		return c.Incidents(ctx, client.IncidentQuery{Page: client.Page{Limit: 1, After: after}})
	}), 1)
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", errors.New("there is no incident that you may see")
	}
	return found[0].ID, nil
}

// onOne makes the RunE of a command whose first argument is an incident.
func (a *app) onOne(act func(ctx context.Context, c *client.Client, id string, rest []string) error) func(*cobra.Command, []string) error {
	return a.call(func(ctx context.Context, c *client.Client, args []string) error {
		id, err := findIncident(ctx, c, args[0])
		if err != nil {
			return err
		}
		return act(ctx, c, id, args[1:])
	})
}

// inAWord tells how far an incident is: its state, or of an open one what has been shown.
func inAWord(i client.Incident) string {
	switch {
	case i.State != client.IncidentOpen:
		return i.State
	case i.Progress.AllProven():
		return "proven"
	case i.Progress.AllContained():
		return "contained"
	}
	return i.State
}

// extent is how much an incident is about.
func extent(p client.IncidentProgress) string {
	if p.Versions == 0 {
		return several(p.Secrets, "secret")
	}
	return several(p.Versions, "version") + " of " + several(p.Secrets, "secret")
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// completeIncidents completes the id of an incident in one of the states, or in any.
func (a *app) completeIncidents(states ...string) cobra.CompletionFunc {
	return completeIDs(a, func(ctx context.Context, c *client.Client, p client.Page) ([]client.Incident, error) {
		list, err := c.Incidents(ctx, client.IncidentQuery{Page: p})
		return list.Items, err
	}, func(i client.Incident) (id, description string) {
		if len(states) > 0 && !slices.Contains(states, i.State) {
			return "", ""
		}
		return i.ID, inAWord(i) + ": " + i.Reason
	})
}
