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
		a.secretListCommand(), a.secretShowCommand(), a.secretGetCommand(), a.secretConsumersCommand(), a.secretRotateCommand(),
		a.secretRevokeCommand(), a.secretPauseCommand(), a.secretResumeCommand(),
		a.secretPlanCommand(), a.secretRepairCommand(), a.secretImportCommand(), a.secretIdentifyCommand())
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
				header, wide := []any{"NAME", "TENANT", "STATE", "VERSION", "BACKEND", "ISSUER", "NEXT ROTATION"}, false
				for _, s := range secrets {
					wide = wide || len(outOfStepIn(s)) > 0
				}
				if wide {
					header = append(header, "OUT OF STEP")
				}
				t.row(header...)
				for _, s := range secrets {
					cells := []any{s.Name, s.Tenant, s.State, s.Current(), s.Backend, s.Issuer, s.NextRotationAt}
					if wide {
						cells = append(cells, outOfStepIn(s))
					}
					t.row(cells...)
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
			t.pair("Mirror", mirror(m, s.Current()))
		}
		for _, d := range s.Drift {
			t.pair("Drift", fmt.Sprintf("%s, found %s", d.Detail, relative(d.FoundAt, t.now)))
			t.pair("Resolved by", resolvesDrift(s, d))
		}
		t.pair("Issuer", s.Issuer)
		t.pair("Probe", s.Probe)
		t.pair("Consumers", s.Consumers)
		t.pair("Labels", labels(s.Labels))
		t.pair("Schedule", s.Schedule)
		t.pair("Generation", s.Generation)
		t.pair("Next rotation", s.NextRotationAt)
		for _, v := range s.Versions {
			if v.HandleMissing && v.Stage != client.StageRetired {
				t.pair("Handle", fmt.Sprintf("missing of version %d: the broker cannot have it revoked; %s", v.Number, givesHandle(qualified(s.Tenant, s.Name), v.Number)))
			}
		}
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

// mirror says how a mirror stands.
func mirror(m client.Mirror, current int) string {
	switch {
	case m.State == client.Behind && m.Version == 0:
		return fmt.Sprintf("%s (behind: it holds nothing yet, and should hold version %d)", m.Backend, current)
	case m.State == client.Behind:
		return fmt.Sprintf("%s (behind: it holds version %d, and should hold version %d)", m.Backend, m.Version, current)
	case m.Version == 0:
		return fmt.Sprintf("%s (%s)", m.Backend, m.State)
	}
	return fmt.Sprintf("%s (%s, version %d)", m.Backend, m.State, m.Version)
}

// outOfStepIn names the vaults that do not hold what they should.
func outOfStepIn(s client.Secret) []string {
	var names []string
	for _, d := range s.Drift {
		names = append(names, d.Backend+" "+client.Drifted)
	}
	for _, m := range s.Mirrors {
		if m.State == client.Behind {
			names = append(names, m.Backend+" "+m.State)
		}
	}
	return names
}

func labels(m map[string]string) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, k+"="+m[k])
	}
	return strings.Join(pairs, ", ")
}
