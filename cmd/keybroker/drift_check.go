package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) driftCheckCommand() *cobra.Command {
	var request client.CheckDriftRequest
	var wait bool
	cmd := &cobra.Command{
		Use:   "check NAME",
		Short: "Compare now what the vaults hold of a secret",
		Long: "Compare now what the vaults hold of a secret with what they should, instead of when\n" +
			"drift_check says. Nothing is written to them, unless the secret says on_drift =\n" +
			"\"restore\". It waits for the result, and exits 1 if something has drifted, is behind, or\n" +
			"could not be compared; with --wait=false it only asks.",
		Example:           "  keybroker drift check payments/stripe",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			list, err := c.CheckDrift(ctx, args[0], request)
			if err != nil {
				return err
			}
			placements := list.Items
			if wait {
				if placements, err = a.compared(ctx, c, args[0]); err != nil {
					return err
				}
			}
			if err := a.showPlacements(placements, "there is nothing to compare"); err != nil || !wait {
				return err
			}
			return outOfStep(placements)
		}),
	}
	cmd.Flags().StringVar(&request.Reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait for the result")
	return cmd
}

// comparePatience is how long a vault that does not answer is waited for: one that
// was down a moment ago is asked again within seconds.
const comparePatience = 15 * time.Second

// compared waits until every vault was compared, or could not be. On a terminal it
// says what it waits for.
func (a *app) compared(ctx context.Context, c *client.Client, name string) ([]client.Placement, error) {
	const every = 200 * time.Millisecond
	giveUp := a.now().Add(comparePatience)
	progress := newTimeline(a.err, a.now)
	defer progress.draw("", "")
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		now, err := placementsOf(ctx, c, client.DriftQuery{Secret: name, All: true})
		if err != nil {
			return nil, err
		}
		waiting := ""
		for _, p := range now {
			if p.Asked && (p.Error == "" || a.now().Before(giveUp)) {
				waiting = fmt.Sprintf("%s is being compared", p.Backend)
			}
		}
		if waiting == "" {
			return now, nil
		}
		progress.draw("", waiting)
		select {
		case <-ctx.Done():
			a.note("the comparison goes on; its result: keybroker drift list --secret %s --all", name)
			return nil, context.Cause(ctx)
		case <-ticks.C:
		}
	}
}

// outOfStep is the error of a check that did not find everything in step.
func outOfStep(placements []client.Placement) error {
	drifted, behind, unknown := 0, 0, 0
	for _, p := range placements {
		switch {
		case p.State == client.Drifted:
			drifted++
		case p.Asked:
			unknown++
		case p.State != client.InStep:
			behind++
		}
	}
	switch {
	case drifted > 0:
		return &hintError{fmt.Errorf("drifted: %d of %d vaults", drifted, len(placements)),
			"`keybroker drift restore` writes the current version over it; `keybroker drift adopt` takes over what is there"}
	case unknown > 0:
		return &hintError{fmt.Errorf("not compared: %d of %d vaults", unknown, len(placements)), "it is tried again by itself"}
	case behind > 0:
		return &hintError{fmt.Errorf("behind: %d of %d vaults", behind, len(placements)), "they are brought to the current version by themselves, as soon as they can be written"}
	}
	return nil
}
