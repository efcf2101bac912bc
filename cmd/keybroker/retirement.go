package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) retirementCommand() *cobra.Command {
	return group("retirement", "Look at revoked versions and their proofs",
		a.retirementListCommand(), a.retirementShowCommand(), a.retirementWatchCommand(), a.retirementProbeCommand(), a.retirementDoneCommand())
}

var retirementStates = []string{
	client.Requested, client.Acknowledged, client.Rejecting, client.ProvenDead, client.Unconfirmed, client.Resurrected, client.Unprovable,
}

func (a *app) retirementListCommand() *cobra.Command {
	var query client.RetirementQuery
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List retirements, the latest first",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if query.State != "" {
				if err := oneOf("state", query.State, retirementStates...); err != nil {
					return err
				}
			}
			retirements, err := collect(client.All(func(after string) (client.List[client.Retirement], error) {
				query.Page = pageFor(limit, after)
				return c.Retirements(ctx, query)
			}), limit)
			if err != nil {
				return err
			}
			return a.show(retirements, func(t *table) {
				t.row("ID", "SECRET", "VERSION", "CAUSE", "STATE", "REQUESTED", "CONTAINED AFTER", "PROVEN AFTER", "WAITING FOR", "NEXT", "WHY")
				for _, r := range retirements {
					t.row(r.ID, qualified(r.Tenant, r.Secret), r.Version, r.Cause, r.State, r.RequestedAt,
						took(r.RequestedAt, r.ContainedAt), took(r.RequestedAt, r.ProvenAt), r.WaitingFor, r.NextAt, r.Error)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&query.Secret, "secret", "", "only of this secret")
	cmd.Flags().StringVar(&query.State, "state", "", "only in this state: "+strings.Join(retirementStates, ", "))
	cmd.Flags().IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(retirementStates, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) retirementShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "Show the proof of a retirement, with every try",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeRetirements(func(client.Retirement) bool { return true }),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Retirement(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(r, func(t *table) { drawProof(t, r) })
		}),
	}
}

func drawProof(t *table, r client.Retirement) {
	t.pair("ID", r.ID)
	t.pair("Secret", qualified(r.Tenant, r.Secret))
	t.pair("Version", r.Version)
	t.pair("Cause", r.Cause)
	t.pair("Reason", r.Reason)
	t.pair("State", r.State)
	t.pair("Waiting for", inWords(r.WaitingFor))
	t.pair("Resolved by", resolvesRetirement(r))
	t.pair("Next look", r.NextAt)
	t.pair("Error", r.Error)
	if r.AlreadyRejected {
		t.pair("Already rejected", "yes: it did not work before it was revoked, so nothing is proven")
	}
	t.moment("Last used", r.LastUsedAt)
	t.pair("Last use", r.LastUse)
	t.moment("Last accepted", r.LastAcceptedAt)
	t.moment("Requested", r.RequestedAt)
	t.moment("Acknowledged", r.AcknowledgedAt)
	t.moment("Contained", r.ContainedAt)
	t.moment("Proven dead", r.ProvenAt)
	t.moment("Resurrected", r.ResurrectedAt)
	t.moment("Sessions ended", r.SessionsEndedAt)
	t.moment("To be removed", r.RemoveAt)
	t.moment("Removed", r.RemovedAt)
	if r.RevocationLatencyMS > 0 {
		t.pair("Revoked within", short(time.Duration(r.RevocationLatencyMS)*time.Millisecond))
	}
	t.pair("Control", control(r.Control))
	if r.Scope != nil {
		for _, line := range scope(*r.Scope) {
			t.pair("Scope", line)
		}
	}
	for _, c := range r.Rechecks {
		verdict := "due"
		if c.Verdict != "" {
			verdict = c.Verdict
		}
		t.pair("Re-check", fmt.Sprintf("%s %s", verdict, stamp(c.DueAt)))
	}
	if len(r.Tries) == 0 {
		return
	}
	t.section("ROUND", "PURPOSE", "VERSION", "AT", "VERDICT", "DETAIL", "ADDRESS", "PROBE", "NODE", "LATENCY")
	for _, y := range r.Tries {
		t.row(y.Round, y.Purpose, y.Version, stamp(y.At), y.Verdict, y.Detail, y.Address, y.Probe, y.Node, fmt.Sprintf("%dms", y.LatencyMS))
	}
}
