package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/store"
)

// run looks at once and then regularly, until ctx ends: what a crash interrupted
// goes on by itself.
func (s *sealing) run(ctx context.Context) {
	t := time.NewTicker(s.times.look)
	defer t.Stop()
	for {
		if err := s.look(ctx); ctx.Err() == nil {
			s.hold(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-s.woken:
		}
	}
}

// hold keeps why run does not go on, for whoever waits, and logs it once.
func (s *sealing) hold(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why != nil && (s.waiting == nil || s.waiting.Error() != why.Error()) {
		s.logger.Warn("looking after the seal's keys does not go on; it is tried again", "error", why)
	}
	s.waiting = why
}

// wake has run look now.
func (s *sealing) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

func (s *sealing) look(ctx context.Context) error {
	keys, err := s.stored(ctx)
	if err != nil {
		return err
	}
	if s.overdue() {
		s.remake(ctx)
	}
	_ = s.adopt(ctx, keys) // logged there
	for a := range ask(ctx, s.due(keys), func(ctx context.Context, by seal.Seal) (struct{}, error) {
		return struct{}{}, s.attend(ctx, by, keys)
	}) {
		s.note(a.seal, a.err)
	}
	if len(keys) > 1 {
		err = s.replace(ctx, keys)
	}
	if err == nil && s.scrub {
		if err = s.db.Checkpoint(ctx); errors.Is(err, backends.ErrUnavailable) {
			return nil // somebody reads: at the next look
		}
		s.scrub = err != nil
	}
	return err
}

// overdue tells whether it is time to try again what could not be made.
func (s *sealing) overdue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.unmade, func(u unmade) bool { return s.now().Sub(s.states[u.id].at) >= s.times.retry })
}

// learn takes the store's keys into the ring.
func (s *sealing) learn(ctx context.Context) error {
	keys, err := s.stored(ctx)
	if err != nil {
		return err
	}
	return s.adopt(ctx, keys)
}

// adopt takes keys into the ring, the newest to seal by. Its error says which cannot
// be opened, and why.
func (s *sealing) adopt(ctx context.Context, keys []store.SealKey) error {
	s.learning.Lock()
	defer s.learning.Unlock()
	var failures []error
	for _, key := range keys {
		if s.ring.KEK(key.ID) == nil {
			if err := s.obtain(ctx, key); err != nil {
				failures = append(failures, err)
			}
		}
	}
	for _, key := range keys { // the newest that can be had
		if s.ring.SealBy(key.ID) {
			return errors.Join(failures...)
		}
	}
	// What this node would seal now is refused by the store, which has forgotten the
	// only keys that it has.
	s.ring.Refuse(fmt.Errorf("%w: no key that the store knows can be opened", backends.ErrUnavailable))
	return errors.Join(failures...)
}

// obtain takes one key into the ring. A failure is not repeated at once.
func (s *sealing) obtain(ctx context.Context, key store.SealKey) error {
	s.mu.Lock()
	last, failed := s.unknown[key.ID]
	s.mu.Unlock()
	if failed && s.now().Sub(last.at) < s.times.look {
		return last.err
	}
	kek, err := s.unwrap(ctx, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unknown[key.ID] = sealState{s.now(), err}
		if !failed {
			s.logger.Error("no seal opens a key that values are sealed by; they cannot be read here until one does", "key", key.ID, "error", err)
		}
		return err
	}
	delete(s.unknown, key.ID)
	s.ring.Add(kek)
	s.gained++ // what it seals can be re-wrapped
	return nil
}

// due tells which seals are to be attended to now.
func (s *sealing) due(keys []store.SealKey) (due []seal.Seal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, by := range s.made {
		last, known := s.states[by.ID()]
		since := s.now().Sub(last.at)
		switch {
		case !known, since >= s.times.check, last.err != nil && since >= s.times.retry, last.err == nil && s.lacks(by, keys):
			due = append(due, by)
		}
	}
	return due
}

// lacks tells whether a seal has yet to wrap a key that is at hand.
func (s *sealing) lacks(by seal.Seal, keys []store.SealKey) bool {
	return slices.ContainsFunc(keys, func(key store.SealKey) bool {
		_, wrapped := wrappingOf(key, by.ID())
		return !wrapped && s.ring.KEK(key.ID) != nil
	})
}

// wrappingOf returns a key as a seal wraps it, if it does.
func wrappingOf(key store.SealKey, id string) (store.Wrapping, bool) {
	for _, w := range key.Wrappings {
		if w.Seal == id {
			return w, true
		}
	}
	return store.Wrapping{}, false
}

// attend makes sure that a seal opens every key, and has wrapped those that it had not.
// A wrapping that it does not open any more, since its own key was replaced, is made
// anew; but what it was before is kept until the new one was opened once more: it may
// have been the seal that was wrong for a while.
func (s *sealing) attend(ctx context.Context, by seal.Seal, keys []store.SealKey) error {
	for _, key := range keys {
		w, wrapped := wrappingOf(key, by.ID())
		if wrapped {
			_, good, err := unwrapWrapping(ctx, by, key.ID, w)
			if err == nil && w.Earlier != nil {
				err = s.db.Update(ctx, func(tx *store.Tx) error { return tx.SettleWrapping(ctx, key.ID, w, good) })
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, backends.ErrInvalid) || s.ring.KEK(key.ID) == nil {
				return err
			}
			s.logger.Warn("a seal does not open what it has wrapped; it wraps the key anew", "seal", by.ID(), "key", key.ID, "error", err)
		}
		if err := s.wrap(ctx, by, key.ID); err != nil {
			return err
		}
	}
	return nil
}

// wrap has a seal wrap a key that is at hand.
func (s *sealing) wrap(ctx context.Context, by seal.Seal, id string) error {
	kek := s.ring.KEK(id)
	if kek == nil {
		return nil // logged when it could not be opened
	}
	wrapped, err := kek.WrapBy(ctx, by)
	if err != nil {
		return err
	}
	s.logger.Info("a seal has wrapped a key", "seal", by.ID(), "key", id)
	return s.db.Update(ctx, func(tx *store.Tx) error {
		return tx.PutWrapping(ctx, id, store.Wrapping{Seal: by.ID(), Wrapped: wrapped, CreatedAt: s.now()})
	})
}

// Ready tells whether what the ring seals now is kept: the store refuses what a key
// seals that it has forgotten, as it has when other nodes went on without this one.
func (s *sealing) Ready(ctx context.Context) error {
	err := s.keeps(ctx)
	if err == nil {
		return nil
	}
	if learnErr := s.learn(ctx); learnErr != nil {
		err = fmt.Errorf("%w: %w", err, learnErr)
	}
	if s.keeps(ctx) == nil {
		return nil
	}
	return err
}

func (s *sealing) keeps(ctx context.Context) error {
	if err := s.ring.Ready(); err != nil {
		return err
	}
	newest := s.ring.Newest()
	if newest == nil {
		return fmt.Errorf("%w: no key seals", backends.ErrUnavailable)
	}
	var known bool
	err := s.db.ViewOne(ctx, func(tx *store.Tx) (err error) {
		known, err = tx.HasSealKey(ctx, newest.ID())
		return err
	})
	if err == nil && !known {
		err = fmt.Errorf("%w: the store has forgotten key %s, and this node has no newer one", backends.ErrUnavailable, newest.ID())
	}
	return err
}

// sealer is the ring as the engine sees it.
type sealer struct {
	*seal.Keyring
	s *sealing
}

// Ready implements engine.Readier.
func (r sealer) Ready(ctx context.Context) error { return r.s.Ready(ctx) }

// tell has up told how each seal is, from now on, and forget of those that are called
// otherwise by now.
func (s *sealing) tell(up func(seal string, up bool), forget func(seal string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up, s.forget = up, forget
	for id, state := range s.states {
		up(id, state.err == nil)
	}
}

// note remembers how a seal answered.
func (s *sealing) note(by seal.Seal, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.states[by.ID()]
	s.states[by.ID()] = sealState{s.now(), err}
	s.up(by.ID(), err == nil)
	switch {
	case err != nil && (!known || last.err == nil):
		s.logger.Error("a seal cannot be used; the others do, and nothing stops while the broker runs", "seal", by.ID(), "error", err)
	case err == nil && last.err != nil:
		s.logger.Info("a seal can be used again", "seal", by.ID())
	}
}
