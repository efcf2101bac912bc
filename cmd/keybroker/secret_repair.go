package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) secretRepairCommand() *cobra.Command {
	var request client.RepairRequest
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "repair NAME",
		Short: "Find and mend what is out of step between broker and vault",
		Long: "Find what is out of order with a secret, and mend it: a pending version that no\n" +
			"rotation will bring, a vault that does not hold what the broker takes for current.\n" +
			"What somebody else wrote into the vault is overwritten only with --overwrite. Exits 1\n" +
			"if something is left that was not mended.",
		Example: "  keybroker secret repair payments/stripe --dry-run\n" +
			"  keybroker secret repair payments/stripe --overwrite --reason 'edited by hand'",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			look := func() (client.Repair, error) {
				dry := request
				dry.DryRun = true
				return c.Repair(ctx, args[0], dry)
			}
			act := func(agreed []string) (client.Repair, error) {
				real := request
				real.Expect = agreed
				return c.Repair(ctx, args[0], real)
			}
			found, err := look()
			if err != nil {
				return err
			}
			if dryRun || len(found.Sentences()) == 0 {
				found.DryRun = dryRun
				return a.repaired(found)
			}
			a.announce(found.Sentences())
			var done client.Repair
			if yes {
				done, err = act(nil)
			} else {
				done, err = agreedTo(a, found, "Repair it?", look, act)
			}
			if err != nil {
				return err
			}
			return a.repaired(done)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&request.Reason, "reason", "", "why, for the record")
	f.BoolVar(&request.Overwrite, "overwrite", false, "overwrite what somebody else wrote into the vault")
	f.BoolVar(&dryRun, "dry-run", false, "only say what is out of order, and what would mend it")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// repaired shows what was found; what is left is an error, unless nobody asked to
// mend it.
func (a *app) repaired(r client.Repair) error {
	err := a.show(r, func(t *table) {
		if len(r.Findings) == 0 {
			t.row("nothing is out of order")
			return
		}
		t.row("KIND", "VERSION", "MENDED", "WHAT", "MENDED BY", "ERROR")
		for _, f := range r.Findings {
			mended := "no"
			switch {
			case f.Mended:
				mended = "yes"
			case r.DryRun && f.Mendable:
				mended = "would be"
			}
			t.row(f.Kind, f.Version, mended, f.Detail, f.Mend, f.Error)
		}
	})
	left := 0
	for _, f := range r.Findings {
		if !f.Mended && (!r.DryRun || !f.Mendable) {
			left++
		}
	}
	if err == nil && left > 0 {
		err = fmt.Errorf("%d of %d findings are not mended", left, len(r.Findings))
	}
	return err
}
