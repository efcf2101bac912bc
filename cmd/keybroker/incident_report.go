package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) incidentReportCommand() *cobra.Command {
	var out, records string
	cmd := &cobra.Command{
		Use:   "report ID|latest",
		Short: "Write the signed report of an incident",
		Long: "Write the report of an incident, as it stands now: what leaked, who had it, when it was\n" +
			"contained and proven dead, how long it was exposed, who did what, who has the\n" +
			"replacement, and what is still open. It is signed, has nothing that you may not see,\n" +
			"and no secret value.\n\n" +
			"As Markdown, for people, it has the number of a claim behind every statement; as JSON\n" +
			"it has the records that each claim follows from, with the lines of the audit log. With\n" +
			"--json-out the Markdown comes with the JSON report that it was made of.\n" +
			"`keybroker incident verify` verifies either without the broker.",
		Example: "  keybroker incident report latest --out report.md --json-out report.json\n" +
			"  keybroker incident report latest --format json | jq '.report.claims[] | select(.kind == \"open\")'",
		Args:              takes("ID|latest"),
		Annotations:       map[string]string{moreFormats: "markdown"},
		ValidArgsFunction: a.completeIncidents(),
		RunE: a.onOne(func(ctx context.Context, c *client.Client, id string, _ []string) error {
			if records != "" && a.json() {
				return usagef("--json-out is for the Markdown report: with --format json give --out")
			}
			r, err := c.IncidentReport(ctx, id)
			if err != nil {
				return err
			}
			text := r.Markdown
			if a.json() {
				text = r.JSON + "\n"
			}
			if records != "" {
				if err := a.writeReport(records, r.JSON+"\n"); err != nil {
					return err
				}
			}
			if out == "" {
				return write(a.out, text)
			}
			return a.writeReport(out, text)
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write it to, for nobody else to read")
	cmd.Flags().StringVar(&records, "json-out", "", "`FILE` for the JSON report of the same moment")
	return cmd
}

func (a *app) writeReport(path, text string) error {
	err := privatefile.Replace(path, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
	if err == nil {
		a.note("the report is in %s", path)
	}
	return err
}
