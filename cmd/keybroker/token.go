package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) tokenCommand() *cobra.Command {
	return group("token", "Create, list, renew and revoke tokens of the API",
		a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand(),
		a.tokenSelfCommand(), a.tokenRenewCommand(), a.tokenRevokeSelfCommand())
}

func expiry(t client.Token, a *app) string {
	if t.ExpiresAt.IsZero() {
		return "never"
	}
	return relative(t.ExpiresAt, a.now())
}

// ends tells all that ends a token by itself.
func ends(t client.Token, a *app) string {
	text := "expires " + expiry(t, a)
	if t.ExpiresAt.IsZero() {
		text = "does not expire"
	}
	if t.Parent != "" {
		text += fmt.Sprintf("; it ends with the token that made it, %s", t.Parent)
		if t.ParentName != "" {
			text += fmt.Sprintf(" (%s)", printable(t.ParentName))
		}
	}
	if t.MaxIdle != "" {
		text += fmt.Sprintf("; it ends when it is unused for %s", t.MaxIdle)
	}
	return text
}

// withHeirs tells how many tokens have ended with one.
func withHeirs(t client.Token) string {
	switch t.EndedTokens {
	case 0:
		return ""
	case 1:
		return ", and so has ended the one that descends from it"
	}
	return fmt.Sprintf(", and so have ended the %d that descend from it", t.EndedTokens)
}

// usesLeft tells how many requests a token is good for; empty: any number.
func usesLeft(t client.Token) string {
	if t.Uses == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d", t.UsesLeft, t.Uses)
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
				t.row("ID", "NAME", "STATE", "TENANT", "ROLE", "POLICIES", "CREATED", "LAST USED", "EXPIRES", "USES LEFT", "ENDS WITH", "KIND")
				for _, k := range tokens {
					t.row(k.ID, k.Name, k.State, k.Tenant, k.Role, k.Policies, k.CreatedAt, k.LastUsedAt, expiry(k, a), usesLeft(k), k.Parent, kind(k))
				}
			})
		}),
	}
}

// kind tells what is not every token's: what it is for, or how its holder logged in.
func kind(t client.Token) string {
	if t.Kind == "" && t.Method != "" {
		return "login by " + t.Method
	}
	return strings.ReplaceAll(t.Kind, "_", " ")
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a token at once, and all that descend from it",
		Args:  takes("ID"),
		ValidArgsFunction: completeIDs(a, func(ctx context.Context, c *client.Client, p client.Page) ([]client.Token, error) {
			list, err := c.Tokens(ctx, p)
			return list.Items, err
		}, func(t client.Token) (id, description string) {
			if t.State == client.TokenRevoked {
				return "", ""
			}
			return t.ID, t.Name
		}),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.RevokeToken(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json() {
				return a.showJSON(t)
			}
			a.note("token %s (%s) is revoked%s", t.ID, t.Name, withHeirs(t))
			return nil
		}),
	}
}
