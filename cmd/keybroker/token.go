package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) tokenCommand() *cobra.Command {
	return group("token", "Create, list and revoke tokens of the API",
		a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
}

// tokenCreateCommand is the only command that prints a token.
func (a *app) tokenCreateCommand() *cobra.Command {
	var request client.CreateTokenRequest
	cmd := &cobra.Command{
		Use:   "create NAME --policy POLICY",
		Short: "Create a token and print it, once",
		Long:  "Create a token and print it alone on stdout. It is never shown again.",
		Example: "  keybroker token create billing --policy payments-reader --ttl 720h\n" +
			"  keybroker token create acme-ops --policy operator --tenant acme",
		Args: takes("NAME"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if len(request.Policies) == 0 {
				return usagef("--policy is missing: a token without a policy may do nothing")
			}
			request.Name = args[0]
			t, err := c.CreateToken(ctx, request)
			if err != nil {
				return err
			}
			if a.json() {
				return a.showJSON(t)
			}
			a.note("token %s (%s) expires %s", t.ID, t.Name, expiry(t, a))
			return write(a.out, t.Token.Reveal()+"\n")
		}),
	}
	cmd.Flags().StringSliceVar(&request.Policies, "policy", nil, "policy that says what the token may do; can be repeated")
	cmd.Flags().StringVar(&request.Tenant, "tenant", "", "tenant that it is bound to: it sees nothing of others; as the caller's own token if not given")
	cmd.Flags().StringVar(&request.TTL, "ttl", "", "how long it lives, e.g. 24h; until it is revoked if not given")
	return cmd
}

func expiry(t client.Token, a *app) string {
	if t.ExpiresAt.IsZero() {
		return "never"
	}
	return relative(t.ExpiresAt, a.now())
}

func (a *app) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List tokens, without the tokens themselves",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			tokens, err := collect(client.All(func(after string) (client.List[client.Token], error) {
				return c.Tokens(ctx, pageFor(0, after))
			}), 0)
			if err != nil {
				return err
			}
			return a.show(tokens, func(t *table) {
				t.row("ID", "NAME", "TENANT", "POLICIES", "CREATED", "LAST USED", "EXPIRES", "REVOKED")
				for _, k := range tokens {
					t.row(k.ID, k.Name, k.Tenant, k.Policies, k.CreatedAt, k.LastUsedAt, expiry(k, a), k.RevokedAt)
				}
			})
		}),
	}
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a token at once",
		Args:  takes("ID"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.RevokeToken(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json() {
				return a.showJSON(t)
			}
			a.note("token %s (%s) is revoked", t.ID, t.Name)
			return nil
		}),
	}
}
