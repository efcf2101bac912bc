package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) secretCommand() *cobra.Command {
	return group("secret", "Read, rotate and revoke secrets",
		a.secretListCommand(), a.secretShowCommand(), a.secretGetCommand(), a.secretRotateCommand(),
		a.secretRevokeCommand(), a.secretPauseCommand(), a.secretResumeCommand(),
		a.secretPlanCommand(), a.secretRepairCommand())
}

func (a *app) secretListCommand() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List secrets, without their values",
		Example: "  keybroker secret list --prefix payments/",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			secrets, err := collect(client.All(func(after string) (client.List[client.Secret], error) {
				return c.Secrets(ctx, client.SecretQuery{Prefix: prefix, Page: pageFor(0, after)})
			}), 0)
			if err != nil {
				return err
			}
			return a.show(secrets, func(t *table) {
				t.row("NAME", "TENANT", "STATE", "VERSION", "BACKEND", "ISSUER", "NEXT ROTATION")
				for _, s := range secrets {
					t.row(s.Name, s.Tenant, s.State, s.Current(), s.Backend, s.Issuer, s.NextRotationAt)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "only names that begin with this")
	return cmd
}

func (a *app) secretShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a secret and its versions, without their values",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			s, err := c.Secret(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showSecret(s)
		}),
	}
}

func (a *app) showSecret(s client.Secret) error {
	return a.show(s, func(t *table) {
		t.pair("Name", s.Name)
		t.pair("Tenant", s.Tenant)
		t.pair("State", s.State)
		t.pair("Backend", s.Backend)
		for _, m := range s.Mirrors {
			t.pair("Mirror", fmt.Sprintf("%s (%s, version %d)", m.Backend, m.State, m.Version))
		}
		t.pair("Issuer", s.Issuer)
		t.pair("Probe", s.Probe)
		t.pair("Consumers", s.Consumers)
		t.pair("Labels", labels(s.Labels))
		t.pair("Schedule", s.Schedule)
		t.pair("Generation", s.Generation)
		t.pair("Next rotation", s.NextRotationAt)
		if len(s.Versions) == 0 {
			return
		}
		t.section("VERSION", "STAGE", "PUBLISHED", "OVERLAP ENDS", "RETIREMENT", "REQUESTED", "CONTAINED", "PROVEN DEAD")
		for _, v := range slices.Backward(s.Versions) {
			r := client.Retirement{}
			if v.Retirement != nil {
				r = *v.Retirement
			}
			t.row(v.Number, v.Stage, v.PublishedAt, v.OverlapUntil, r.State, r.RequestedAt, r.ContainedAt, r.ProvenAt)
		}
	})
}

func labels(m map[string]string) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, k+"="+m[k])
	}
	return strings.Join(pairs, ", ")
}
