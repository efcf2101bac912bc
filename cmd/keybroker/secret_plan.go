package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) secretPlanCommand() *cobra.Command {
	var all bool
	var prefix string
	cmd := &cobra.Command{
		Use:   "plan NAME | --all",
		Short: "Tell what would happen to a secret, when, and why not",
		Long: "Tell what would happen to a secret: the steps of the rotation that is under way, or\n" +
			"of the next one, when it is due, what keeps it from beginning or from going on, and\n" +
			"what ends that. Then how it rotates: every setting, where it was said (default, the\n" +
			"policy that applies, the secret's own block, a limit), and the next ten rotations if\n" +
			"nothing else happens.\n\n" +
			"With --all, how every secret rotates.",
		Example: "  keybroker secret plan payments/stripe\n  keybroker secret plan --all --prefix payments/ --format json",
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return takes()(cmd, args)
			}
			if cmd.Flags().Changed("prefix") {
				return usagef("--prefix is without effect on one secret: it goes with --all")
			}
			return takes("NAME")(cmd, args)
		},
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if all {
				return a.planAll(ctx, c, prefix)
			}
			p, err := c.Plan(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(p, func(t *table) {
				drawPlan(t, p)
				drawEffective(t, p.Effective)
			})
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "how every secret rotates")
	cmd.Flags().StringVar(&prefix, "prefix", "", "with --all: only names that begin with this")
	return cmd
}

func (a *app) planAll(ctx context.Context, c *client.Client, prefix string) error {
	plans, err := collect(client.All(func(after string) (client.List[client.Effective], error) {
		return c.EffectivePlans(ctx, client.SecretQuery{Prefix: prefix, Page: pageFor(0, after)})
	}), 0)
	if err != nil {
		return err
	}
	return a.show(plans, func(t *table) {
		for i, e := range plans {
			if i > 0 {
				t.section("")
			}
			t.pair("Secret", qualified(e.Tenant, e.Secret))
			t.pair("Policy", e.Policy)
			drawEffective(t, e)
		}
	})
}

// drawEffective draws how a secret rotates, and where that is said.
func drawEffective(t *table, e client.Effective) {
	if len(e.Settings) > 0 {
		t.section("SETTING", "VALUE", "FROM", "WHERE")
		for _, s := range e.Settings {
			t.row(s.Name, s.Value, saidBy(s.From, s.Policy), written(s.File, s.Line))
		}
	}
	if len(e.Limits) > 0 {
		t.section("LIMIT", "VALUE", "FROM", "WHERE")
		for _, l := range e.Limits {
			t.row(l.Name, l.Value, saidBy(client.FromPolicy, l.Policy), written(l.File, l.Line))
		}
	}
	drawUpcoming(t, e.Upcoming)
}

// drawUpcoming draws the rotations to come, and when consumers are told of them if they
// are.
func drawUpcoming(t *table, upcoming []client.Due) {
	if len(upcoming) == 0 {
		return
	}
	header, told := []any{"NEXT ROTATION", "IN", "WHY", "BEGINS"}, !upcoming[0].NoticeAt.IsZero()
	if told {
		header = append(header, "CONSUMERS TOLD")
	}
	t.section(header...)
	for _, d := range upcoming {
		begins := "at once"
		if d.BeginsAt.After(d.At) {
			begins = stamp(d.BeginsAt)
		}
		row := []any{stamp(d.At), d.At, d.Why, begins}
		if told {
			row = append(row, stamp(d.NoticeAt))
		}
		t.row(row...)
	}
}

// saidBy says who gave a value.
func saidBy(source, policy string) string {
	switch {
	case policy == "":
		return source
	case source == client.FromLimit:
		return "limit of policy " + policy
	}
	return source + " " + policy
}

// written is where something stands in the files of the server.
func written(file string, line int) string {
	if file == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", file, line)
}

func drawPlan(t *table, p client.Plan) {
	t.pair("Secret", qualified(p.Tenant, p.Secret))
	t.pair("Policy", p.Policy)
	switch {
	case p.RotationID != "":
		t.pair("Rotation", p.RotationID+" ("+p.Trigger+") is under way")
	case p.Ready:
		t.pair("If asked for", "a rotation would begin at once")
	default:
		t.pair("If asked for", "no rotation would begin now")
	}
	t.moment("Next by itself", p.NextAt)
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
