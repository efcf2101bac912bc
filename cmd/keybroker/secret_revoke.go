package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) secretRevokeCommand() *cobra.Command {
	var request client.RevokeRequest
	var wait, yes bool
	cmd := &cobra.Command{
		Use:   "revoke NAME --version N",
		Short: "Revoke one version of a secret, and prove it",
		Long: "Revoke one version of a secret at its issuer, and prove that it no longer works.\n" +
			"On a terminal it asks before. The current version is refused: replace it with\n" +
			"`keybroker secret rotate`, or with `keybroker emergency` if it is compromised.",
		Example:           "  keybroker secret revoke payments/stripe --version 3 --reason 'nobody uses it any more' --wait",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if request.Version < 1 {
				return usagef("--version is missing; `keybroker secret show %s` lists them", args[0])
			}
			s, known := a.preview(ctx, c, args[0])
			current := known && s.Current() == request.Version
			if !current { // which the server refuses: nothing to ask about
				a.note("%s", printable(fmt.Sprintf("%s: version %d will be revoked and proven dead%s", args[0], request.Version, stageOf(s, request.Version))))
				if !yes {
					if err := a.confirm("Revoke it?"); err != nil {
						return err
					}
				}
			}
			r, err := c.Revoke(ctx, args[0], request)
			if err != nil && current && client.Status(err) == http.StatusConflict {
				return &hintError{err, fmt.Sprintf("if it is compromised: keybroker emergency %s --reason TEXT; otherwise: keybroker secret rotate %s", s.Name, s.Name)}
			}
			if err != nil {
				return err
			}
			return a.retirementBegun(ctx, c, r, wait)
		}),
	}
	f := cmd.Flags()
	f.IntVar(&request.Version, "version", 0, "the version to revoke")
	f.StringVar(&request.Reason, "reason", "", "why, for the record")
	f.BoolVar(&wait, "wait", false, "follow it; exit 1 unless it is proven dead")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// preview gets what an intervention is going to hit. It must delay nobody, so a
// server that does not tell at once is done without.
func (a *app) preview(ctx context.Context, c *client.Client, name string) (client.Secret, bool) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	s, err := c.Secret(ctx, name)
	return s, err == nil
}

// stageOf describes a version and who may use it.
func stageOf(s client.Secret, version int) string {
	for _, v := range s.Versions {
		if v.Number == version {
			text := "; it is " + v.Stage
			if v.Stage == client.StagePrevious && len(s.Consumers) > 0 {
				text += ", and may still be used by " + strings.Join(s.Consumers, ", ")
			}
			if v.HandleMissing {
				text += "; its handle is missing, so that it can only be turned off at its issuer by hand, or after " + givesHandle(qualified(s.Tenant, s.Name), version)
			}
			return text
		}
	}
	return ""
}

// retirementBegun tells of a retirement that has begun, or follows it.
func (a *app) retirementBegun(ctx context.Context, c *client.Client, r client.Retirement, wait bool) error {
	if wait {
		a.note("retirement %s of %s version %d is %s", r.ID, r.Secret, r.Version, r.State)
		return a.goesOn(ctx, a.watchRetirement(ctx, c, r.ID), "retirement", r.ID)
	}
	if a.json() {
		return a.showJSON(r)
	}
	a.note("retirement %s of %s version %d is %s", r.ID, r.Secret, r.Version, r.State)
	a.note("its proof: keybroker retirement show %s", r.ID)
	return nil
}
