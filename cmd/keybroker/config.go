package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

func (a *app) configCommand() *cobra.Command {
	return group("config", "Look at configurations before they are used", a.configPlanCommand(), a.validateCommand())
}

// exitChanges is the exit code of a plan that has changes, if that was asked for.
const exitChanges = 3

// changesFound ends a command well, with the exit code exitChanges.
type changesFound struct{}

func (changesFound) Error() string { return "there are changes" }

func (a *app) configPlanCommand() *cobra.Command {
	var path string
	var exitCode bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Tell what a changed configuration would do on the server",
		Long: "Tell what a changed configuration would do on the server: secrets that are added,\n" +
			"changed (each setting from what to what) or no longer managed, blocks that are written\n" +
			"otherwise, what comes next of that, and what the server would refuse of it as a reload.\n" +
			"The files are read here, without env() and file(), and what they say of secrets is\n" +
			"sent to the server, which compares it and changes nothing. What env() and file() give,\n" +
			"and other files that blocks name, are not compared: `keybroker reload --dry-run` does that, with\n" +
			"the files of the server.\n\n" +
			"Exit 0 if a plan was made and the server would take it; 1 if it would be refused, or no plan\n" +
			"could be made; with --exit-code 3 if there are changes.",
		Example: "  keybroker config plan --config deploy/keybroker\n  keybroker config plan --exit-code --format json >plan.json",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			cfg, found := config.Load(path, daemon.Registry(), config.Options{Offline: true})
			if found.HasErrors() {
				return a.showDiagnostics(path, cfg, found)
			}
			request, err := daemon.PlanRequest(cfg)
			if err != nil {
				return err
			}
			plan, err := c.PlanConfig(ctx, request)
			if err != nil {
				return err
			}
			if err := a.showConfigPlan(plan); err != nil {
				return err
			}
			switch {
			case len(plan.Refused) > 0:
				return errors.New("the server would refuse this configuration")
			case exitCode && len(plan.Changes) > 0:
				return changesFound{}
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVar(&path, "config", defaultConfig, "file, or directory of *.hcl files")
	f.BoolVar(&exitCode, "exit-code", false, "exit 3 if there are changes")
	_ = cmd.MarkFlagFilename("config", "hcl")
	return cmd
}

func (a *app) showConfigPlan(p client.ConfigPlan) error {
	if a.json() {
		return a.showJSON(p)
	}
	for _, w := range p.Warnings {
		a.note("warning: %s", findingText(w))
	}
	for _, f := range p.Refused {
		a.note("refused: %s", findingText(f))
	}
	err := a.show(nil, func(t *table) {
		for _, c := range p.Changes {
			drawChange(t, c)
		}
	})
	if err != nil {
		return err
	}
	if len(p.Changes) == 0 {
		a.note("nothing would change")
		return nil
	}
	counts := map[string]int{}
	for _, c := range p.Changes {
		counts[c.Change]++
	}
	var told []string
	for _, change := range []string{client.Added, client.Changed, client.Unmanaged, client.Removed} {
		if n := counts[change]; n > 0 {
			told = append(told, fmt.Sprintf("%d %s", n, change))
		}
	}
	a.note("%s; nothing was changed: this is what a reload would do", strings.Join(told, ", "))
	return nil
}

// signs are what lines of a plan begin with.
var signs = map[string]string{client.Added: "+", client.Changed: "~", client.Unmanaged: "-", client.Removed: "-"}

func drawChange(t *table, c client.PlannedChange) {
	t.row(fmt.Sprintf("%s %s %s  %s", signs[c.Change], c.Kind, c.Name, c.Change))
	none := func(text string) string {
		if text == "" {
			return "(none)"
		}
		return text
	}
	for _, s := range c.Settings {
		t.row(fmt.Sprintf("    %s: %s → %s", s.Name, none(s.From), none(s.To)))
	}
	if !c.DueFrom.Equal(c.DueTo) {
		from, to := none(stamp(c.DueFrom)), none(stamp(c.DueTo))
		t.row(fmt.Sprintf("    next due: %s → %s", from, to))
	}
	for _, e := range c.Effects {
		t.row("    " + e)
	}
}
