package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) secretRotateCommand() *cobra.Command {
	var request client.RotateRequest
	var wait bool
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Rotate a secret now",
		Long: "Rotate a secret now: a new version is minted, verified and published, and after the\n" +
			"overlap the version that it replaces is revoked and proven dead.",
		Example:           "  keybroker secret rotate payments/stripe --reason quarterly --wait",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Rotate(ctx, args[0], request)
			if err != nil {
				return err
			}
			return a.rotationBegun(ctx, c, r, wait)
		}),
	}
	cmd.Flags().StringVar(&request.Reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&request.IgnoreWindow, "ignore-window", false, "begin although the maintenance window is closed")
	cmd.Flags().BoolVar(&wait, "wait", false, "follow it; exit 1 unless everything is proven")
	return cmd
}

// rotationBegun tells of a rotation that has begun, or follows it to its end.
func (a *app) rotationBegun(ctx context.Context, c *client.Client, r client.Rotation, wait bool) error {
	if wait {
		a.note("rotation %s of %s is %s", r.ID, r.Secret, r.State)
		return a.goesOn(ctx, a.watchRotation(ctx, c, r.ID), "rotation", r.ID)
	}
	if a.json() {
		return a.showJSON(r)
	}
	a.note("rotation %s of %s is %s", r.ID, r.Secret, r.State)
	a.note("follow it with: keybroker rotation watch %s", r.ID)
	return nil
}

// goesOn says how what has begun is followed on, if it is not followed to its end.
func (a *app) goesOn(ctx context.Context, err error, what, id string) error {
	if ctx.Err() != nil {
		a.note("\n%s %s goes on; follow it with: keybroker %s watch %s", what, id, what, id)
	} else if _, is := errors.AsType[*unfollowed](err); is {
		return &hintError{fmt.Errorf("%s %s goes on, but cannot be followed: %w", what, id, err), fmt.Sprintf("follow it with: keybroker %s watch %s", what, id)}
	}
	return err
}
