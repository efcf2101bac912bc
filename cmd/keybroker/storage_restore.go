package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/daemon"
)

func (a *app) storageRestoreCommand() *cobra.Command {
	var where onThisHost
	var from string
	var force bool
	cmd := &cobra.Command{
		Use:   "restore --from FILE",
		Short: "Put a snapshot back, while no server runs",
		Long: "Put a snapshot in the place of the database, while no server runs. A database that is\n" +
			"there is kept aside under another name, and replaced only with --force. The snapshot\n" +
			"must be whole, and all of it open with the seals of the configuration.\n\n" +
			"The next start of the server compares it with the vaults, and with the audit log if\n" +
			"there is one, before it does anything. Everything is frozen until you have looked\n" +
			"(`keybroker storage status`) and say `keybroker unfreeze`.",
		Example: "  keybroker storage restore --from keybroker.snapshot --config config.hcl",
		Args:    takes(),
		RunE: a.does(func(ctx context.Context, _ []string) error {
			if from == "" {
				return usagef("--from is missing: the snapshot to put back")
			}
			cfg, logger, err := where.load(a)
			if err != nil {
				return err
			}
			put, err := daemon.Restore(ctx, daemon.RestoreOptions{Config: cfg, From: from, Replace: force, Logger: logger})
			if err != nil {
				return err
			}
			if a.json() {
				return a.showJSON(restoredJSON{put.Snapshot.ID, stamp(put.Snapshot.At), stamp(put.RestoredAt), put.KeptAs})
			}
			a.note("snapshot %s of %s is in place", put.Snapshot.ID, stamp(put.Snapshot.At))
			if put.KeptAs != "" {
				a.note("the database that was there is kept as %s", put.KeptAs)
			}
			a.note("start the server; everything is frozen until you have looked at: keybroker storage status")
			return nil
		}),
	}
	where.flags(cmd)
	cmd.Flags().StringVar(&from, "from", "", "`FILE` that keybroker storage snapshot wrote")
	cmd.Flags().BoolVar(&force, "force", false, "also where there is a database, which is kept aside")
	return cmd
}

// restoredJSON is what programs are told of a restore.
type restoredJSON struct {
	Snapshot   string `json:"snapshot"`
	TakenAt    string `json:"taken_at"`
	RestoredAt string `json:"restored_at"`
	KeptAs     string `json:"kept_as,omitempty"`
}
