package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// tokenCreateCommand is the only command that prints a token.
func (a *app) tokenCreateCommand() *cobra.Command {
	var request client.CreateTokenRequest
	var cmd *cobra.Command
	cmd = &cobra.Command{
		Use:   "create NAME (--role ROLE | --policy POLICY)",
		Short: "Create a token and print it, once",
		Long: "Create a token and print it alone on stdout. It is never shown again.\n\n" +
			"A token holds at most what its maker's does and ends with it, as with a logout: make\n" +
			"those of applications with a token that stays. What the root policy makes for a role\n" +
			"or other policies stands by itself: the first token of an admin role ends the root\n" +
			"token, whose time is up after an hour anyhow. A token that is not used for a day\n" +
			"ends, too.\n\n" +
			"A break-glass token is for when nobody can log in: it lives until it is revoked, and\n" +
			"each use raises an alert. It takes create on sys/break-glass.",
		Example: "  keybroker token create billing --policy payments-reader --ttl 720h\n" +
			"  keybroker token create ops --role admin\n" +
			"  keybroker token create deploy --role deployer --ttl 1h --max-ttl 8h --cidr 10.0.0.0/8\n" +
			"  keybroker token create bootstrap --role newsletter-app --ttl 10m --uses 1\n" +
			"  keybroker token create acme-ops --policy operator --tenant acme\n" +
			"  keybroker token create safe --role on-call --break-glass",
		Args: takes("NAME"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			switch {
			case request.Role == "" && len(request.Policies) == 0:
				return usagef("--role or --policy is missing: a token without either may do nothing")
			case request.Role != "" && len(request.Policies) > 0:
				return usagef("--role and --policy are both given: a token has the policies of its role, or some of its own")
			case cmd.Flags().Changed("uses") && request.Uses <= 0:
				return usagef("--uses %d: a token is good for one request at least; leave it out for any number", request.Uses)
			}
			request.Name = args[0]
			t, err := c.CreateToken(ctx, request)
			if err != nil {
				return err
			}
			if len(t.EndedRoots) > 0 {
				a.note("this is a token of an admin role, which ends the root token (%s)", strings.Join(t.EndedRoots, ", "))
			}
			if a.json() {
				return a.showJSON(t)
			}
			a.note("token %s (%s) %s", t.ID, t.Name, ends(t, a))
			return write(a.out, t.Token.Reveal()+"\n")
		}),
	}
	f := cmd.Flags()
	f.StringVar(&request.Role, "role", "", "role whose policies, tenant and limits the token has, as they are at each time")
	f.StringSliceVar(&request.Policies, "policy", nil, "policy that says what the token may do; can be repeated")
	f.StringVar(&request.Tenant, "tenant", "", "tenant that it is bound to: it sees nothing of others; as the caller's own token if not given")
	f.StringVar(&request.TTL, "ttl", "", "how long it lives, e.g. 24h or 7d; as its role says, or until it is revoked, if not given")
	f.StringVar(&request.MaxTTL, "max-ttl", "", "how long it lives at most if it is renewed; as long as --ttl if not given")
	f.StringVar(&request.Idle, "idle", "", "how long it lives unused, at least 1m (default as its role says, or 24h)")
	f.IntVar(&request.Uses, "uses", 0, "how many requests it is good for (default any number)")
	f.StringSliceVar(&request.CIDRs, "cidr", nil, "network or address that it is accepted from, e.g. 10.0.0.0/8; can be repeated; any if not given")
	f.BoolVar(&request.BreakGlass, "break-glass", false, "for when nobody can log in: it does not expire, and each use raises an alert")
	return cmd
}
