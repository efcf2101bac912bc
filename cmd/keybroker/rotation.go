package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

const defaultLimit = 50

var rotationStates = []string{
	client.RotationQueued, client.RotationMinting, client.RotationStaging, client.RotationVerifying, client.RotationPublishing,
	client.RotationOverlap, client.RotationRetiring, client.RotationDone, client.RotationFailed, client.RotationRolledBack,
	client.RotationCancelled, client.RotationSuperseded,
}

func (a *app) rotationCommand() *cobra.Command {
	return group("rotation", "Look at rotations and intervene in them",
		a.rotationListCommand(), a.rotationShowCommand(), a.rotationWatchCommand(), a.rotationOrphansCommand(),
		a.rotationRetryCommand(), a.rotationCancelCommand(), a.rotationApproveCommand(), a.rotationRollbackCommand(), a.rotationSupplyCommand())
}

func (a *app) rotationListCommand() *cobra.Command {
	var query client.RotationQuery
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List rotations, the latest first",
		Args:  takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if query.State != "" {
				if err := oneOf("state", query.State, rotationStates...); err != nil {
					return err
				}
			}
			rotations, err := collect(client.All(func(after string) (client.List[client.Rotation], error) {
				query.Page = pageFor(limit, after)
				return c.Rotations(ctx, query)
			}), limit)
			if err != nil {
				return err
			}
			return a.show(rotations, func(t *table) {
				t.row("ID", "SECRET", "TRIGGER", "STATE", "WAITING FOR", "FROM", "TO", "STARTED", "TOOK", "NEXT", "WHY")
				for _, r := range rotations {
					t.row(r.ID, qualified(r.Tenant, r.Secret), r.Trigger, r.State, r.WaitingFor, r.FromVersion, r.ToVersion, r.StartedAt,
						took(r.StartedAt, r.EndedAt), r.NextAt, r.Error)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&query.Secret, "secret", "", "only of this secret")
	cmd.Flags().StringVar(&query.State, "state", "", "only in this state: "+strings.Join(rotationStates, ", "))
	cmd.Flags().BoolVar(&query.Live, "live", false, "only those that have not ended")
	cmd.Flags().IntVar(&limit, "limit", defaultLimit, "at most so many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(rotationStates, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) rotationShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "Show a rotation, its steps, and what it waits for",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeRotations(func(client.Rotation) bool { return true }),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Rotation(ctx, args[0])
			if err != nil {
				return err
			}
			resolved := resolves(r)
			if r.WaitingFor == waitProof && !a.json() {
				if of, err := c.Retirements(ctx, client.RetirementQuery{Secret: qualified(r.Tenant, r.Secret)}); err == nil {
					resolved = resolvesProof(r, of.Items)
				}
			}
			return a.show(r, func(t *table) {
				t.pair("ID", r.ID)
				t.pair("Secret", qualified(r.Tenant, r.Secret))
				t.pair("Trigger", r.Trigger)
				t.pair("Reason", r.Reason)
				t.pair("Asked by", r.Actor)
				if r.Adopts != "" {
					t.pair("Adopts", "what "+r.Adopts+" holds")
				}
				t.pair("Approved by", r.ApprovedBy)
				t.moment("Approved", r.ApprovedAt)
				rollback := "Rollback asked by"
				if r.State == client.RotationRolledBack {
					rollback = "Rolled back by"
				}
				t.pair(rollback, r.RollBackBy)
				t.pair("State", r.State)
				if r.IgnoreWindow {
					t.pair("Window", "ignored, as was asked for")
				}
				if !r.Ended() {
					t.pair("Waiting for", inWords(r.WaitingFor))
					t.pair("Resolved by", resolved)
					t.moment("Value wanted by", r.ValueBy)
					t.pair("Next look", r.NextAt)
				}
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
