package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
)

// Escrow writes the keys that the data of a configuration is sealed by to w,
// encrypted to the recipients (public keys of age), and returns their ids. The node
// must be stopped where the data is SQLite.
func Escrow(ctx context.Context, cfg *config.Config, recipients []string, w io.Writer, logger hclog.Logger) (ids []string, err error) {
	to, err := seal.ParseRecipients(recipients)
	if err != nil {
		return nil, err
	}
	err = onData(ctx, cfg, logger, func(db *store.DB) error {
		s, err := openExistingSeals(ctx, cfg, db, logger)
		if err != nil {
			return err
		}
		defer s.close()
		keys, err := s.stored(ctx)
		if err != nil {
			return err
		}
		if err := s.adopt(ctx, keys); err != nil {
			return fmt.Errorf("the copy would lack a key that no seal opens: %w", err)
		}
		var keks []*seal.KEK
		for _, key := range keys {
			keks = append(keks, s.ring.KEK(key.ID))
			ids = append(ids, key.ID)
		}
		if err := seal.WriteEscrow(w, to, keks); err != nil {
			return err
		}
		return db.Update(ctx, func(tx *store.Tx) error {
			return tx.AddAudit(ctx, sealEvent("keybroker", "seal.escrow",
				map[string]string{"keys": strings.Join(ids, " "), "recipients": strings.Join(recipients, " ")}))
		})
	})
	return ids, err
}

// Recovery is what came of a recovery: ids of keys.
type Recovery struct {
	Recovered []string // wrapped by the seals of the configuration again
	Missing   []string // of the store, but not in the copy
	Away      []string // seals that could not be used; they follow once a node runs and they can
}

// Recover takes the keys of an escrow copy and has the seals of the configuration
// wrap them, so that the node starts again. Key files that are missing are made, once
// it is known that the copy is one of this data. ErrNotFound, with what was recovered,
// if the copy lacks a key without which the node does not start.
func Recover(ctx context.Context, cfg *config.Config, copied, identity io.Reader, logger hclog.Logger) (out Recovery, err error) {
	keks, err := seal.ReadEscrow(copied, identity)
	if err != nil {
		return out, err
	}
	err = onData(ctx, cfg, logger, func(db *store.DB) error {
		s := newSealing(db, logger)
		defer s.close()
		keys, found, err := s.match(ctx, keks)
		if err != nil {
			return err
		}
		for _, c := range cfg.Seals {
			s.add(ctx, c)
		}
		if _, err := s.createMissing(); err != nil {
			logger.Error("a seal key cannot be made", "error", err) // the seal is away
		}
		out, err = s.recover(ctx, keys, found)
		return err
	})
	return out, err
}

// match finds the store's keys in a copy.
func (s *sealing) match(ctx context.Context, keks []*seal.KEK) (keys []store.SealKey, found map[string]*seal.KEK, err error) {
	keys, err = s.stored(ctx)
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("%w: nothing was ever sealed in this database", backends.ErrNotFound)
	}
	if err != nil {
		return nil, nil, err
	}
	found = map[string]*seal.KEK{}
	var ids []string
	for _, key := range keys {
		ids = append(ids, key.ID)
		if i := slices.IndexFunc(keks, func(k *seal.KEK) bool { return k.ID() == key.ID }); i >= 0 {
			found[key.ID] = keks[i]
		}
	}
	if len(found) == 0 {
		return nil, nil, fmt.Errorf("%w: the copy has none of the keys that this data is sealed by (%s): it was made for other data, or before the seal was rotated",
			backends.ErrNotFound, strings.Join(ids, ", "))
	}
	return keys, found, nil
}

func (s *sealing) recover(ctx context.Context, keys []store.SealKey, found map[string]*seal.KEK) (Recovery, error) {
	out := Recovery{Recovered: []string{}, Missing: []string{}, Away: []string{}}
	for _, u := range s.notMade() {
		out.Away = append(out.Away, u.id)
	}
	for _, key := range keys {
		kek, ok := found[key.ID]
		if !ok {
			out.Missing = append(out.Missing, key.ID)
			continue
		}
		if err := s.rewrapKey(ctx, kek, &out); err != nil {
			return out, err
		}
		out.Recovered = append(out.Recovered, key.ID)
	}
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		return tx.AddAudit(ctx, sealEvent("keybroker", "seal.recover", map[string]string{"keys": strings.Join(out.Recovered, " ")}))
	})
	if err == nil {
		err = s.wouldStart(ctx, keys, found)
	}
	return out, err
}

// rewrapKey has all seals wrap a key; at least one of them must.
func (s *sealing) rewrapKey(ctx context.Context, kek *seal.KEK, out *Recovery) error {
	wrapped := 0
	var failures []error
	for _, u := range s.notMade() {
		failures = append(failures, u.err)
	}
	for a := range ask(ctx, s.seals(), kek.WrapBy) {
		if a.err == nil {
			a.err = s.db.Update(ctx, func(tx *store.Tx) error {
				return tx.PutWrapping(ctx, kek.ID(), store.Wrapping{Seal: a.seal.ID(), Wrapped: a.value, CreatedAt: s.now()})
			})
		}
		if a.err == nil {
			wrapped++
			continue
		}
		failures = append(failures, a.err)
		if !slices.Contains(out.Away, a.seal.ID()) {
			out.Away = append(out.Away, a.seal.ID())
		}
	}
	if wrapped == 0 {
		return fmt.Errorf("no seal can be used: %w", errors.Join(failures...))
	}
	return nil
}

// wouldStart tells whether the keys that were found are all that a start needs: the
// newest, and those that the broker's own keys are sealed by.
func (s *sealing) wouldStart(ctx context.Context, keys []store.SealKey, found map[string]*seal.KEK) error {
	needed := keys[0].ID
	if found[needed] != nil {
		var err error
		if needed, err = s.ownKeyWithout(ctx, found); err != nil || needed == "" {
			return err
		}
	}
	return fmt.Errorf("%w: the copy lacks key %s, without which the server does not start: what it has was recovered; take a newer copy, made after the seal was rotated",
		backends.ErrNotFound, needed)
}

// ownKeyWithout returns a key that one of the broker's own is sealed by, and that was
// not found; "": there is none.
func (s *sealing) ownKeyWithout(ctx context.Context, found map[string]*seal.KEK) (id string, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		values, err := tx.OwnKeys(ctx)
		for _, v := range values {
			if by := seal.KEKOf(v.Sealed); found[by] == nil {
				id = by
			}
		}
		return err
	})
	return id, err
}

// onData opens the data of a configuration for fn. There must be some.
func onData(ctx context.Context, cfg *config.Config, logger hclog.Logger, fn func(*store.DB) error) (err error) {
	if cfg.Storage.Type != config.PostgreSQL {
		if _, err := os.Stat(cfg.Storage.Path); err != nil {
			return fmt.Errorf("%w: there is no database at %s: run this on the host of the data, with its configuration", backends.ErrNotFound, cfg.Storage.Path)
		}
	}
	db, err := store.Open(ctx, storeConfig(cfg, logger))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close(context.WithoutCancel(ctx))) }()
	return fn(db)
}
