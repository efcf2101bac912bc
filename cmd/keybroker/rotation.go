package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

const defaultLimit = 50

func (a *app) rotationCommand() *cobra.Command {
	return group("rotation", "Look at rotations",
		a.rotationListCommand(), a.rotationShowCommand(), a.rotationWatchCommand())
}

func (a *app) rotationListCommand() *cobra.Command {
	var query client.RotationQuery
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List rotations, the latest first",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			rotations, err := collect(client.All(func(after string) (client.List[client.Rotation], error) {
				query.Page = pageFor(limit, after)
				return c.Rotations(ctx, query)
			}), limit)
			if err != nil {
				return err
			}
			return a.show(rotations, func(t *table) {
				t.row("ID", "SECRET", "TRIGGER", "STATE", "WAITING FOR", "FROM", "TO", "STARTED", "TOOK")
				for _, r := range rotations {
					t.row(r.ID, r.Secret, r.Trigger, r.State, r.WaitingFor, r.FromVersion, r.ToVersion, r.StartedAt, took(r.StartedAt, r.EndedAt))
				}
			})
		}),
	}
	cmd.Flags().StringVar(&query.Secret, "secret", "", "only of this secret")
	cmd.Flags().BoolVar(&query.Live, "live", false, "only those that have not ended")
	cmd.Flags().IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	return cmd
}

func (a *app) rotationShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show a rotation and its steps",
		Args:  takes("ID"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Rotation(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(r, func(t *table) {
				t.pair("ID", r.ID)
				t.pair("Secret", r.Secret)
				t.pair("Trigger", r.Trigger)
				t.pair("Reason", r.Reason)
				t.pair("State", r.State)
				t.pair("Waiting for", r.WaitingFor)
				t.pair("Error", r.Error)
				t.pair("From version", r.FromVersion)
				t.pair("To version", r.ToVersion)
				t.moment("Started", r.StartedAt)
				t.pair("Overlap ends", r.OverlapUntil)
				t.moment("Ended", r.EndedAt)
				if len(r.Steps) == 0 {
					return
				}
				t.section("STEP", "AFTER", "TOOK", "OUTCOME", "DETAIL")
				for _, s := range r.Steps {
					t.row(s.Step, took(r.StartedAt, s.StartedAt), took(s.StartedAt, s.EndedAt), s.Outcome, s.Detail)
				}
			})
		}),
	}
}

// took is the time between two instants, nothing where one of them is missing.
func took(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return ""
	}
	return short(max(0, to.Sub(from)))
}

func (a *app) completeSecretFlag(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeSecrets(cmd, nil, prefix)
}
