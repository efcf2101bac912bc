package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Asked is who asks for something, and why.
type Asked struct {
	By      string // the principal
	Lineage string // whose token By's is; see rotation.Rotation.Approve
	Reason  string
	// Role, Method, Identity and Address are By's, as in rotation.AuditEvent.
	Role, Method, Identity, Address string
	// IgnoreWindow: a rotation may begin outside of its secret's window.
	IgnoreWindow bool

	why rotation.Why // of what is due by itself
}

// Rotate creates a rotation of the secret inside tx. ErrConflict, with the
// reason, if the secret is not to be rotated now: unmanaged, or occupied by
// another rotation. A paused secret's rotation queues.
func (e *Engine) Rotate(ctx context.Context, tx Tx, secretID string, trigger rotation.Trigger, asked Asked) (rotation.Rotation, error) {
	now := e.Now()
	s, err := tx.Secret(ctx, secretID)
	if err != nil {
		return rotation.Rotation{}, err
	}
	if s.State == rotation.SecretUnmanaged {
		return rotation.Rotation{}, fmt.Errorf("%w: %s is unmanaged: its block was taken out of the configuration", backends.ErrConflict, s.Ref)
	}
	if s.Definition.Issuer == "" {
		return rotation.Rotation{}, fmt.Errorf("%w: %s has no issuer: nobody can rotate it", backends.ErrInvalid, s.Ref)
	}
	if at, err := tx.Occupying(ctx, secretID); err == nil && Proposed(at) {
		if _, _, err := e.Cancel(ctx, tx, at.ID, Asked{By: asked.By, Reason: "a rotation was asked for"}); err != nil {
			return rotation.Rotation{}, err
		}
	} else if err == nil && at.State == rotation.Queued && asked.IgnoreWindow && !at.IgnoreWindow {
		return e.ignoreWindow(ctx, tx, at, asked)
	} else if err == nil {
		return rotation.Rotation{}, fmt.Errorf("%w: %s", backends.ErrConflict, occupied(at, s.Ref))
	} else if !errors.Is(err, backends.ErrNotFound) {
		return rotation.Rotation{}, err
	}
	if err := e.tooSoon(ctx, tx, s, trigger, asked.why, now); err != nil {
		return rotation.Rotation{}, err
	}
	r := rotation.Rotation{ID: newID(), SecretID: s.ID, Trigger: trigger, Reason: asked.Reason, Actor: asked.By, Lineage: asked.Lineage,
		Plan: s.Definition.Plan, Under: s.Definition.Pinned(), State: rotation.Queued, IgnoreWindow: asked.IgnoreWindow, From: s.Current, CreatedAt: now, StepSince: now, NextAt: now}
	if err := tx.SaveSecret(ctx, &s); err != nil { // what was read of it still holds
		return rotation.Rotation{}, fmt.Errorf("%w: %w", errStale, err)
	}
	if err := tx.AddRotation(ctx, &r); err != nil {
		return rotation.Rotation{}, err
	}
	return r, e.begun(ctx, tx, s, r)
}

// ignoreWindow lets a rotation that is queued begin outside of its window, as somebody
// asks who would start one otherwise.
func (e *Engine) ignoreWindow(ctx context.Context, tx Tx, r rotation.Rotation, asked Asked) (rotation.Rotation, error) {
	r, _, _, err := e.operate(ctx, tx, r.ID, "rotation.ignore_window", asked, func(r *rotation.Rotation) ([]string, error) {
		r.IgnoreWindow = true
		if r.WaitingFor == rotation.WaitWindow {
			r.NextAt = e.Now()
		}
		return nil, nil
	})
	return r, err
}

// tooSoon refuses a rotation within the minimum interval (rule 17): of the last
// publication, unless the current version ends by itself, and, for what starts by
// itself, of the last one that failed.
func (e *Engine) tooSoon(ctx context.Context, tx Tx, s rotation.Secret, trigger rotation.Trigger, why rotation.Why, now time.Time) error {
	if why == rotation.DueNotAfter {
		s.Definition.MinInterval = 0
	}
	if err := e.failedJustNow(ctx, tx, s, trigger, now); err != nil {
		return err
	}
	if s.Definition.MinInterval <= 0 || s.Current == 0 {
		return nil
	}
	current, err := tx.Version(ctx, s.ID, s.Current)
	if err != nil {
		return err
	}
	if next := current.PublishedAt.Add(s.Definition.MinInterval); now.Before(next) {
		return fmt.Errorf("%w: %s was rotated at %s; its min_interval of %s ends at %s", backends.ErrConflict, s.Ref,
			current.PublishedAt.UTC().Format(time.RFC3339), s.Definition.MinInterval, next.UTC().Format(time.RFC3339))
	}
	return nil
}

func (e *Engine) failedJustNow(ctx context.Context, tx Tx, s rotation.Secret, trigger rotation.Trigger, now time.Time) error {
	if trigger != rotation.TriggerEvent && trigger != rotation.TriggerSchedule {
		return nil // a person may try again at once
	}
	last, err := tx.LastRotation(ctx, s.ID)
	if notFound(err) || err == nil && last.State != rotation.Failed {
		return nil
	}
	if err != nil {
		return err
	}
	if next := last.EndedAt.Add(max(s.Definition.MinInterval, rotation.FailedAgain)); now.Before(next) {
		return fmt.Errorf("%w: rotation %s of %s failed at %s (%s); another starts by itself from %s on, `keybroker rotation retry %s` starts one now", backends.ErrConflict,
			last.ID, s.Ref, last.EndedAt.UTC().Format(time.RFC3339), last.Error, next.UTC().Format(time.RFC3339), last.ID)
	}
	return nil
}

func (e *Engine) begun(ctx context.Context, tx Tx, s rotation.Secret, r rotation.Rotation) error {
	err := tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: s.Ref.Tenant, Actor: r.Actor, Action: "rotation.start",
		Path: s.Ref.Name, Secret: s.Ref.String(), Outcome: "ok", Detail: map[string]string{"rotation": r.ID, "trigger": string(r.Trigger), "reason": r.Reason}})
	if err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, time.Time{}, r.Emergency()))
}

// occupied says which rotation keeps another from beginning, and what to do about it.
func occupied(r rotation.Rotation, of backends.Ref) string {
	if r.Adopts != nil && r.State == rotation.Queued && r.ApprovedBy == "" {
		return fmt.Sprintf("rotation %s is to adopt what %s holds, and waits for an approval: `keybroker rotation approve %s`, or `keybroker rotation cancel %s`", r.ID, r.Adopts.Backend, r.ID, r.ID)
	}
	if r.State == rotation.Overlap && r.WaitingFor == rotation.WaitAcknowledgment {
		return fmt.Sprintf("rotation %s waits for consumers to acknowledge version %d, at most until %s: `keybroker secret consumers %s`; an emergency does not wait for it",
			r.ID, r.To, r.NextAt.UTC().Format(time.RFC3339), qualified(of))
	}
	if r.State == rotation.Overlap && r.WaitingFor == rotation.WaitMirror {
		return fmt.Sprintf("rotation %s waits for mirrors, at most until %s: `keybroker drift list --secret %s`; an emergency does not wait for it", r.ID, r.NextAt.UTC().Format(time.RFC3339), qualified(of))
	}
	if r.State == rotation.Overlap {
		return fmt.Sprintf("rotation %s is in its overlap until %s; an emergency does not wait for it", r.ID, r.OverlapUntil.UTC().Format(time.RFC3339))
	}
	if r.State == rotation.Queued && r.WaitingFor == rotation.WaitWindow {
		return fmt.Sprintf("rotation %s waits for its window until %s: `keybroker secret rotate %s --ignore-window` begins it now", r.ID, r.NextAt.UTC().Format(time.RFC3339), qualified(of))
	}
	return fmt.Sprintf("rotation %s is under way (%s): `keybroker rotation show %s` says what it waits for", r.ID, r.State, r.ID)
}

// retire inserts the retirement of v, to begin at at.
func (e *Engine) retire(ctx context.Context, tx Tx, v rotation.Version, confirm rotation.Confirm, cause rotation.Cause, asked Asked, rotationID string, at time.Time) (rotation.Retirement, error) {
	now := e.Now()
	t := rotation.Retirement{ID: newID(), SecretID: v.SecretID, RotationID: rotationID, Version: v.Number, Cause: cause,
		Reason: asked.Reason, Actor: asked.By, Confirm: confirm, HasProbe: v.Probe != "" && v.Sealed != nil,
		State: rotation.Requested, RequestedAt: now, DueAt: at, NextAt: at}
	if at.After(now) {
		t.WaitingFor = rotation.WaitReplacement
		if cause == rotation.CauseRotated || cause == rotation.CauseRolledBack {
			t.WaitingFor = rotation.WaitOverlap
		}
	}
	if err := tx.AddRetirement(ctx, &t); err != nil {
		return t, err
	}
	err := tx.AddAudit(ctx, rotation.AuditEvent{At: now, Tenant: v.Ref.Tenant, Actor: asked.By, Action: "retirement.request",
		Path: v.Ref.Name, Secret: v.Ref.String(), Outcome: "ok", Detail: map[string]string{"retirement": t.ID, "version": fmt.Sprint(v.Number), "cause": string(cause), "reason": asked.Reason}})
	if err != nil {
		return t, err
	}
	return t, tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, at, true))
}

// Revoke retires one version inside tx because somebody asked for it. The
// current version is refused (rule 6): that is what an emergency is for.
func (e *Engine) Revoke(ctx context.Context, tx Tx, secretID string, number int, asked Asked) (rotation.Retirement, error) {
	s, err := tx.Secret(ctx, secretID)
	if err != nil {
		return rotation.Retirement{}, err
	}
	v, err := tx.Version(ctx, secretID, number)
	if notFound(err) {
		err = fmt.Errorf("%w: %s has no version %d", backends.ErrNotFound, s.Ref, number)
	}
	if err != nil {
		return rotation.Retirement{}, err
	}
	if err := e.comingBack(ctx, tx, secretID, number); err != nil {
		return rotation.Retirement{}, err
	}
	switch t, err := tx.RetirementOf(ctx, secretID, number); {
	case err == nil && t.Hasten(e.Now()): // it was to begin later
		t.Reason, t.Actor = asked.Reason, asked.By
		if err := tx.SaveRetirement(ctx, &t); err != nil {
			return t, err
		}
		return t, errors.Join(tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true)), e.endOverlap(ctx, tx, secretID, number))
	case err == nil:
		return t, nil
	case !notFound(err):
		return t, err
	case v.Stage == rotation.StageCurrent:
		return rotation.Retirement{}, fmt.Errorf("%w: version %d is the current one of %s, which applications are using; rotate it first, or declare an emergency", backends.ErrConflict, number, s.Ref)
	case v.Stage == rotation.StagePending:
		return rotation.Retirement{}, fmt.Errorf("%w: version %d of %s is pending in a rotation that is under way", backends.ErrConflict, number, s.Ref)
	case v.Stage == rotation.StageRetired && v.Foreign() && v.Sealed != nil: // an older one, imported with the current one
	case v.Stage == rotation.StageRetired && v.Foreign():
		return rotation.Retirement{}, fmt.Errorf("%w: version %d of %s is a value of somebody else's that was not adopted: the broker revokes it nowhere", backends.ErrConflict, number, s.Ref)
	case v.Stage == rotation.StageRetired:
		return rotation.Retirement{}, fmt.Errorf("%w: version %d of %s never came into being", backends.ErrConflict, number, s.Ref)
	}
	replacedBy := "" // the rotation in whose overlap it is, which shows its end
	if r, err := tx.Occupying(ctx, secretID); err == nil && r.State == rotation.Overlap && r.From == number {
		replacedBy = r.ID
	}
	t, err := e.retire(ctx, tx, v, s.Definition.Plan.Confirm, rotation.CauseRevoked, asked, replacedBy, e.Now())
	if err != nil {
		return t, err
	}
	return t, e.endOverlap(ctx, tx, secretID, number)
}

// comingBack refuses what concerns a version that a rollback is making current
// again: its write may be on the way to the vault.
func (e *Engine) comingBack(ctx context.Context, tx Tx, secretID string, number int) error {
	r, err := tx.Occupying(ctx, secretID)
	if notFound(err) || err == nil && (r.RollBackBy == "" || r.From != number) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: rotation %s is being rolled back: version %d is about to be the current one; if it is compromised, declare an emergency", backends.ErrConflict, r.ID, number)
}

// endOverlap lets the rotation whose overlap was for this version go on at once.
func (e *Engine) endOverlap(ctx context.Context, tx Tx, secretID string, number int) error {
	r, err := tx.Occupying(ctx, secretID)
	if errors.Is(err, backends.ErrNotFound) || (err == nil && (r.State != rotation.Overlap || r.From != number)) {
		return nil
	}
	if err != nil {
		return err
	}
	r.CutOverlap(e.Now())
	if err := tx.SaveRotation(ctx, &r); err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, zeroTime, false))
}

// SetPaused pauses or resumes a secret inside tx. A rotation under way goes on;
// one that is queued, and those to come, wait.
func (e *Engine) SetPaused(ctx context.Context, tx Tx, secretID string, paused bool, asked Asked) (rotation.Secret, error) {
	s, err := tx.Secret(ctx, secretID)
	if err != nil {
		return s, err
	}
	want, action := rotation.SecretActive, "secret.resume"
	if paused {
		want, action = rotation.SecretPaused, "secret.pause"
	}
	if s.State == rotation.SecretUnmanaged {
		return s, fmt.Errorf("%w: %s is unmanaged: its block was taken out of the configuration", backends.ErrConflict, s.Ref)
	}
	if s.State == want {
		return s, nil
	}
	s.State, s.UpdatedAt = want, e.Now()
	if !paused && (s.NextDueAt.IsZero() || s.NextDueAt.After(e.Now())) { // a run that was missed is made up for, once
		if err := e.SetDue(ctx, tx, &s); err != nil {
			return s, err
		}
	}
	if err := tx.SaveSecret(ctx, &s); err != nil {
		return s, err
	}
	var jobs []river.InsertManyParams
	if r, err := tx.Occupying(ctx, secretID); err == nil && r.State == rotation.Queued {
		r.NextAt = e.Now()
		if err := tx.SaveRotation(ctx, &r); err != nil {
			return s, err
		}
		jobs = append(jobs, wakeUp(rotationJob{r.ID}, zeroTime, false))
	}
	if !paused {
		if err := errors.Join(e.Schedule(ctx, tx, s), tx.Enqueue(ctx, jobs...)); err != nil {
			return s, err
		}
	}
	return s, tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: s.Ref.Tenant, Actor: asked.By, Action: action,
		Path: s.Ref.Name, Secret: s.Ref.String(), Outcome: "ok", Detail: map[string]string{"reason": asked.Reason}})
}
