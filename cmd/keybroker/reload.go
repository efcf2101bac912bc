package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) reloadCommand() *cobra.Command {
	var request client.ReloadRequest
	var status bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Take the server's configuration files into use, or say why not",
		Long: "Let the server read its configuration files again and take them into use: wholly,\n" +
			"or not at all. SIGHUP to the server does the same, and logs what came of it.\n\n" +
			"Refused is what has mistakes, what changes listener, storage, seal or data_dir\n" +
			"(that takes a restart), and what takes away a secret, issuer, probe, backend or\n" +
			"consumer that is needed by something under way; every reason is told, with what\n" +
			"to do about it. What is under way finishes as it began; new addresses, credentials\n" +
			"and timeouts of a block that is still there are used from now on.",
		Example: "  keybroker reload --dry-run\n  keybroker reload",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if status {
				return a.showConfiguration(ctx, c)
			}
			r, err := c.Reload(ctx, request)
			if err != nil {
				return a.showRefusal(err)
			}
			return a.showReload(r)
		}),
	}
	cmd.Flags().BoolVar(&request.DryRun, "dry-run", false, "change nothing: say what would change, or why it would be refused")
	cmd.Flags().BoolVar(&status, "status", false, "change nothing: show when the configuration in force was loaded, and what it lacks")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "status")
	return cmd
}

func (a *app) showReload(r client.Reload) error {
	for _, w := range r.Warnings {
		a.note("warning: %s", findingText(w))
	}
	if a.json() {
		return a.showJSON(r)
	}
	if len(r.Changes) > 0 {
		err := a.show(nil, func(t *table) {
			t.row("CHANGE", "KIND", "NAME")
			for _, c := range r.Changes {
				t.row(c.Change, c.Kind, c.Name)
			}
		})
		if err != nil {
			return err
		}
	}
	switch {
	case r.DryRun && len(r.Changes) == 0:
		a.note("nothing would change")
	case r.DryRun:
		a.note("nothing was changed: this is what a reload would do")
	case len(r.Changes) == 0:
		a.note("the configuration was reloaded; nothing has changed in it")
	default:
		a.note("the configuration was reloaded")
	}
	return nil
}

// showRefusal prints every reason of a refused reload: for programs on stdout,
// for people on stderr.
func (a *app) showRefusal(err error) error {
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || len(p.Problems) == 0 {
		return err
	}
	if a.json() {
		return errors.Join(a.showJSON(p), err)
	}
	for _, f := range p.Problems {
		a.note("%s", findingText(f))
	}
	if n := len(p.Problems); n > 1 {
		return &hintError{fmt.Errorf("the configuration was not taken into use: %d problems", n), p.Hint}
	}
	return &hintError{errors.New("the configuration was not taken into use"), p.Hint}
}

func findingText(f client.ConfigFinding) string {
	text := printable(f.What)
	if f.File != "" {
		text = fmt.Sprintf("%s:%d: %s", printable(f.File), f.Line, text)
	}
	if f.Remedy != "" {
		text += "\n  " + printable(f.Remedy)
	}
	return text
}

func (a *app) showConfiguration(ctx context.Context, c *client.Client) error {
	conf, err := c.Configuration(ctx)
	if err != nil {
		return err
	}
	return a.show(conf, func(t *table) {
		t.moment("Loaded", conf.LoadedAt)
		if r := conf.LastReload; r != nil {
			t.moment("Last reload", r.At)
			t.pair("By", r.By)
			result := "succeeded"
			if !r.OK {
				result = r.Error
			}
			t.pair("Result", result)
		}
		t.pair("Conflicts", len(conf.Conflicts))
		for _, f := range conf.Conflicts {
			t.row("", f.What)
			t.row("", "  "+f.Remedy)
		}
	})
}
