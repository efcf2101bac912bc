package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) quarantineCommand() *cobra.Command {
	return group("quarantine", "Keep a consumer or a role out, and let it in again", a.quarantineAddCommand(), a.quarantineListCommand(), a.quarantineLiftCommand())
}

func (a *app) quarantineAddCommand() *cobra.Command {
	var i intervention
	var of client.QuarantineRequest
	cmd := &cobra.Command{
		Use:   "add consumer|role NAME --reason TEXT",
		Short: "Keep a consumer or a role out until that is lifted",
		Long: "Keep a consumer or a role out until that is lifted.\n\n" +
			"A consumer in quarantine is told nothing, collects and acknowledges nothing, and nobody\n" +
			"waits for it: what replaces compromised versions reaches only the others. The role that\n" +
			"it reads as is in quarantine with it.\n\n" +
			"Whatever the principals of a role in quarantine ask for is refused, logins too, and its\n" +
			"tokens are revoked with those that descend from them. Break-glass tokens and root tokens\n" +
			"count as of no role.",
		Example: "  keybroker quarantine add consumer shop --reason 'the shop was broken into'\n" +
			"  keybroker quarantine add role ci --reason 'a runner leaks' --dry-run",
		Args:              takes("consumer|role", "NAME"),
		ValidArgsFunction: a.completeQuarantine,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			return a.quarantine(ctx, i, of, args, "Keep it out?", "in quarantine; end that with: keybroker quarantine lift "+strings.Join(args, " ")+" --reason TEXT", c.Quarantine)
		}),
	}
	i.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&of.IncidentID, "incident", "", "the incident that it belongs to")
	f.BoolVar(&of.Force, "force", false, "also the role that you have yourself, which keeps you out")
	return cmd
}

func (a *app) quarantineLiftCommand() *cobra.Command {
	var i intervention
	cmd := &cobra.Command{
		Use:   "lift consumer|role NAME --reason TEXT",
		Short: "Let a consumer or a role in again",
		Long: "Let a consumer or a role in again. A consumer is told of what has waited for it, and of\n" +
			"the current versions of its secrets. Tokens stay revoked: the principals of the role log\n" +
			"in anew, or are given others.",
		Example:           "  keybroker quarantine lift consumer shop --reason 'rebuilt from scratch'",
		Args:              takes("consumer|role", "NAME"),
		ValidArgsFunction: a.completeQuarantined,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			return a.quarantine(ctx, i, client.QuarantineRequest{}, args, "Let it in again?", "no longer in quarantine", c.LiftQuarantine)
		}),
	}
	i.flags(cmd)
	return cmd
}

// quarantine does what call does to the consumer or role that args name, once that is agreed to.
func (a *app) quarantine(ctx context.Context, i intervention, of client.QuarantineRequest, args []string, question, done string,
	call func(context.Context, client.QuarantineRequest) (client.QuarantineIntervention, error)) error {
	of.Kind, of.Name = args[0], args[1]
	switch {
	case of.Kind != client.QuarantineConsumer && of.Kind != client.QuarantineRole:
		return usagef("%q is neither %s nor %s", of.Kind, client.QuarantineConsumer, client.QuarantineRole)
	case strings.TrimSpace(i.reason) == "":
		return usagef("--reason is missing: whoever wonders will read it")
	}
	answer, did, err := intervene(ctx, a, i, question, func(ctx context.Context, r client.InterventionRequest) (client.QuarantineIntervention, error) {
		of.InterventionRequest = r
		return call(ctx, of)
	})
	if err != nil || !did {
		return err
	}
	if a.json() {
		return a.showJSON(answer)
	}
	a.note("the %s %s is %s", of.Kind, of.Name, done)
	return nil
}

func (a *app) quarantineListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List which consumers and roles are kept out",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Quarantines(ctx)
			if err != nil {
				return err
			}
			return a.show(list.Items, func(t *table) {
				t.row("KIND", "NAME", "ROLE", "ALSO KEPT OUT", "SINCE", "BY", "INCIDENT", "REASON")
				for _, q := range list.Items {
					t.row(q.Kind, q.Name, q.Role, q.Also, q.At, q.By, q.IncidentID, q.Reason)
				}
			})
		}),
	}
}

// completeQuarantine completes what can be put in quarantine: the server tells the names of
// consumers, not of roles.
func (a *app) completeQuarantine(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	switch {
	case len(args) == 0:
		return []string{client.QuarantineConsumer, client.QuarantineRole}, cobra.ShellCompDirectiveNoFileComp
	case len(args) == 1 && args[0] == client.QuarantineConsumer:
		return a.completeConsumers(cmd, nil, prefix)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeQuarantined completes what is in quarantine.
func (a *app) completeQuarantined(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeQuarantine(cmd, args[:min(len(args), 2)], prefix)
	}
	return completeIDs(a, func(ctx context.Context, c *client.Client, _ client.Page) ([]client.Quarantine, error) {
		list, err := c.Quarantines(ctx)
		return list.Items, err
	}, func(q client.Quarantine) (id, description string) {
		if q.Kind != args[0] {
			return "", ""
		}
		return q.Name, q.Reason
	})(cmd, nil, prefix)
}
