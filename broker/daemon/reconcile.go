package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
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
}

func (r *reconciler) run(ctx context.Context, cfg *config.Config) error {
	wanted := map[backends.Ref]bool{}
	for _, s := range cfg.Secrets {
		wanted[s.Ref] = true
		def, err := cfg.Definition(s)
		if err != nil {
			return err
		}
		if err := r.db.UpdateLatest(ctx, func(tx *store.Tx) error { return r.one(ctx, tx, s.Ref, def) }); err != nil {
			return fmt.Errorf("reconciling secret %s: %w", s.Ref, err)
		}
	}
	return r.unmanage(ctx, wanted)
}

func (r *reconciler) one(ctx context.Context, tx *store.Tx, ref backends.Ref, def rotation.Definition) error {
	now := r.now()
	s, err := tx.SecretByRef(ctx, ref)
	if errors.Is(err, backends.ErrNotFound) {
		s = rotation.Secret{ID: uuid.Must(uuid.NewV7()).String(), Ref: ref, Origin: rotation.OriginConfig, State: rotation.SecretActive,
			Definition: def, CreatedAt: now, UpdatedAt: now}
		if def.Schedule != "" {
			s.NextDueAt = now // its first version is made at once, not months from now
		}
		if err := tx.AddSecret(ctx, &s); err != nil {
			return err
		}
		return r.engine.Schedule(ctx, tx, s)
	}
	if err != nil {
		return err
	}
	changed, err := adopt(&s, def, now)
	if err != nil || !changed {
		return err
	}
	r.logger.Info("the definition of a secret changed", "secret", ref)
	s.UpdatedAt = now
	if err := tx.SaveSecret(ctx, &s); err != nil {
		return err
	}
	return r.engine.Schedule(ctx, tx, s)
}

// adopt takes a definition over; the next due time is kept unless the schedule changed.
func adopt(s *rotation.Secret, def rotation.Definition, now time.Time) (changed bool, err error) {
	before, err := json.Marshal(s.Definition)
	if err != nil {
		return false, err
	}
	after, err := json.Marshal(def)
	if err != nil {
		return false, err
	}
	if string(before) == string(after) && s.State != rotation.SecretUnmanaged && s.Origin == rotation.OriginConfig {
		return false, nil
	}
	old := s.Definition
	s.Definition, s.Origin = def, rotation.OriginConfig
	rescheduled := old.Schedule != def.Schedule || old.TimeZone != def.TimeZone || old.Jitter != def.Jitter
	if s.State == rotation.SecretUnmanaged {
		s.State, rescheduled = rotation.SecretActive, true
	}
	if rescheduled {
		s.NextDueAt, err = engine.NextDue(*s, now)
		if def.Schedule != "" && s.Current == 0 {
			s.NextDueAt = now
		}
	}
	return true, err
}

func (r *reconciler) unmanage(ctx context.Context, wanted map[backends.Ref]bool) error {
	p := store.Page{Limit: 1000}
	for {
		var found []rotation.Secret
		err := r.db.View(ctx, func(tx *store.Tx) (err error) {
			found, p.After, err = tx.Secrets(ctx, store.SecretFilter{Origin: rotation.OriginConfig}, p)
			return err
		})
		if err != nil {
			return err
		}
		for _, s := range found {
			if wanted[s.Ref] || s.State == rotation.SecretUnmanaged {
				continue
			}
			if err := r.db.UpdateLatest(ctx, func(tx *store.Tx) error { return r.abandon(ctx, tx, s.ID) }); err != nil {
				return fmt.Errorf("reconciling secret %s: %w", s.Ref, err)
			}
			r.logger.Warn("a secret is no longer in the configuration: it stays as it is and is rotated no more", "secret", s.Ref)
		}
		if p.After == "" {
			return nil
		}
	}
}

func (r *reconciler) abandon(ctx context.Context, tx *store.Tx, id string) error {
	s, err := tx.Secret(ctx, id)
	if err != nil {
		return err
	}
	s.State, s.NextDueAt, s.UpdatedAt = rotation.SecretUnmanaged, time.Time{}, r.now()
	return tx.SaveSecret(ctx, &s)
}
