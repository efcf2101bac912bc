package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

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
			for _, n := range request.Versions {
				if n < 1 {
					return usagef("--version is %d; versions begin at 1", n)
				}
			}
			s, known := a.preview(ctx, c, args[0])
			r, err := c.Emergency(ctx, args[0], request)
			if err != nil {
				return err
			}
			a.note("%s", printable(announcement(r, s, known)))
			err = a.rotationBegun(ctx, c, r, wait)
			if wait && ctx.Err() == nil && r.FromVersion > 0 {
				a.tellWhoIsWithout(ctx, c, r)
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.StringVar(&request.Reason, "reason", "", "what happened, for the record")
	f.IntSliceVar(&request.Versions, "version", nil, "compromised version; can be repeated; default: every one that may be alive")
	f.BoolVar(&revokeFirst, "revoke-first", false, "do not wait for the replacement, whatever the policy says")
	f.BoolVar(&request.Overwrite, "overwrite", false, "write the replacement also over a value in the vault that somebody else put there")
	f.BoolVar(&wait, "wait", false, "follow it, and tell which consumers are without the replacement; exit 1 unless everything is proven dead")
	return cmd
}

// announcement says what an emergency hits, as the server has decided it.
func announcement(r client.Rotation, s client.Secret, known bool) string {
	var pinned []string
	for _, n := range r.Compromised {
		pinned = append(pinned, strconv.Itoa(n))
	}
	which := "every version that may be alive"
	switch len(pinned) {
	case 0:
	case 1:
		which = "version " + pinned[0]
	default:
		which = "versions " + strings.Join(pinned, ", ")
	}
	if r.State == client.RotationDone {
		return fmt.Sprintf("%s: NOTHING NEW: the emergency of %s is done; version %d, its replacement, counts as clean for a minute and is NOT turned off.\n"+
			"If it is compromised too: keybroker emergency %s --version %d --reason TEXT", r.Secret, relative(r.StartedAt, time.Now()), r.ToVersion, r.Secret, r.ToVersion)
	}
	text := fmt.Sprintf("%s: %s: revoked and proven dead, whatever else happens", r.Secret, which)
	if r.FromVersion > 0 {
		text += "; a replacement is made beside it"
		if known && len(s.Consumers) > 0 {
			text += ", of which are told: " + strings.Join(s.Consumers, ", ")
		}
	}
	return text
}

// without are the consumers of a secret that do not use what replaces a compromised
// version, as far as is known.
type without struct {
	Event       string   `json:"event"` // "consumers", in the place of client.Event's
	Secret      string   `json:"secret"`
	Version     int      `json:"version"` // the current one
	NotReceived []string `json:"not_received"`
	NotApplied  []string `json:"not_applied"` // they have it, and do not say that they use it
}

func consumersWithout(s client.SecretConsumers, compromised int) without {
	w := without{Event: "consumers", Secret: qualified(s.Tenant, s.Secret), Version: s.Version, NotReceived: []string{}, NotApplied: []string{}}
	for _, c := range s.Consumers {
		switch told := c.Version == s.Version && c.Version != compromised; {
		case !c.Listed || told && !c.AppliedAt.IsZero():
		case told && (!c.ReceivedAt.IsZero() || !c.FetchedAt.IsZero()):
			w.NotApplied = append(w.NotApplied, c.Consumer)
		default:
			w.NotReceived = append(w.NotReceived, c.Consumer)
		}
	}
	return w
}

// tellWhoIsWithout ends an emergency with who may sit on a key that is dead by now. It is
// no failure of the emergency, nor is that it cannot be told.
func (a *app) tellWhoIsWithout(ctx context.Context, c *client.Client, r client.Rotation) {
	name := qualified(r.Tenant, r.Secret)
	command := "keybroker secret consumers " + name
	s, err := c.SecretConsumers(ctx, name)
	if err != nil {
		a.note("which consumers have the replacement could not be asked (%s): %s", printable(err.Error()), command)
		return
	}
	w := consumersWithout(s, r.FromVersion)
	if a.json() {
		_ = json.NewEncoder(a.out).Encode(w) // what came of the emergency counts
		return
	}
	if len(w.NotReceived) > 0 {
		a.note("WITHOUT the replacement: %s", printable(strings.Join(w.NotReceived, ", ")))
	}
	if len(w.NotApplied) > 0 {
		a.note("have version %d, and did not say that they use it: %s", w.Version, printable(strings.Join(w.NotApplied, ", ")))
	}
	if len(w.NotReceived)+len(w.NotApplied) > 0 {
		a.note("see: %s", command)
	}
}
