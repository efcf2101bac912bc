package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/offline"
)

func (a *app) offlineReturnCommand() *cobra.Command {
	var override, wait bool
	cmd := &cobra.Command{
		Use:   "return JOURNAL",
		Short: "Tell the server what was revoked while it was down",
		Long: "Hand the journal of `keybroker offline revoke` to the server that is back: it declares an\n" +
			"incident of exactly those versions, revokes them once more, proves them dead, and makes\n" +
			"and publishes their replacements. The same journal is the same incident. Of more secrets\n" +
			"than the server allows somebody else has to approve, as of any emergency.\n\n" +
			"Afterwards the journal has .returned behind its name.\n\n" + exitCodes,
		Example: "  keybroker offline return keybroker.kit.journal --wait",
		Args:    takes("JOURNAL"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			account, err := offline.ReadJournal(args[0])
			if err != nil {
				return err
			}
			i, err := c.OfflineReturn(ctx, returnOf(account, override))
			if err != nil {
				return err
			}
			a.announceIncident(i)
			if err := os.Rename(args[0], args[0]+".returned"); err != nil {
				a.note("the journal stays where it is: %s", err)
			}
			if wait {
				return a.watchIncident(ctx, c, i.ID, untilProven)
			}
			if a.json() {
				if err := a.showJSON(i); err != nil {
					return err
				}
			}
			if i.State == client.IncidentProposed {
				return standing(exitOpen)
			}
			a.note("follow it with: keybroker incident watch %s", i.ID)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&override, "override", false, "do not wait for a second person; that raises an alert")
	cmd.Flags().BoolVar(&wait, "wait", false, "follow it to the proof; see the exit codes above")
	return cmd
}

// returnOf is what a journal says, as the server takes it.
func returnOf(j offline.Account, override bool) client.OfflineReturn {
	r := client.OfflineReturn{ID: j.ID, Installation: j.Installation, Reason: j.Reason, By: j.By, Host: j.Host, KitMadeAt: j.KitMadeAt, From: j.From, To: j.To, Override: override}
	for _, v := range j.Versions {
		r.Versions = append(r.Versions, client.OfflineVersion{Secret: refText(v.Ref.Tenant, v.Ref.Name), Version: v.Version, Last: v.Last, At: v.At, Result: v.Result, Error: v.Error})
	}
	return r
}
