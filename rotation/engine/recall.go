package engine

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Regain raises what only grows above what the store has forgotten: the secret's
// generation, in which the current version is announced anew, and the numbers of
// its versions. So nobody takes an old answer for a new one.
func (e *Engine) Regain(ctx context.Context, tx Tx, secretID string, version int, generation int64) error {
	raised, err := e.Raise(ctx, tx, secretID, version, generation)
	if err != nil || !raised {
		return err
	}
	return e.Announce(ctx, tx, secretID)
}

// Raise raises the numbers of a secret's versions and its generation above these,
// and tells whether the generation was not.
func (e *Engine) Raise(ctx context.Context, tx Tx, secretID string, version int, generation int64) (bool, error) {
	s, err := tx.Secret(ctx, secretID)
	if err != nil {
		return false, err
	}
	if version > s.LastVersion {
		if err := tx.SkipVersions(ctx, secretID, version); err != nil {
			return false, err
		}
	}
	if generation < s.Generation {
		return false, nil
	}
	s.Generation, s.UpdatedAt = generation+1, e.Now()
	return true, tx.SaveSecret(ctx, &s)
}

// Announce tells a secret's consumers of its current version, unless they were told
// of it in this generation.
func (e *Engine) Announce(ctx context.Context, tx Tx, secretID string) error {
	s, err := tx.Secret(ctx, secretID)
	if err != nil || s.Current == 0 {
		return err
	}
	told, err := tx.Deliveries(ctx, s.ID, s.Generation)
	if err != nil || len(told) > 0 {
		return err
	}
	return e.tell(ctx, tx, s, news{event: rotation.EventRotated, version: s.Current, trigger: rotation.TriggerManual, reason: "the store has lost commits"})
}

// Recall turns a version off once more whose retirement the store has forgotten,
// since it was restored from a backup or lost its last commits (rule 21). What it
// takes for current is replaced as in an emergency. It says what it did; ErrNotFound
// if the version itself is not known (any more).
func (e *Engine) Recall(ctx context.Context, tx Tx, secretID string, number int, asked Asked) (string, error) {
	v, err := tx.Version(ctx, secretID, number)
	if err != nil {
		return "", err
	}
	switch t, err := tx.RetirementOf(ctx, secretID, number); {
	case err == nil && t.Hasten(e.Now()):
		if err := tx.SaveRetirement(ctx, &t); err != nil {
			return "", err
		}
		return "its retirement begins now", tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true))
	case err == nil:
		return "its retirement is under way or over", nil
	case !notFound(err):
		return "", err
	}
	switch v.Stage {
	case rotation.StageCurrent:
		r, err := e.Declare(ctx, tx, secretID, Emergency{Asked: asked, Versions: []int{number}})
		return fmt.Sprintf("the store takes it for current: emergency rotation %s replaces it", r.ID), err
	case rotation.StagePrevious:
		t, err := e.Revoke(ctx, tx, secretID, number, asked)
		return fmt.Sprintf("it is revoked again by retirement %s", t.ID), err
	case rotation.StagePending:
		return e.recallPending(ctx, tx, v, asked)
	}
	return "", fmt.Errorf("%w: version %d of %s never came into being, as far as the store knows", backends.ErrNotFound, number, v.Ref)
}

// recallPending ends the rotation that would bring a version which was turned off
// already: what it minted is retired.
func (e *Engine) recallPending(ctx context.Context, tx Tx, v rotation.Version, asked Asked) (string, error) {
	r, err := tx.Rotation(ctx, v.RotationID)
	if err != nil {
		return "", err
	}
	if r.State.Ended() || r.To != v.Number {
		return "it is pending, and the sweep for such versions retires it", nil
	}
	if _, _, err := e.Cancel(ctx, tx, r.ID, asked); err != nil {
		return "", err
	}
	return fmt.Sprintf("rotation %s, which would have brought it, is cancelled, and it is retired", r.ID), nil
}
