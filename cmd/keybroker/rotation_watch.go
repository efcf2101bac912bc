package main

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) rotationWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch ID|SECRET",
		Short: "Follow a rotation live, to the proof",
		Long: "Follow a rotation live, or the latest one of a secret: a line for each step as it\n" +
			"ends and for each round of the proof, with the time since the start. Exits 1\n" +
			"unless everything that was revoked is proven dead.",
		Args:              takes("ID|SECRET"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			id, err := findRotation(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.watchRotation(ctx, c, id)
		}),
	}
}

// findRotation takes the id of a rotation, or the name of a secret: then it is
// its live rotation, or else its latest.
func findRotation(ctx context.Context, c *client.Client, arg string) (string, error) {
	if !strings.Contains(arg, "/") {
		r, err := c.Rotation(ctx, arg)
		if err == nil {
			return r.ID, nil
		}
		if client.Status(err) != http.StatusNotFound {
			return "", err
		}
	}
	for _, live := range []bool{true, false} {
		list, err := c.Rotations(ctx, client.RotationQuery{Secret: arg, Live: live, Page: client.Page{Limit: 1}})
		if err != nil {
			return "", err
		}
		if len(list.Items) > 0 {
			return list.Items[0].ID, nil
		}
	}
	return "", fmt.Errorf("there is neither a rotation %s nor one of a secret with that name", arg)
}

// watchRotation follows a rotation to its end. The error says what was not proven.
func (a *app) watchRotation(ctx context.Context, c *client.Client, id string) error {
	return a.rotationUntil(ctx, c, client.Rotation{ID: id}, client.RotationDone)
}

// rotationUntil follows a rotation to its end, which is an error unless it is the
// wanted one.
func (a *app) rotationUntil(ctx context.Context, c *client.Client, r client.Rotation, wanted string) error {
	return a.follow(ctx, wanted, func(ctx context.Context) iter.Seq2[client.Event, error] { return c.WatchRotation(ctx, r.ID) })
}

// watchRetirement follows a retirement until it is settled: one that cannot be
// proven by now is probed on, which is not waited for.
func (a *app) watchRetirement(ctx context.Context, c *client.Client, id string) error {
	return a.follow(ctx, client.RotationDone, func(ctx context.Context) iter.Seq2[client.Event, error] {
		return func(yield func(client.Event, error) bool) {
			for e, err := range c.WatchRetirement(ctx, id) {
				if !yield(e, err) || e.Retirement != nil && e.Retirement.Settled() {
					return
				}
			}
		}
	})
}

func (a *app) follow(ctx context.Context, wanted string, watch watching) error {
	t := newTimeline(a.out, a.now)
	if a.json() { // one line for each event
		t = newTimeline(nil, a.now)
		t.each = a.showEvent
	}
	t.wanted = wanted
	return t.follow(ctx, watch)
}
