package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) retirementCommand() *cobra.Command {
	return group("retirement", "Look at revoked versions and their proofs",
		a.retirementListCommand(), a.retirementShowCommand())
}

func (a *app) retirementListCommand() *cobra.Command {
	var secret string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List retirements, the latest first",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			retirements, err := collect(client.All(func(after string) (client.List[client.Retirement], error) {
				return c.Retirements(ctx, client.RetirementQuery{Secret: secret, Page: pageFor(limit, after)})
			}), limit)
			if err != nil {
				return err
			}
			return a.show(retirements, func(t *table) {
				t.row("ID", "SECRET", "VERSION", "CAUSE", "STATE", "REQUESTED", "CONTAINED AFTER", "PROVEN AFTER")
				for _, r := range retirements {
					t.row(r.ID, r.Secret, r.Version, r.Cause, r.State, r.RequestedAt,
						took(r.RequestedAt, r.ContainedAt), took(r.RequestedAt, r.ProvenAt))
				}
			})
		}),
	}
	cmd.Flags().StringVar(&secret, "secret", "", "only of this secret")
	cmd.Flags().IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	return cmd
}

func (a *app) retirementShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show the proof of a retirement, with every try",
		Args:  takes("ID"),
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
	t.pair("Secret", r.Secret)
	t.pair("Version", r.Version)
	t.pair("Cause", r.Cause)
	t.pair("Reason", r.Reason)
	t.pair("State", r.State)
	t.pair("Waiting for", r.WaitingFor)
	t.pair("Error", r.Error)
	if r.AlreadyRejected {
		t.pair("Already rejected", "yes: it did not work before it was revoked, so nothing is proven")
	}
	t.moment("Last accepted", r.LastAcceptedAt)
	t.moment("Requested", r.RequestedAt)
	t.moment("Acknowledged", r.AcknowledgedAt)
	t.moment("Contained", r.ContainedAt)
	t.moment("Proven dead", r.ProvenAt)
	t.moment("Resurrected", r.ResurrectedAt)
	if r.RevocationLatencyMS > 0 {
		t.pair("Revoked within", short(time.Duration(r.RevocationLatencyMS)*time.Millisecond))
	}
	t.pair("Control", r.Control)
	if s := r.Scope; s != nil {
		t.pair("Endpoint", s.Endpoint)
		t.pair("Probed from", s.Node)
		t.pair("Not reached", s.Unreached)
		t.pair("Derived sessions", s.DerivedSessions)
		if s.SelfAttested {
			t.pair("Self-attested", "yes: keybroker itself decides whether the key works")
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
