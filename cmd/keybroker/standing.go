package main

import (
	"github.com/keybroker/keybroker/broker/client"
)

// Exit codes of what follows an incident, besides those of every command.
const (
	exitContained = 3 // everything is contained, and not everything is proven dead
	exitOpen      = 4 // something is not contained, or waits for a second person
)

// exitCodes is for the help of what follows an incident.
const exitCodes = "Exit codes: 0 everything is proven dead; 3 contained, not proven yet; 4 open: something is\n" +
	"not contained, or nobody can tell (proof = \"none\"), or a second person has to approve;\n" +
	"1 failed; 2 usage. 3 and 4 are of what was left before the proof, by ^C or --timeout, or\n" +
	"cannot be proven."

// standing ends a command that has left an incident before its proof, with an exit code that
// tells how far it is. What there is to say was said.
type standing int

func (standing) Error() string { return "the incident is not over" }

// standingOf is the exit code that tells how far an incident is.
func standingOf(i client.Incident) int {
	switch p := i.Progress; {
	case i.State == client.IncidentProposed || i.State == client.IncidentRejected:
		return exitOpen
	case p.AllProven():
		return exitDone
	case p.AllContained():
		return exitContained
	}
	return exitOpen
}

// leaving ends a command that has left an incident which stands so.
func leaving(i client.Incident) error {
	if code := standingOf(i); code != exitDone {
		return standing(code)
	}
	return nil
}
