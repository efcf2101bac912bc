package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// Comparing a vault's secrets with the store, at the start, ends after compareTimeout;
// what is left is compared every historyEvery, and given to nobody until then.
const (
	compareTimeout  = 30 * time.Second
	comparedAtATime = 16
)

// compareAll asks every vault once, before the node serves; once a person has ended
// the freeze, only those are asked that were out of step.
func (d *Daemon) compareAll(ctx context.Context) error {
	if d.aftermath.settled() {
		return nil
	}
	var secrets []rotation.Secret
	var frozen bool
	err := d.db.View(ctx, func(tx *store.Tx) error {
		f, err := tx.Freeze(ctx)
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		if frozen = err == nil && f.Restored; !frozen {
			return nil
		}
		secrets = nil
		for page := (store.Page{Limit: 500}); ; {
			some, next, err := tx.Secrets(ctx, store.SecretFilter{}, page)
			secrets = append(secrets, some...)
			if page.After = next; err != nil || next == "" {
				return err
			}
		}
	})
	switch {
	case err != nil:
		return err
	case !frozen:
		return d.followAftermath(ctx)
	}
	return d.compare(ctx, secrets)
}

// followAftermath compares again what was out of step, and takes the mark away when
// nothing is and a person has ended the freeze.
func (d *Daemon) followAftermath(ctx context.Context) error {
	if d.aftermath.settled() {
		return nil
	}
	var secrets []rotation.Secret
	err := d.db.View(ctx, func(tx *store.Tx) error {
		secrets = nil
		mark, err := tx.Restored(ctx)
		if err != nil {
			return err
		}
		for _, o := range mark.OutOfStep {
			s, err := tx.SecretByRef(ctx, o.Ref)
			if err != nil && !errors.Is(err, backends.ErrNotFound) {
				return err
			}
			if err == nil {
				secrets = append(secrets, s)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.compare(ctx, secrets)
}

// compare asks the vaults of these secrets what they hold, and commits what was
// found: what is in step is announced anew, which is delivered after the freeze.
func (d *Daemon) compare(ctx context.Context, secrets []rotation.Secret) error {
	replaced, err := d.replacedByLog(ctx)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	var mu sync.Mutex
	found := map[backends.Ref]*store.OutOfStep{} // nil: in step
	dead := map[string]error{}                   // backends that did not answer: nobody else waits for them
	var wg sync.WaitGroup
	slots := make(chan struct{}, comparedAtATime)
	for _, s := range secrets {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			mu.Lock()
			err := dead[s.Definition.Backend]
			mu.Unlock()
			var at engine.Standing
			if err == nil {
				at, err = d.engine.Compare(asking, s.ID)
			}
			if err == nil {
				err = d.learn(ctx, s, at, at.InStep() && !replaced[s.Ref])
			}
			mu.Lock()
			defer mu.Unlock()
			if found[s.Ref] = outOfStep(s, at, err); backends.Retryable(err) && at.Backend != "" {
				dead[at.Backend] = err
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.keepFound(ctx, found)
}

// replacedByLog are the secrets of which the audit log tells of a newer version.
func (d *Daemon) replacedByLog(ctx context.Context) (map[backends.Ref]bool, error) {
	refs := map[backends.Ref]bool{}
	err := d.db.View(ctx, func(tx *store.Tx) error {
		mark, err := tx.Restored(ctx)
		for _, o := range mark.OutOfStep {
			refs[o.Ref] = o.Kind == store.Replaced
		}
		return err
	})
	return refs, err
}

// learn raises a secret's numbers above what its vault tells of, and announces it
// anew if that is asked for.
func (d *Daemon) learn(ctx context.Context, s rotation.Secret, at engine.Standing, announce bool) error {
	noted := at.Note.Generation > 0 || at.Note.Version > 0
	if !noted && !announce {
		return nil
	}
	return d.db.UpdateLatest(ctx, func(tx *store.Tx) error {
		if noted {
			if _, err := d.engine.Raise(ctx, tx, s.ID, at.Note.Version, at.Note.Generation); err != nil {
				return err
			}
		}
		if !announce {
			return nil
		}
		return d.engine.Announce(ctx, tx, s.ID)
	})
}

// outOfStep says in words how a secret stands; nil: in step.
func outOfStep(s rotation.Secret, at engine.Standing, err error) *store.OutOfStep {
	o := &store.OutOfStep{Ref: s.Ref, Version: s.Current}
	switch {
	case err != nil:
		o.Kind, o.Detail = store.Uncompared, fmt.Sprintf("what its vault holds is not known: %v", err)
	case at.InStep():
		return nil
	case !at.Holds:
		o.Kind, o.Detail = store.Missing, fmt.Sprintf("%q holds nothing of it; the store takes version %d for current", at.Backend, at.Current)
	case at.Held == 0 && at.Noted && at.Note.Version > at.Current:
		o.Kind, o.Detail = store.Ahead, fmt.Sprintf("%q holds version %d, generation %d, as the broker noted there; the store has lost it and takes version %d for current", at.Backend, at.Note.Version, at.Note.Generation, at.Current)
	case at.Held == 0:
		o.Kind, o.Detail = store.Stranger, fmt.Sprintf("%q holds a value that was never one of its versions, as far as the store knows, which takes version %d for current", at.Backend, at.Current)
	case at.Held > at.Current:
		o.Kind, o.Detail = store.Ahead, fmt.Sprintf("%q holds version %d as the current one; the store takes version %d for it", at.Backend, at.Held, at.Current)
	default:
		o.Kind, o.Detail = store.Behind, fmt.Sprintf("%q holds version %d as the current one, which was replaced by version %d, as far as the store knows", at.Backend, at.Held, at.Current)
	}
	return o
}

// keepFound commits what was found beside what is known already, and says so in the
// freeze, which whoever ends it reads. Nothing is written where nothing has changed.
func (d *Daemon) keepFound(ctx context.Context, found map[backends.Ref]*store.OutOfStep) error {
	var k kept
	look := func(tx *store.Tx) (err error) {
		k, err = keeping(ctx, tx, found)
		return err
	}
	err := d.db.View(ctx, look)
	if err == nil && k.changed {
		err = d.db.UpdateLatest(ctx, func(tx *store.Tx) error {
			if err := look(tx); err != nil {
				return err
			}
			if k.frozen {
				k.freeze.Reason = restoredReason(*k.mark)
				if err := tx.SetFreeze(ctx, &k.freeze); err != nil {
					return err
				}
			}
			return tx.SetRestored(ctx, k.mark)
		})
	}
	if err != nil {
		return fmt.Errorf("keeping what the vaults hold: %w", err)
	}
	d.aftermath.put(k.mark)
	switch {
	case k.mark == nil:
		d.log.Info("everything is in step again after the restore")
	case k.changed:
		d.tellOutOfStep(k.known, k.mark.OutOfStep)
	}
	return nil
}

// kept is what comes of what is known and what was found.
type kept struct {
	mark    *store.Restored // nil: everything is in step, and a person has ended the freeze
	known   []store.OutOfStep
	changed bool
	freeze  rotation.Freeze
	frozen  bool
}

func keeping(ctx context.Context, tx *store.Tx, found map[backends.Ref]*store.OutOfStep) (k kept, err error) {
	was, err := tx.Restored(ctx)
	if err != nil {
		return k, err
	}
	if k.freeze, err = tx.Freeze(ctx); err != nil && !errors.Is(err, backends.ErrNotFound) {
		return k, err
	}
	k.frozen, k.known = err == nil && k.freeze.Restored, was.OutOfStep
	is := was
	if is.OutOfStep, err = stillOutOfStep(ctx, tx, was.OutOfStep, found, k.frozen); err != nil {
		return k, err
	}
	if !k.frozen && len(is.OutOfStep) == 0 {
		k.changed = true
		return k, nil
	}
	is.Compared = !slices.ContainsFunc(is.OutOfStep, func(o store.OutOfStep) bool { return o.Kind == store.Uncompared })
	k.mark, k.changed = &is, was.Compared != is.Compared || !slices.Equal(was.OutOfStep, is.OutOfStep)
	return k, nil
}

// toldAtATime is how many secrets one look names in the log.
const toldAtATime = 20

// tellOutOfStep logs what is known since this look, and how much there is.
func (d *Daemon) tellOutOfStep(known, all []store.OutOfStep) {
	told := map[store.OutOfStep]bool{}
	for _, o := range known {
		told[o] = true
	}
	fresh := 0
	for _, o := range all {
		if told[o] {
			continue
		}
		if fresh++; fresh <= toldAtATime {
			d.log.Warn("out of step after the restore", "secret", o.Ref, "kind", o.Kind, "detail", o.Detail)
		}
	}
	d.log.Warn("secrets are out of step after the restore: see `keybroker storage status`", "secrets", len(all), "since_the_last_look", fresh)
}

// stillOutOfStep joins what was known with what was found. What the audit log said
// stands until another version is current; what could not be compared is no longer
// waited for once a person has ended the freeze, nor is what the next write mends.
func stillOutOfStep(ctx context.Context, tx *store.Tx, known []store.OutOfStep, found map[backends.Ref]*store.OutOfStep, frozen bool) ([]store.OutOfStep, error) {
	all := map[backends.Ref]store.OutOfStep{}
	for _, o := range known {
		now, compared := found[o.Ref]
		if !compared || o.Kind == store.Replaced {
			all[o.Ref] = o
			continue
		}
		if now != nil {
			is := *now
			is.Version = o.Version // what came after the restore is not in doubt
			if is.Kind == store.Uncompared && o.Kind == store.Uncompared {
				is.Detail = o.Detail // however its vault words the same failure
			}
			all[o.Ref] = is
		}
	}
	for ref, o := range found {
		if _, had := all[ref]; !had && o != nil {
			all[ref] = *o
		}
	}
	for ref, o := range all {
		s, err := tx.SecretByRef(ctx, ref)
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return nil, err
		}
		gone := err != nil || s.Current > o.Version // another version took its place since
		if gone || !frozen && (o.Kind == store.Uncompared || o.Kind == store.Missing) {
			delete(all, ref)
		}
	}
	return inOrder(all), nil
}
