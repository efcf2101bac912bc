package main

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// maxNote bounds a note that comes from stdin.
const maxNote = 64 << 10

func (a *app) incidentNoteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "note ID|latest TEXT|-",
		Short: "Write down what happened, for the record",
		Long: "Write down what happened, for the record: it is in the report with its time and who\n" +
			"wrote it, and cannot be changed. With - the text comes from stdin. Never write a\n" +
			"credential down.",
		Example:           "  keybroker incident note 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 'the repository is private again since 03:12'",
		Args:              takes("ID|latest", "TEXT"),
		ValidArgsFunction: a.completeIncidents(),
		RunE: a.onOne(func(ctx context.Context, c *client.Client, id string, rest []string) error {
			text, err := a.noteText(rest[0])
			if err != nil {
				return err
			}
			i, err := c.NoteIncident(ctx, id, client.IncidentNoteRequest{Text: text})
			if err != nil {
				return err
			}
			if a.json() {
				return a.showJSON(i)
			}
			a.note("noted, as number %d of incident %s", len(i.Notes), i.ID)
			return nil
		}),
	}
}

func (a *app) noteText(arg string) (string, error) {
	text := arg
	if arg == "-" {
		b, err := io.ReadAll(io.LimitReader(a.in, maxNote+1))
		if err != nil {
			return "", err
		}
		if len(b) > maxNote {
			return "", usagef("the note is longer than %d KiB", maxNote>>10)
		}
		text = string(b)
	}
	if text = strings.TrimSpace(text); text == "" {
		return "", usagef("TEXT is empty")
	}
	return text, nil
}
