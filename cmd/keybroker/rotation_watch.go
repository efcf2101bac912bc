package main

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

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
	return a.follow(ctx, func(ctx context.Context) iter.Seq2[client.Event, error] { return c.WatchRotation(ctx, id) })
}

// watchRetirement follows a retirement until it is settled.
func (a *app) watchRetirement(ctx context.Context, c *client.Client, id string) error {
	return a.follow(ctx, func(ctx context.Context) iter.Seq2[client.Event, error] { return pollRetirement(ctx, c, id) })
}

func (a *app) follow(ctx context.Context, watch func(context.Context) iter.Seq2[client.Event, error]) error {
	t := newTimeline(a.out, a.now)
	if a.json() { // one line for each event
		t = newTimeline(nil, a.now)
		t.each = a.showEvent
	}
	return t.follow(ctx, watch)
}

// pollRetirement makes events of a retirement by asking for it again and again:
// the API streams rotations only. An unreachable server is asked on once it has
// answered before.
func pollRetirement(ctx context.Context, c *client.Client, id string) iter.Seq2[client.Event, error] {
	const every = time.Second
	return func(yield func(client.Event, error) bool) {
		answered := false
		for {
			r, err := c.Retirement(ctx, id)
			switch {
			case err != nil && (!answered || ctx.Err() != nil || client.Status(err)/100 == 4):
				yield(client.Event{}, err)
				return
			case err != nil:
				if !yield(client.Event{Type: client.EventInterrupted, Err: err}, nil) {
					return
				}
			default:
				answered = true
				if !yield(client.Event{Type: client.EventRetirement, Retirement: &r}, nil) {
					return
				}
				if r.Settled() {
					yield(client.Event{Type: client.EventEnd}, nil)
					return
				}
			}
			select {
			case <-time.After(every):
			case <-ctx.Done():
			}
		}
	}
}
