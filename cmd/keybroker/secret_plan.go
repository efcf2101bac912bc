package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) secretPlanCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "plan NAME",
		Short: "Tell what would happen to a secret, when, and why not",
		Long: "Tell what would happen to a secret: the steps of the rotation that is under way, or\n" +
			"of the next one, when it is due, what keeps it from beginning or from going on, and\n" +
			"what ends that.",
		Example:           "  keybroker secret plan payments/stripe",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			p, err := c.Plan(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(p, func(t *table) { drawPlan(t, p) })
		}),
	}
}

func drawPlan(t *table, p client.Plan) {
	t.pair("Secret", qualified(p.Tenant, p.Secret))
	switch {
	case p.RotationID != "":
		t.pair("Rotation", p.RotationID+" ("+p.Trigger+") is under way")
	case p.Ready:
		t.pair("If asked for", "a rotation would begin at once")
	default:
		t.pair("If asked for", "no rotation would begin now")
	}
	t.moment("By schedule", p.NextAt)
	for _, w := range p.WhyNot {
		t.pair("Waiting for", w.WaitingFor+": "+w.Detail)
		t.pair("Resolved by", w.Mend)
	}
	if len(p.Steps) > 0 {
		t.section("STEP", "STATE", "WHEN", "DETAIL")
		for _, e := range p.Steps {
			t.row(e.Step, e.State, when(e, t.now), e.Detail)
		}
	}
	if len(p.Retirements) > 0 {
		t.section("TURNING OFF", "STATE", "WHEN", "DETAIL")
		for _, e := range p.Retirements {
			t.row(e.Step, e.State, when(e, t.now), e.Detail)
		}
	}
}

// when tells the time of a step, or how long after the beginning it is to be.
func when(e client.Expected, now time.Time) string {
	switch {
	case e.State == client.ExpectedDone:
		return ""
	case !e.At.IsZero():
		return relative(e.At, now)
	case e.AfterMS > 0:
		return "+" + short(time.Duration(e.AfterMS)*time.Millisecond)
	}
	return ""
}
