package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
)

// RestoreOptions are what a snapshot is restored with, while no node runs.
type RestoreOptions struct {
	Config  *config.Config
	From    string // the snapshot's file
	Replace bool   // also where there is a database already, which is kept aside
	Logger  hclog.Logger
}

// Restore puts a snapshot in the place of the database of a node that does not run.
// It is put in place only if it is whole, of no newer schema than this version's, and
// opened by the configured seal. The next start reconciles it with the vaults and
// with what audit log there is before it does anything; see aftermath.
func Restore(ctx context.Context, o RestoreOptions) (put store.Put, err error) {
	if o.Config.Storage.Type != config.SQLite {
		return put, fmt.Errorf("%w: the state is in PostgreSQL: restore it by its own tools; a node notices at its start that commits are missing, and freezes", backends.ErrUnsupported)
	}
	from, err := os.Open(o.From)
	if err != nil {
		return put, fmt.Errorf("%w: opening the snapshot: %w", backends.ErrInvalid, err)
	}
	defer func() { _ = from.Close() }() // it was only read
	r := store.Restore{Path: o.Config.Storage.Path, Replace: o.Replace, Logger: o.Logger.Named("store"),
		Check: func(ctx context.Context, db *store.DB) error { return opens(ctx, o.Config, db, o.Logger) }}
	put, err = r.Run(ctx, from)
	if err != nil {
		return put, fmt.Errorf("restoring %s: %w", o.From, err)
	}
	return put, nil
}

// opens makes sure that the configured seals open what the copy holds: the broker's
// own keys, and every key that something is sealed by.
func opens(ctx context.Context, cfg *config.Config, db *store.DB, logger hclog.Logger) error {
	seals, err := openExistingSeals(ctx, cfg, db, logger.Named("seal"))
	if err != nil {
		return err
	}
	defer seals.close()
	if err := seals.holdsAllInUse(ctx); err != nil {
		return err
	}
	for _, name := range []string{keyFingerprint, keyTokenPepper, keyAPIKeyPepper, keyCursors, keyAuditHash, keyAuditSigning, keyReports} {
		key, err := ownKey(ctx, db, seals.ring, name)
		if err != nil {
			return err
		}
		clear(key)
	}
	return nil
}

// holdsAllInUse tells whether every key that seals anything could be opened.
func (s *sealing) holdsAllInUse(ctx context.Context) error {
	var counts map[string]int
	err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		counts, err = tx.SealedBy(ctx)
		return err
	})
	if err != nil {
		return err
	}
	var missing []error
	for _, id := range slices.Sorted(maps.Keys(counts)) {
		if s.ring.KEK(id) != nil {
			continue
		}
		why := s.unknown[id].err
		if why == nil {
			why = backends.ErrNotFound
		}
		missing = append(missing, fmt.Errorf("%d values are sealed by key %s, which no configured seal opens: %w", counts[id], id, why))
	}
	return errors.Join(missing...)
}
