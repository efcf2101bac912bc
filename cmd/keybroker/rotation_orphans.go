package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) rotationOrphansCommand() *cobra.Command {
	var secret string
	var limit int
	cmd := &cobra.Command{
		Use:   "orphans",
		Short: "List credentials that no rotation brought into use",
		Long: "List the credentials whose mint was never answered or whose rotation failed, the\n" +
			"latest first. Each is being retired like any other version. SUSPECTED are those\n" +
			"that may still be alive: nothing proves the contrary (yet). Where nobody knows the\n" +
			"handle, look for the tag at the issuer.",
		Example: "  keybroker rotation orphans --secret payments/stripe",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			orphans, err := collect(client.All(func(after string) (client.List[client.Orphan], error) {
				return c.Orphans(ctx, client.OrphanQuery{Secret: secret, Page: pageFor(limit, after)})
			}), limit)
			if err != nil {
				return err
			}
			return a.show(orphans, func(t *table) {
				t.row("SECRET", "VERSION", "SUSPECTED", "STATE", "ISSUER", "HANDLE", "TAG", "RETIREMENT", "WHY")
				for _, o := range orphans {
					suspected := ""
					if o.Suspected {
						suspected = "yes"
					}
					t.row(qualified(o.Tenant, o.Secret), o.Version, suspected, o.Retirement.State, o.Issuer, handle(o.Handle), o.Tag, o.Retirement.ID, o.Retirement.Error)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&secret, "secret", "", "only of this secret")
	cmd.Flags().IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	return cmd
}

// handle is how a credential is called at its issuer.
func handle(m map[string]string) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, k+"="+m[k])
	}
	return strings.Join(pairs, ", ")
}
