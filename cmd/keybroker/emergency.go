package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// emergencyCommand asks nothing: whoever types it at night has one chance.
func (a *app) emergencyCommand() *cobra.Command {
	var request client.EmergencyRequest
	var revokeFirst, wait bool
	cmd := &cobra.Command{
		Use:   "emergency NAME --reason TEXT",
		Short: "Contain and replace a compromised secret at once",
		Long: "Declare every live version of a secret compromised: they are revoked and proven\n" +
			"dead, while a replacement is minted, published and pushed beside it. It does not\n" +
			"ask, and repeating it does no harm: while the emergency lasts, it is the same one.\n" +
			"With --version only those versions are compromised; naming the replacement of an\n" +
			"emergency that is under way begins another.",
		Example:           "  keybroker emergency payments/stripe --reason 'key found in a public repository' --wait",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if strings.TrimSpace(request.Reason) == "" {
				return usagef("--reason is missing: it goes into the record and to the consumers")
			}
			if revokeFirst {
				request.Contain = client.RevokeFirst
			}
			if s, known := a.preview(ctx, c, args[0]); known {
				a.note("%s", printable(announcement(s, request.Versions)))
			}
			r, err := c.Emergency(ctx, args[0], request)
			if err != nil {
				return err
			}
			return a.rotationBegun(ctx, c, r, wait)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&request.Reason, "reason", "", "what happened, for the record")
	f.IntSliceVar(&request.Versions, "version", nil, "compromised version; can be repeated; default: every one that may be alive")
	f.BoolVar(&revokeFirst, "revoke-first", false, "do not wait for the replacement, whatever the policy says")
	f.BoolVar(&wait, "wait", false, "follow it; exit 1 unless everything is proven dead")
	return cmd
}

// announcement says what an emergency is going to hit.
func announcement(s client.Secret, pinned []int) string {
	var live []string
	for _, v := range s.Versions {
		if slices.Contains(pinned, v.Number) || len(pinned) == 0 && v.Stage != client.StageRetired {
			live = append(live, fmt.Sprintf("%d (%s)", v.Number, v.Stage))
		}
	}
	if len(live) == 0 {
		return s.Name + ": no version is live; a new one will be published"
	}
	text := fmt.Sprintf("%s: version %s will be revoked and replaced", s.Name, strings.Join(live, ", "))
	if len(s.Consumers) > 0 {
		text += "; told are " + strings.Join(s.Consumers, ", ")
	}
	return text
}
