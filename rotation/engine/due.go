package engine

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/rotation"
)

// SetDue works out when s, whose row the caller saves, is due next: by its schedule, the
// age of its current version, or that one's end. ErrInvalid if its definition cannot be read.
func (e *Engine) SetDue(ctx context.Context, tx Tx, s *rotation.Secret) error {
	current, err := currentOf(ctx, tx, *s)
	if err != nil {
		return err
	}
	return e.setDue(s, current, false)
}

// currentOf returns the current version of a secret, or one of number 0.
func currentOf(ctx context.Context, tx Tx, s rotation.Secret) (rotation.Version, error) {
	if s.Current == 0 {
		return rotation.Version{SecretID: s.ID}, nil
	}
	return tx.Version(ctx, s.ID, s.Current)
}

// setDue notes what rotation.NextDue says or, of what has just begun or failed,
// DueAgain. What comes again before there is time to tell of it is not told of.
func (e *Engine) setDue(s *rotation.Secret, current rotation.Version, again bool) error {
	s.NextDueAt, s.NoticeAt = zeroTime, zeroTime
	if s.State == rotation.SecretUnmanaged || s.Definition.Issuer == "" {
		return nil
	}
	next := rotation.NextDue
	if again {
		next = rotation.DueAgain
	}
	due, err := next(s.Definition, current, e.Now())
	if err != nil {
		return fmt.Errorf("scheduling %s: %w", s.Ref, err)
	}
	s.NextDueAt = due.At
	if at := noticeAt(*s); !again || at.After(e.Now()) {
		s.NoticeAt = at
	}
	return nil
}

// dueWith works out when a secret is due next whose current version becomes v, for the
// second time where it was rolled back: then what forces a rotation waits as after one
// that failed. A definition that cannot be read holds up nothing that has happened.
func (e *Engine) dueWith(s *rotation.Secret, v rotation.Version, rolledBack bool) {
	if err := e.setDue(s, v, rolledBack); err != nil {
		e.Logger.Error("a secret is not rotated by itself any more", "secret", s.Ref, "error", err)
	}
}

// dueAfterFailure lets a secret whose scheduled rotation has failed be due again, before
// long if something forces it.
func (e *Engine) dueAfterFailure(ctx context.Context, tx Tx, r rotation.Rotation) error {
	if r.Trigger != rotation.TriggerSchedule {
		return nil
	}
	s, err := tx.Secret(ctx, r.SecretID)
	if err != nil {
		return err
	}
	current, err := currentOf(ctx, tx, s)
	if err != nil {
		return err
	}
	before := s.NextDueAt
	if err := e.setDue(&s, current, true); err != nil {
		e.Logger.Error("a secret is not rotated by itself any more", "secret", s.Ref, "error", err)
	}
	if s.NextDueAt.Equal(before) {
		return nil
	}
	if err := tx.SaveSecret(ctx, &s); err != nil && !isConflict(err) { // else it stays due as it was when the rotation began
		return err
	}
	return nil
}
