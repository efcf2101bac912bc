package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// rewrapBatch is how many values are re-wrapped by one transaction.
const rewrapBatch = 100

// at passes a step of a rotation.
func (s *sealing) at(step string) error {
	if s.step == nil {
		return nil
	}
	return s.step(step)
}

// rotate is renew that is not forced.
func (s *sealing) rotate(ctx context.Context, by, reason string) (client.SealRotation, error) {
	return s.renew(ctx, by, client.SealRotateRequest{Reason: reason})
}

// renew makes a new key, by which everything is sealed from now on. Values sealed
// by others are re-wrapped by run, on whichever node: nothing but the commit here
// has to happen at once, and a crash anywhere loses nothing, since each value names
// the key that seals it and no key goes before the last such value.
func (s *sealing) renew(ctx context.Context, by string, r client.SealRotateRequest) (client.SealRotation, error) {
	s.remake(ctx)
	kek, key, away, err := s.make(ctx)
	if err == nil && !r.Force {
		err = s.refuseLoss(ctx, away)
	}
	if err != nil {
		return client.SealRotation{}, err
	}
	if err := s.at("made"); err != nil {
		return client.SealRotation{}, err
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		if err := tx.AddSealKey(ctx, key); err != nil {
			return err
		}
		detail := map[string]string{"key": key.ID, "reason": r.Reason}
		if r.Force {
			detail["force"] = "true"
		}
		return tx.AddAudit(ctx, sealEvent(by, "seal.rotate", detail))
	})
	if errors.Is(err, backends.ErrConflict) {
		return client.SealRotation{}, fmt.Errorf("%w: another rotation of the seal began at the same time", backends.ErrConflict)
	}
	if err != nil {
		return client.SealRotation{}, err
	}
	s.mu.Lock()
	s.ring.Add(kek)
	s.gained++
	s.mu.Unlock()
	s.ring.SealBy(kek.ID())
	if err := s.at("stored"); err != nil {
		return client.SealRotation{}, err
	}
	s.logger.Info("a new key seals; what others seal is re-wrapped", "key", key.ID, "by", by)
	s.wake()
	out := client.SealRotation{Key: key.ID, Away: []client.AwaySeal{}}
	for _, a := range away {
		out.Away = append(out.Away, client.AwaySeal{Seal: a.id, Error: a.err.Error()})
	}
	out.Status, err = s.status(ctx)
	return out, err
}

// refuseLoss refuses a new key that a seal does not open which opens the present one:
// the next start might have counted on that seal.
func (s *sealing) refuseLoss(ctx context.Context, away []awaySeal) error {
	keys, err := s.stored(ctx)
	if err != nil {
		return err
	}
	notMade := s.notMade()
	var lost []error
	for _, a := range away {
		_, wraps := wrappingOf(keys[0], a.id)
		if wraps || slices.ContainsFunc(notMade, func(u unmade) bool { return u.id == a.id }) {
			lost = append(lost, fmt.Errorf("%s: %v", a.id, a.err))
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the new key would not be opened by all seals that open the present one; mend them, or insist (--force): %w", backends.ErrConflict, errors.Join(lost...))
}

func sealEvent(by, action string, detail map[string]string) rotation.AuditEvent {
	return rotation.AuditEvent{At: now(), Actor: by, Action: action, Path: "sys/seal", Outcome: "ok", Detail: detail}
}

// replace re-wraps what older keys than the newest seal, and removes those that seal
// nothing any more, as long as a seal is there that opens the newest. What has no
// effect is tried less and less often.
func (s *sealing) replace(ctx context.Context, keys []store.SealKey) error {
	newest := keys[0]
	s.mu.Lock()
	gained, stuck := s.gained, s.stuck
	s.mu.Unlock()
	if gained == s.seen && s.now().Before(s.resume) {
		return nil
	}
	s.seen = gained
	if kek := s.ring.Newest(); kek == nil || kek.ID() != newest.ID {
		return fmt.Errorf("%w: this node cannot open key %s, which everything is to be sealed by", backends.ErrUnavailable, newest.ID)
	}
	if _, err := s.unwrap(ctx, newest); err != nil {
		return fmt.Errorf("no seal opens key %s, so nothing is re-wrapped by it now: %w", newest.ID, err)
	}
	done, left, err := s.rewrapAll(ctx, newest.ID)
	if err != nil {
		return fmt.Errorf("re-wrapping: %w", err)
	}
	if left > 0 && left != stuck {
		s.logger.Error("values cannot be re-wrapped: they stay as they are, and so do their keys; see `keybroker seal verify`", "values", left)
	}
	if s.pause = min(max(2*s.pause, s.times.look), s.times.check); left == 0 || done > 0 {
		s.pause = 0
	}
	s.resume = s.now().Add(s.pause)
	if s.now().Sub(newest.CreatedAt) < s.times.grace {
		s.resume = time.Time{}
		return nil
	}
	return s.removeUnused(ctx, keys[1:])
}

// rewrapAll looks through the values that other keys seal, if this node has any of
// those. It tells how many it has re-wrapped, and how many cannot be.
func (s *sealing) rewrapAll(ctx context.Context, newest string) (done, stuck int, err error) {
	var counts map[string]int
	err = s.db.View(ctx, func(tx *store.Tx) (err error) {
		counts, err = tx.SealedBy(ctx)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	delete(counts, newest)
	for id, n := range counts {
		if s.ring.KEK(id) == nil {
			stuck += n
			delete(counts, id)
		}
	}
	for page := (store.Page{Limit: rewrapBatch}); len(counts) > 0; {
		next, changed, left, err := s.rewrapPage(ctx, newest, page)
		if err != nil {
			return done, stuck, err
		}
		done, stuck = done+changed, stuck+left
		if page.After = next; next == "" {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck = stuck
	return done, stuck, nil
}

// rewrapPage re-wraps a page of values, each unless somebody changed it meanwhile or
// its key is not at hand, and tells how many, and how many do not open.
func (s *sealing) rewrapPage(ctx context.Context, newest string, page store.Page) (next string, done, stuck int, err error) {
	var values []store.SealedValue
	err = s.db.View(ctx, func(tx *store.Tx) error {
		values, next, err = tx.SealedValues(ctx, newest, page)
		return err
	})
	if err != nil || len(values) == 0 {
		return next, 0, 0, err
	}
	if err := s.at("batch"); err != nil {
		return "", 0, 0, err
	}
	fresh := make([][]byte, len(values))
	for i, v := range values {
		if s.ring.KEK(seal.KEKOf(v.Sealed)) == nil {
			continue
		}
		rewrapped, changed, err := s.ring.Rewrap(ctx, v.Sealed, v.AssociatedData())
		switch {
		case err != nil:
			stuck++
			s.logger.Debug("a value cannot be re-wrapped", "table", v.Table, "secret", v.Ref, "version", v.Number, "error", err)
		case changed:
			fresh[i] = rewrapped
		}
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		done = 0
		for i, v := range values {
			if fresh[i] == nil {
				continue
			}
			swapped, err := tx.SwapSealed(ctx, v, fresh[i])
			if err != nil {
				return err
			}
			if swapped {
				done++
			}
		}
		return nil
	})
	if err == nil {
		err = s.at("rewrapped")
	}
	return next, done, stuck, err
}

// removeUnused removes the keys that seal nothing.
func (s *sealing) removeUnused(ctx context.Context, older []store.SealKey) error {
	for _, key := range older {
		if err := s.at("removing"); err != nil {
			return err
		}
		removed := false
		err := s.db.Update(ctx, func(tx *store.Tx) error {
			counts, err := tx.SealedBy(ctx)
			if removed = err == nil && counts[key.ID] == 0; !removed {
				return err
			}
			if err := tx.RemoveSealKey(ctx, key.ID); err != nil {
				return err
			}
			return tx.AddAudit(ctx, sealEvent("keybroker", "seal.remove", map[string]string{"key": key.ID}))
		})
		if errors.Is(err, backends.ErrConflict) {
			continue // something was sealed by it meanwhile: next time
		}
		if err != nil {
			return fmt.Errorf("removing key %s: %w", key.ID, err)
		}
		if removed {
			s.scrub = true
			if err := s.at("removed"); err != nil {
				return err
			}
			s.logger.Info("nothing is sealed by the old key any more: it was removed", "key", key.ID)
		}
	}
	return nil
}

// status tells of the keys and the seals.
func (s *sealing) status(ctx context.Context) (client.SealStatus, error) {
	var keys []store.SealKey
	var counts map[string]int
	err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		if keys, err = tx.SealKeys(ctx); err == nil {
			counts, err = tx.SealedBy(ctx)
		}
		return err
	})
	if err != nil {
		return client.SealStatus{}, err
	}
	out := client.SealStatus{Keys: []client.SealKey{}}
	for i, key := range keys {
		k := client.SealKey{ID: key.ID, Current: i == 0, CreatedAt: key.CreatedAt, Values: counts[key.ID], WrappedBy: []string{}}
		for _, w := range key.Wrappings {
			k.WrappedBy = append(k.WrappedBy, w.Seal)
		}
		if i > 0 {
			out.Left += k.Values
		}
		out.Keys = append(out.Keys, k)
	}
	s.mu.Lock()
	out.Stuck = min(s.stuck, out.Left)
	if out.Left > 0 && s.waiting != nil {
		out.Waiting = s.waiting.Error()
	}
	s.mu.Unlock()
	out.Seals = s.describeAll(keys)
	return out, nil
}

// describeAll tells of every seal of the configuration.
func (s *sealing) describeAll(keys []store.SealKey) (out []client.Seal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, by := range s.made {
		out = append(out, s.describe(by, keys))
	}
	for _, u := range s.unmade {
		out = append(out, client.Seal{ID: u.id, State: client.SealAway, CheckedAt: s.states[u.id].at, Error: u.err.Error()})
	}
	return out
}

// describe tells of one, under mu.
func (s *sealing) describe(by seal.Seal, keys []store.SealKey) client.Seal {
	last := s.states[by.ID()]
	out := client.Seal{ID: by.ID(), State: client.SealReady, CheckedAt: last.at}
	lacks := func(key store.SealKey) bool { _, wrapped := wrappingOf(key, by.ID()); return !wrapped }
	switch {
	case last.err != nil:
		out.State, out.Error = client.SealAway, last.err.Error()
	case slices.ContainsFunc(keys, lacks):
		out.State = client.SealPending
	case last.at.IsZero():
		out.State = client.SealUnchecked
	}
	return out
}
