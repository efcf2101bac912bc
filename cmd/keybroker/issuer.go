package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) issuerCommand() *cobra.Command {
	return group("issuer", "Look at issuers, and check their permissions", a.issuerListCommand(), a.issuerCheckCommand())
}

func (a *app) issuerListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the issuers of the configuration, and whether they can be used",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Issuers(ctx)
			if err != nil {
				return err
			}
			return a.show(list.Items, func(t *table) {
				t.row("NAME", "TYPE", "KIND", "TENANT", "STATE", "CHECK", "DETAIL")
				for _, i := range list.Items {
					check := "no"
					if i.Checkable {
						check = "yes"
					}
					t.row(i.Name, i.Type, i.Kind, i.Tenant, i.State, check, i.Detail)
				}
			})
		}),
	}
}

func (a *app) issuerCheckCommand() *cobra.Command {
	var r client.CheckIssuerRequest
	cmd := &cobra.Command{
		Use:   "check NAME",
		Short: "Have an issuer try its permissions, without any effect",
		Long: "Have an issuer try its permissions, without any effect: whether what a rotation\n" +
			"needs is there and allowed, and how to mend what is not. Without --secret that is for\n" +
			"the secrets that it mints for, at most 20 of them.\n\n" +
			"Exit 1 if there is a problem, or if this issuer cannot tell. What cannot be told\n" +
			"without an effect is shown as unknown, and is no problem.",
		Example:           "  keybroker issuer check mailer\n  keybroker issuer check orders-db --secret orders/db",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeIssuers,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			found, err := c.CheckIssuer(ctx, args[0], r)
			if err != nil {
				return err
			}
			if err := a.show(found, func(t *table) { drawFindings(t, found) }); err != nil {
				return err
			}
			problems := 0
			for _, f := range found.Findings {
				if f.Bad() {
					problems++
				}
			}
			if problems > 0 {
				return fmt.Errorf("issuer %s: %s", found.Issuer, plural(problems, "problem"))
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&r.Secret, "secret", "", "for this secret")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	return cmd
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func drawFindings(t *table, found client.IssuerCheck) {
	if len(found.Findings) == 0 {
		t.row("there was nothing to check")
		return
	}
	t.row("RESULT", "WHAT", "PROBLEM", "RESOLVED BY", "SECRETS")
	for _, f := range found.Findings {
		result := "ok"
		switch {
		case f.Bad():
			result = "problem"
		case f.Unknown:
			result = "unknown"
		}
		t.row(result, f.What, f.Problem, f.Mend, strings.Join(f.Secrets, ", "))
	}
}

// completeIssuers completes the names of issuers by asking the server.
func (a *app) completeIssuers(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return completeIDs(a, func(ctx context.Context, c *client.Client, _ client.Page) ([]client.Issuer, error) {
		list, err := c.Issuers(ctx)
		return list.Items, err
	}, func(i client.Issuer) (id, description string) { return i.Name, i.Type + ", " + i.State })(cmd, args, prefix)
}
