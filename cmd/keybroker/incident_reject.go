package main

import (
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) incidentRejectCommand() *cobra.Command {
	return a.onIncident(&cobra.Command{
		Use:     "reject ID --reason TEXT",
		Short:   "Refuse a proposed incident: nothing of it is done",
		Example: "  keybroker incident reject 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --reason 'a drill, and nobody was told'",
	}, &incidentAct{
		question: "Is nothing of that to be turned off?",
		needs:    true,
		decides:  true,
		call:     (*client.Client).RejectIncident,
		done:     func(i client.Incident) string { return "is " + i.State + ": nothing was done" },
	}, client.IncidentProposed)
}
