package main

import (
	"context"
	"net/http"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keybroker/keybroker/broker/client"
)

// intervention are the flags of a command that says what it will do before it
// does it.
type intervention struct {
	reason string
	dryRun bool
	yes    bool
	wait   bool
}

func (i *intervention) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&i.reason, "reason", "", "why, for the record")
	f.BoolVar(&i.dryRun, "dry-run", false, "only say what would follow")
	f.BoolVarP(&i.yes, "yes", "y", false, "do not ask")
}

// waitFlag is --wait, as of the other commands that begin something; --watch is
// the same.
func (i *intervention) waitFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().BoolVar(&i.wait, "wait", false, usage)
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "watch" {
			name = "wait"
		}
		return pflag.NormalizedName(name)
	})
}

// foretold is an answer that says what follows.
type foretold interface{ Sentences() []string }

// intervene has the server say what would follow, asks whether to go on, where
// there is somebody to ask, and does just that: if something else would follow by
// then, it asks again, or fails where there is nobody to ask. With --yes whatever
// follows was agreed to. With --dry-run it shows what was said, and done is false.
func intervene[T foretold](ctx context.Context, a *app, i intervention, question string, ask func(context.Context, client.InterventionRequest) (T, error)) (answer T, done bool, err error) {
	look := func() (T, error) { return ask(ctx, client.InterventionRequest{Reason: i.reason, DryRun: true}) }
	if answer, err = look(); err != nil {
		return answer, false, err
	}
	if i.dryRun {
		return answer, false, a.show(answer, func(t *table) {
			for _, will := range answer.Sentences() {
				t.row(will)
			}
		})
	}
	a.announce(answer.Sentences())
	if i.yes {
		would := answer.Sentences()
		if answer, err = ask(ctx, client.InterventionRequest{Reason: i.reason}); err != nil {
			return answer, false, err
		}
		if will := answer.Sentences(); !slices.Equal(will, would) {
			a.note("it has changed meanwhile:")
			a.announce(will)
		}
		return answer, true, nil
	}
	answer, err = agreedTo(a, answer, question, look, func(would []string) (T, error) {
		return ask(ctx, client.InterventionRequest{Reason: i.reason, Expect: would})
	})
	return answer, err == nil, err
}

// agreedTo asks whether to do what seen says, which was announced, and does it.
// Where the server refuses because it has changed meanwhile, it looks again and asks
// about that, if there is somebody to ask.
func agreedTo[T foretold](a *app, seen T, question string, look func() (T, error), act func(would []string) (T, error)) (T, error) {
	for {
		if err := a.confirm(question); err != nil {
			return seen, err
		}
		did, err := act(seen.Sentences())
		if _, asks := terminal(a.in); !asks || client.Status(err) != http.StatusConflict {
			return did, err
		}
		again, lookErr := look()
		if lookErr != nil || slices.Equal(again.Sentences(), seen.Sentences()) {
			return did, err // it was refused for something else
		}
		a.note("it has changed meanwhile:")
		a.announce(again.Sentences())
		seen = again
	}
}

func (a *app) announce(sentences []string) {
	for _, s := range sentences {
		a.note("- %s", printable(s))
	}
}

// onRotation makes a command that intervenes in one rotation; end is the state in
// which it has reached what it is for.
func (a *app) onRotation(cmd *cobra.Command, question, end string, of func(client.Rotation) bool,
	call func(*client.Client, context.Context, string, client.InterventionRequest) (client.RotationIntervention, error)) *cobra.Command {
	var i intervention
	cmd.Args = takes("ID")
	cmd.ValidArgsFunction = a.completeRotations(of)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		answer, done, err := intervene(ctx, a, i, question, func(ctx context.Context, r client.InterventionRequest) (client.RotationIntervention, error) {
			return call(c, ctx, args[0], r)
		})
		if err != nil || !done {
			return err
		}
		r := answer.Rotation
		switch {
		case i.wait:
			return a.rotationUntil(ctx, c, r, end)
		case a.json():
			return a.showJSON(answer)
		}
		a.note("rotation %s of %s is %s", r.ID, qualified(r.Tenant, r.Secret), r.State)
		if !r.Ended() {
			a.note("follow it with: keybroker rotation watch %s", r.ID)
		}
		return nil
	})
	i.flags(cmd)
	i.waitFlag(cmd, "follow it; exit 1 unless it ends "+end+" and what it turns off is proven dead")
	return cmd
}

// qualified is the name of a secret as whoever sees several tenants has to give it.
func qualified(tenant, name string) string {
	if tenant == "" || tenant == client.DefaultTenant {
		return name
	}
	return tenant + ":" + name
}

// completeRotations completes the ids of those rotations for which of is true, by
// asking the server.
func (a *app) completeRotations(of func(client.Rotation) bool) cobra.CompletionFunc {
	return completeIDs(a, func(ctx context.Context, c *client.Client, p client.Page) ([]client.Rotation, error) {
		list, err := c.Rotations(ctx, client.RotationQuery{Page: p})
		return list.Items, err
	}, func(r client.Rotation) (id, description string) {
		if !of(r) {
			return "", ""
		}
		description = qualified(r.Tenant, r.Secret) + " " + r.State
		if r.WaitingFor != "" {
			description += ", waiting for " + r.WaitingFor
		}
		return r.ID, description
	})
}

// completeRetirements completes the ids of retirements for which of is true.
func (a *app) completeRetirements(of func(client.Retirement) bool) cobra.CompletionFunc {
	return completeIDs(a, func(ctx context.Context, c *client.Client, p client.Page) ([]client.Retirement, error) {
		list, err := c.Retirements(ctx, client.RetirementQuery{Page: p})
		return list.Items, err
	}, func(r client.Retirement) (id, description string) {
		if !of(r) {
			return "", ""
		}
		return r.ID, qualified(r.Tenant, r.Secret) + " " + r.State
	})
}
