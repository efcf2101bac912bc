package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) storageSnapshotCommand() *cobra.Command {
	var out string
	var force bool
	cmd := &cobra.Command{
		Use:   "snapshot --out FILE",
		Short: "Write a snapshot of the state, while the server works",
		Long: "Write a snapshot of the state of a server on SQLite to a file, while it works. The\n" +
			"snapshot is consistent and opens no value: without the seal it is worth nothing, so\n" +
			"keep the seal's key elsewhere, and keep it. A file that was cut off is refused by\n" +
			"`keybroker storage restore`. On PostgreSQL use its own tools.",
		Example: "  keybroker storage snapshot --out keybroker.snapshot",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if out == "" {
				return usagef("--out is missing: the file to write the snapshot to")
			}
			var taken client.Snapshot
			put := privatefile.Create
			if force {
				put = privatefile.Replace
			}
			err := put(out, func(w io.Writer) (err error) {
				taken, err = c.Snapshot(ctx, w)
				return err
			})
			if err != nil {
				return there(err, out, "name another file, or replace it with --force")
			}
			if a.json() {
				return a.showJSON(taken)
			}
			a.note("snapshot %s of %s is in %s", taken.ID, stamp(taken.At), out)
			return nil
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write, with mode 0600")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if there is one")
	return cmd
}

// there says what to do about a file that was not to be replaced, if that is what err is.
func there(err error, path, hint string) error {
	if errors.Is(err, fs.ErrExist) {
		return &hintError{fmt.Errorf("%s is there already", path), hint}
	}
	return err
}
