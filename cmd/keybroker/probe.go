package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) probeCommand() *cobra.Command {
	return group("probe", "Look at probes, and try credentials by hand", a.probeListCommand(), a.probeRunCommand())
}

func (a *app) probeListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the probes of the configuration, and whether they can be used",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Probes(ctx)
			if err != nil {
				return err
			}
			return a.show(list.Items, func(t *table) {
				t.row("NAME", "TYPE", "TENANT", "STATE", "LOCKOUT AFTER", "ENDPOINT", "DETAIL")
				for _, p := range list.Items {
					t.row(p.Name, p.Type, p.Tenant, p.State, p.LockoutAfter, p.Endpoint, p.Detail)
				}
			})
		}),
	}
}

func (a *app) probeRunCommand() *cobra.Command {
	var r client.RunProbeRequest
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Try one version of a secret with a probe, once",
		Long: "Try one version of a secret with a probe, once: the verdict, the address that was\n" +
			"tried and how long it took. It proves nothing, and the value is never shown. The probe\n" +
			"may be another one than the secret's, of the same tenant; the value is sent to where it\n" +
			"leads. Refused is what could lock an account (lockout_after).\n\n" +
			"Exit 0 whatever the verdict is: --format json has it for programs.",
		Example:           "  keybroker probe run mailer --secret mail/sender\n  keybroker probe run mailer --secret mail/sender --version 3 --reason 'is it dead?'",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeProbes,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			switch {
			case r.Secret == "":
				return usagef("--secret is missing: which secret is to be tried?")
			case r.Version < 0:
				return usagef("--version is %d; versions are numbered from 1", r.Version)
			}
			run, err := c.RunProbe(ctx, args[0], r)
			if err != nil {
				return err
			}
			return a.show(run, func(t *table) {
				t.pair("Probe", run.Probe)
				t.pair("Endpoint", run.Endpoint)
				t.pair("Secret", qualified(run.Tenant, run.Secret))
				t.pair("Version", run.Version)
				t.pair("Verdict", run.Verdict)
				t.pair("Detail", run.Detail)
				t.pair("Address", run.Address)
				t.pair("Latency", fmt.Sprintf("%dms", run.LatencyMS))
			})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&r.Secret, "secret", "", "the secret to try")
	f.IntVar(&r.Version, "version", 0, "this version instead of the current one; it may be a revoked one")
	f.StringVar(&r.Reason, "reason", "", "why, for the record")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	return cmd
}

// completeProbes completes the names of probes by asking the server.
func (a *app) completeProbes(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return completeIDs(a, func(ctx context.Context, c *client.Client, _ client.Page) ([]client.Probe, error) {
		list, err := c.Probes(ctx)
		return list.Items, err
	}, func(p client.Probe) (id, description string) { return p.Name, p.Type + ", " + p.State })(cmd, args, prefix)
}
