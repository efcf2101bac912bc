package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) tokenSelfCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "self",
		Short: "Show the token that you call with",
		Long:  "Show who you are to the server: the token that you call with, or what your\ncertificate stands for. Takes no permission.",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			t, err := c.OwnToken(ctx)
			if err != nil {
				return err
			}
			return a.show(t, func(tab *table) { drawToken(tab, t) })
		}),
	}
}

// drawToken describes one token.
func drawToken(tab *table, t client.Token) {
	tab.pair("ID", t.ID)
	tab.pair("Name", t.Name)
	tab.pair("Kind", t.Kind)
	tab.pair("Logged in by", t.Method)
	tab.pair("As", t.Identity)
	tab.pair("Tenant", t.Tenant)
	tab.pair("Environment", t.Environment)
	tab.pair("Role", t.Role)
	tab.pair("Policies", t.Policies)
	tab.pair("Accepted from", t.CIDRs)
	tab.pair("Requests left", usesLeft(t))
	tab.pair("Ends with", t.Parent)
	tab.moment("Created", t.CreatedAt)
	tab.moment("Expires", t.ExpiresAt)
	tab.pair("Renewed by", t.TTL)
	tab.moment("Renewed until", t.EndsAt)
	tab.pair("Lives unused", t.MaxIdle)
	tab.moment("Last used", t.LastUsedAt)
}

func (a *app) tokenRenewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "renew",
		Short: "Renew the token that you call with",
		Long:  "Have the token that you call with live for its TTL from now on, as far as its longest\nlife, and the token that it ends with, let it. Takes no permission.",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			t, err := c.RenewOwnToken(ctx)
			if err != nil {
				return err
			}
			if a.json() {
				return a.showJSON(t)
			}
			a.note("token %s (%s) expires %s", t.ID, t.Name, expiry(t, a))
			return nil
		}),
	}
}

func (a *app) tokenRevokeSelfCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke-self",
		Short: "Revoke the token that you call with",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			t, err := c.RevokeOwnToken(ctx)
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
