package main

import (
	"cmp"
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) storageCommand() *cobra.Command {
	return group("storage", "Back the state up, and put it back",
		a.storageSnapshotCommand(),
		a.storageRestoreCommand(),
		a.storageStatusCommand(),
	)
}

func (a *app) storageStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell what is out of step since the state was restored",
		Long: "Tell whether the state was restored from a snapshot, and of which secrets it says\n" +
			"something else since than their vaults, or the audit log:\n\n" +
			"  ahead       the vault holds a newer version than the state knows\n" +
			"  behind      the vault holds an older version\n" +
			"  stranger    the vault holds a value that was never a version, as far as is known\n" +
			"  missing     the vault holds nothing\n" +
			"  replaced    the audit log tells of a newer version\n" +
			"  uncompared  the vault could not be asked yet\n\n" +
			"They are given to nobody until they are in step, or another version is current;\n" +
			"only what is missing in its vault is read from the broker's sealed copy. A new key\n" +
			"seals since the restore, as after `keybroker seal rotate`: copies made by\n" +
			"`keybroker seal escrow` before do not hold it.\n" +
			"`keybroker secret repair NAME --dry-run` says what can be done about each.",
		Args: takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			s, err := c.Storage(ctx)
			if err != nil {
				return err
			}
			return a.show(s, func(t *table) {
				if s.EvidenceHeld {
					t.row("evidence is held: nothing is pruned while an incident wants that (keybroker incident list)")
				}
				r := s.Restored
				if r == nil {
					t.row("nothing is out of step because of a restore")
					return
				}
				t.pair("Snapshot", r.Snapshot)
				t.moment("Taken", r.TakenAt)
				t.moment("Restored", r.RestoredAt)
				if r.Since.Before(r.TakenAt) { // an earlier restore was not settled then
					t.moment("Unsettled since", r.Since)
				}
				t.pair("Seal key", cmp.Or(r.SealKey, "that of the snapshot, which may have been replaced: run `keybroker seal rotate`"))
				if len(r.OutOfStep) == 0 {
					t.row("nothing is out of step")
					return
				}
				t.section("SECRET", "KIND", "DETAIL")
				for _, o := range r.OutOfStep {
					t.row(qualified(o.Tenant, o.Secret), o.Kind, o.Detail)
				}
			})
		}),
	}
}
