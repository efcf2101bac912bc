package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// Until when an incident is followed.
const (
	untilContained = "contained"
	untilProven    = "proven"
)

func (a *app) incidentWatchCommand() *cobra.Command {
	var until string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "watch ID|latest",
		Short: "Follow an incident live, to the proof",
		Long: "Follow an incident live: how many versions are contained and proven dead, how many\n" +
			"secrets are replaced, who was told, what does not go on and what to do about it. ^C\n" +
			"leaves it, and it goes on. With --format json there is one object a line whenever\n" +
			"something has changed; the last one has the whole incident.\n\n" + exitCodes +
			"\nWith --until contained 0 means contained.",
		Example: "  keybroker incident watch 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10\n" +
			"  keybroker incident watch 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --until contained --timeout 5m",
		Args:              takes("ID|latest"),
		ValidArgsFunction: a.completeIncidents(client.IncidentProposed, client.IncidentOpen),
		RunE: a.onOne(func(ctx context.Context, c *client.Client, id string, _ []string) error {
			if err := oneOf("until", until, untilContained, untilProven); err != nil {
				return err
			}
			if timeout < 0 {
				return usagef("--timeout is %s; it is how long to watch", timeout)
			}
			ctx, stop := patience(ctx, timeout)
			defer stop()
			return a.watchIncident(ctx, c, id, until)
		}),
	}
	cmd.Flags().StringVar(&until, "until", untilProven, "follow it until everything is contained, or proven dead: contained or proven")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "leave it after this long; it goes on")
	_ = cmd.RegisterFlagCompletionFunc("until", cobra.FixedCompletions([]string{untilContained, untilProven}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// watchIncident follows an incident, and ends with the exit code that tells how far it is.
func (a *app) watchIncident(ctx context.Context, c *client.Client, id, until string) error {
	p := newProgress(a.out, a.now)
	if a.json() {
		p = newProgress(nil, a.now)
		p.each = func(e client.Event) error {
			if e.Type == client.EventEnd {
				return nil // the whole incident follows
			}
			return a.showEvent(e)
		}
	}
	p.until = until
	err := p.follow(ctx, func(ctx context.Context) iter.Seq2[client.Event, error] { return c.WatchIncident(ctx, id) })
	gone := ctx.Err() != nil // ^C, or no more time
	if client.Status(err) == http.StatusNotFound {
		return err // nothing goes on
	}
	if _, unseen := errors.AsType[*unfollowed](err); unseen && !gone {
		return &hintError{fmt.Errorf("incident %s cannot be followed: %w", id, err), "what was begun goes on; see: keybroker incident show " + id}
	}
	if err != nil && !gone {
		return err
	}
	i, asked := a.lastLook(ctx, c, id)
	if asked != nil {
		if i = p.incident; !p.known { // it counts as open
			i = client.Incident{ID: id, State: client.IncidentOpen, Progress: client.IncidentProgress{Pending: 1}}
		}
	}
	return a.endOfWatch(i, until, err != nil)
}

// endOfWatch tells what is left to do, and how far the incident is.
func (a *app) endOfWatch(i client.Incident, until string, leftIt bool) error {
	if a.json() {
		last := struct {
			Event    string          `json:"event"`
			Incident client.Incident `json:"incident"`
		}{client.EventEnd, i}
		if leftIt {
			last.Event = "left"
		}
		if err := json.NewEncoder(a.out).Encode(last); err != nil {
			return err
		}
	}
	if i.State == client.IncidentRejected {
		return fmt.Errorf("incident %s was rejected%s: nothing was done", i.ID, byWhom(i))
	}
	a.tellOpenEnds(i)
	if i.State == client.IncidentOpen && i.Progress.AllProven() && i.Progress.Versions == 0 {
		a.note("incident %s: no version that was meant may work: there was nothing to turn off; its record: keybroker incident show %s", i.ID, i.ID)
		return nil
	}
	switch done := i.Progress.AllProven() || until == untilContained && i.Progress.AllContained(); {
	case done && i.State != client.IncidentProposed:
		a.note("incident %s: %s %s; its record: keybroker incident show %s", i.ID, extent(i.Progress), provenWords(i.Progress), i.ID)
		return nil
	case leftIt:
		a.note("\nincident %s is %s and goes on; pick it up with: keybroker incident watch %s", i.ID, inAWord(i), i.ID)
	default:
		a.note("incident %s is %s, and nothing more is going to be shown: keybroker incident show %s", i.ID, inAWord(i), i.ID)
	}
	return leaving(i)
}

func provenWords(p client.IncidentProgress) string {
	if p.AllProven() {
		return "proven dead"
	}
	return "contained"
}

func byWhom(i client.Incident) string {
	text := ""
	if i.ClosedBy != "" {
		text = " by " + i.ClosedBy
	}
	if i.Closing != "" {
		text += " (" + i.Closing + ")"
	}
	return printable(text)
}

// tellOpenEnds says what is not as it should be beside the compromised keys: who sits on a
// dead one, what has no replacement, what people have to do.
func (a *app) tellOpenEnds(i client.Incident) {
	var lacking []string
	for _, c := range i.Consumers {
		switch {
		case c.Quarantined:
			lacking = append(lacking, c.Consumer+" (in quarantine)")
		case len(c.Without) > 0:
			lacking = append(lacking, fmt.Sprintf("%s (%s)", c.Consumer, strings.Join(firstOf(c.Without, 3), ", ")))
		}
	}
	if len(lacking) > 0 {
		a.note("WITHOUT the replacement: %s", printable(strings.Join(firstOf(lacking, 20), "; ")))
	}
	if n := i.Progress.Secrets - i.Progress.Replaced; n > 0 && i.State == client.IncidentOpen {
		a.note("%s without a replacement so far: keybroker incident show %s", several(n, "secret"), i.ID)
	}
	open := 0
	for _, c := range i.Checklist {
		if c.DoneAt.IsZero() {
			open++
		}
	}
	if open > 0 {
		a.note("%s to be done by people: keybroker incident check %s", several(open, "thing"), i.ID)
	}
	if n := i.Progress.Unprovable; n > 0 {
		a.note("%s: nobody will be able to tell whether it is dead, at most its issuer said so: keybroker incident show %s", several(n, "version"), i.ID)
	}
}

// firstOf cuts a list short, and says so.
func firstOf(all []string, most int) []string {
	if len(all) <= most {
		return all
	}
	return append(append([]string{}, all[:most]...), fmt.Sprintf("and %d more", len(all)-most))
}
