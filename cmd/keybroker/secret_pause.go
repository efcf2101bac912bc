package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) secretPauseCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:               "pause NAME",
		Short:             "Keep a secret from rotating, except in an emergency",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			s, err := c.Pause(ctx, args[0], client.PauseRequest{Reason: reason})
			if err != nil {
				return err
			}
			return a.showState(s)
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

func (a *app) secretResumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "resume NAME",
		Short:             "End the pause of a secret",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			s, err := c.Resume(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showState(s)
		}),
	}
}

func (a *app) showState(s client.Secret) error {
	if a.json() {
		return a.showJSON(s)
	}
	a.note("%s is %s", s.Name, s.State)
	return nil
}
