package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// reconciler brings the rows of secrets in line with the configuration. A
// secret whose block is gone becomes unmanaged; nothing is ever deleted.
type reconciler struct {
	db     *store.DB
	engine *engine.Engine
	now    func() time.Time
	logger hclog.Logger
	// catalog has the consumers of the configuration; nil: the one in force.
	catalog *engine.Catalog
}

// change is what the configuration does to the row of one secret.
type change struct {
	ref  backends.Ref
	kind string // client.Added, client.Changed or client.Unmanaged
	def  rotation.Definition
	was  rotation.Secret // its row; without an id: there is none
}

// defined is a secret as a configuration has it.
type defined struct {
	ref backends.Ref
	def rotation.Definition
}

// plan finds out which rows the configuration changes, in the order of their
// names. Its error names every secret that cannot be rotated as is asked.
func (r *reconciler) plan(ctx context.Context, cfg *config.Config) ([]change, error) {
	var defs []defined
	var errs []error
	for _, s := range cfg.Secrets {
		def, err := cfg.Definition(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defs = append(defs, defined{s.Ref, def})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return r.compare(ctx, defs)
}

// compare is plan for definitions that are all there are.
func (r *reconciler) compare(ctx context.Context, defs []defined) ([]change, error) {
	rows, err := r.rows(ctx, defs)
	if err != nil {
		return nil, err
	}
	var changes []change
	for _, s := range defs {
		row, ok := rows[s.ref]
		was := row
		delete(rows, s.ref)
		kind := client.Changed
		if !ok || row.State == rotation.SecretUnmanaged {
			kind = client.Added
		}
		changed := !ok
		if ok {
			if changed, _, err = adopt(&row, s.def); err != nil {
				return nil, err
			}
		}
		if changed {
			changes = append(changes, change{s.ref, kind, s.def, was})
		}
	}
	for ref, row := range rows { // whose blocks are gone
		if row.State != rotation.SecretUnmanaged {
			changes = append(changes, change{ref: ref, kind: client.Unmanaged, was: row})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return strings.Compare(a.ref.String(), b.ref.String()) })
	return changes, nil
}

// rows reads the rows that the configuration is or was about.
func (r *reconciler) rows(ctx context.Context, defs []defined) (map[backends.Ref]rotation.Secret, error) {
	rows := map[backends.Ref]rotation.Secret{}
	err := r.db.View(ctx, func(tx *store.Tx) error {
		err := eachPage(func(p store.Page) (string, error) {
			found, next, err := tx.Secrets(ctx, store.SecretFilter{Origin: rotation.OriginConfig}, p)
			for _, s := range found {
				rows[s.Ref] = s
			}
			return next, err
		})
		if err != nil {
			return err
		}
		for _, s := range defs {
			if _, ok := rows[s.ref]; ok {
				continue
			}
			row, err := tx.SecretByRef(ctx, s.ref) // made by the API
			if err == nil {
				rows[s.ref] = row
			} else if !errors.Is(err, backends.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	return rows, err
}

// apply makes the changes inside tx.
func (r *reconciler) apply(ctx context.Context, tx *store.Tx, changes []change) error {
	for _, c := range changes {
		var err error
		if c.kind == client.Unmanaged {
			err = r.abandon(ctx, tx, c.ref)
		} else {
			err = r.one(ctx, tx, c.ref, c.def)
		}
		if err != nil {
			return fmt.Errorf("reconciling secret %s: %w", c.ref, err)
		}
	}
	return nil
}

// log tells what was changed.
func (r *reconciler) log(changes []change) {
	for _, c := range changes {
		switch c.kind {
		case client.Changed:
			r.logger.Info("the definition of a secret changed", "secret", c.ref)
		case client.Unmanaged:
			r.logger.Warn("a secret is no longer in the configuration: it stays as it is and is rotated no more", "secret", c.ref)
		}
	}
}

// one brings one row, and what hangs on it, in line with its definition.
func (r *reconciler) one(ctx context.Context, tx *store.Tx, ref backends.Ref, def rotation.Definition) error {
	now := r.now()
	s, err := tx.SecretByRef(ctx, ref)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		s = rotation.Secret{ID: uuid.Must(uuid.NewV7()).String(), Ref: ref, Origin: rotation.OriginConfig, State: rotation.SecretActive,
			Definition: def, CreatedAt: now, UpdatedAt: now}
		if err := r.engine.SetDue(ctx, tx, &s); err != nil {
			return err
		}
		err = tx.AddSecret(ctx, &s)
	case err == nil:
		changed, rescheduled, adoptErr := adopt(&s, def)
		if adoptErr != nil || !changed {
			return adoptErr
		}
		if rescheduled {
			if err := r.engine.SetDue(ctx, tx, &s); err != nil {
				return err
			}
		}
		r.engine.SetNotice(&s)
		s.UpdatedAt = now
		if err = tx.SaveSecret(ctx, &s); err == nil {
			err = r.engine.Welcome(ctx, tx, s, r.catalog)
		}
	}
	if err != nil {
		return err
	}
	if err := r.engine.Place(ctx, tx, &s, now); err != nil {
		return err
	}
	return r.engine.Schedule(ctx, tx, s)
}

// adopt takes a definition over; the next due time is kept unless it is to be worked out anew.
func adopt(s *rotation.Secret, def rotation.Definition) (changed, rescheduled bool, err error) {
	before, err := json.Marshal(s.Definition)
	if err != nil {
		return false, false, err
	}
	after, err := json.Marshal(def)
	if err != nil {
		return false, false, err
	}
	if string(before) == string(after) && s.State != rotation.SecretUnmanaged && s.Origin == rotation.OriginConfig {
		return false, false, nil
	}
	rescheduled = reschedules(s.Definition, def)
	s.Definition, s.Origin = def, rotation.OriginConfig
	if s.State == rotation.SecretUnmanaged {
		s.State, rescheduled = rotation.SecretActive, true
	}
	return true, rescheduled, nil
}

func (r *reconciler) abandon(ctx context.Context, tx *store.Tx, ref backends.Ref) error {
	s, err := tx.SecretByRef(ctx, ref)
	if err != nil {
		return err
	}
	s.State, s.NextDueAt, s.NoticeAt, s.UpdatedAt = rotation.SecretUnmanaged, time.Time{}, time.Time{}, r.now()
	return tx.SaveSecret(ctx, &s)
}
