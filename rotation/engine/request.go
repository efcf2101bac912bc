package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Asked is who asks for something, and why.
type Asked struct {
	By     string // the principal
	Reason string
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
	if at, err := tx.Occupying(ctx, secretID); err == nil {
		return rotation.Rotation{}, fmt.Errorf("%w: %s", backends.ErrConflict, occupied(at))
	} else if !errors.Is(err, backends.ErrNotFound) {
		return rotation.Rotation{}, err
	}
	if err := e.tooSoon(ctx, tx, s, now); err != nil {
		return rotation.Rotation{}, err
	}
	r := rotation.Rotation{ID: newID(), SecretID: s.ID, Trigger: trigger, Reason: asked.Reason, Actor: asked.By,
		Plan: s.Definition.Plan, State: rotation.Queued, From: s.Current, CreatedAt: now, StepSince: now, NextAt: now}
	if err := tx.AddRotation(ctx, &r); err != nil {
		return rotation.Rotation{}, err
	}
	return r, e.begun(ctx, tx, s, r)
}

// tooSoon refuses a rotation within the minimum interval (rule 17).
func (e *Engine) tooSoon(ctx context.Context, tx Tx, s rotation.Secret, now time.Time) error {
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

func (e *Engine) begun(ctx context.Context, tx Tx, s rotation.Secret, r rotation.Rotation) error {
	err := tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: s.Ref.Tenant, Actor: r.Actor, Action: "rotation.start",
		Path: s.Ref.Name, Outcome: "ok", Detail: map[string]string{"rotation": r.ID, "trigger": string(r.Trigger), "reason": r.Reason}})
	if err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, time.Time{}))
}

func occupied(r rotation.Rotation) string {
	if r.State == rotation.Overlap {
		return fmt.Sprintf("rotation %s is in its overlap until %s; an emergency does not wait for it", r.ID, r.OverlapUntil.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("rotation %s is under way (%s)", r.ID, r.State)
}

// Emergency asks for compromised versions to be turned off and replaced.
type Emergency struct {
	Asked
	Versions []int  // pinned as compromised; empty: every version that is not known to be dead
	Contain  string // "revoke_first" or "replace_first"; empty: as the secret's policy says
}

// Declare starts an emergency inside tx, or returns the one that is under way
// for the same versions. Containment is in rows of its own from here on: it
// begins when the replacement is published or after replace_within, whichever is
// first, and waits for nothing else.
func (e *Engine) Declare(ctx context.Context, tx Tx, secretID string, em Emergency) (rotation.Rotation, error) {
	now := e.Now()
	s, err := tx.Secret(ctx, secretID)
	if err != nil {
		return rotation.Rotation{}, err
	}
	live, err := tx.LiveRotations(ctx, secretID)
	if err != nil {
		return rotation.Rotation{}, err
	}
	if s.Definition.Issuer == "" {
		return rotation.Rotation{}, fmt.Errorf("%w: %s has no issuer: nobody here can revoke or replace it; do so by hand where it was made", backends.ErrInvalid, s.Ref)
	}
	for _, r := range live {
		if r.Emergency() && (len(em.Versions) == 0 || containsAll(r.Compromised, em.Versions)) {
			return r, nil
		}
	}
	versions, err := tx.Versions(ctx, secretID)
	if err != nil {
		return rotation.Rotation{}, err
	}
	retirements, err := retirementsByVersion(ctx, tx, secretID)
	if err != nil {
		return rotation.Rotation{}, err
	}
	hit, err := compromised(versions, retirements, em.Versions)
	if err != nil {
		return rotation.Rotation{}, fmt.Errorf("declaring an emergency for %s: %w", s.Ref, err)
	}
	if err := e.takeOver(ctx, tx, live, hit, now); err != nil {
		return rotation.Rotation{}, err
	}
	plan := s.Definition.Plan
	if em.Contain != "" {
		plan.Emergency.RevokeFirst = em.Contain == "revoke_first"
	}
	r := rotation.Rotation{ID: newID(), SecretID: s.ID, Trigger: rotation.TriggerEmergency, Reason: em.Reason, Actor: em.By,
		Plan: plan, State: rotation.Queued, From: s.Current, CreatedAt: now, StepSince: now, NextAt: now}
	for _, v := range hit {
		r.Compromised = append(r.Compromised, v.Number)
	}
	if err := tx.AddRotation(ctx, &r); err != nil {
		return rotation.Rotation{}, err
	}
	containBy := now
	if !plan.Emergency.RevokeFirst {
		containBy = now.Add(plan.Emergency.ReplaceWithin)
	}
	full := e.issuerFull(s.Definition.Issuer, versions, retirements)
	for _, v := range hit {
		at := containBy
		if full && v.Stage == rotation.StagePrevious {
			at = now // it makes room for the replacement
		}
		if err := e.contain(ctx, tx, r, v, retirements[v.Number], at); err != nil {
			return rotation.Rotation{}, err
		}
	}
	return r, e.begun(ctx, tx, s, r)
}

func containsAll(set, of []int) bool {
	return !slices.ContainsFunc(of, func(n int) bool { return !slices.Contains(set, n) })
}

func retirementsByVersion(ctx context.Context, tx Tx, secretID string) (map[int]*rotation.Retirement, error) {
	all, err := tx.Retirements(ctx, secretID)
	if err != nil {
		return nil, err
	}
	m := make(map[int]*rotation.Retirement, len(all))
	for i := range all {
		m[all[i].Version] = &all[i]
	}
	return m, nil
}

// compromised picks the versions that an emergency turns off: those asked for,
// or every one that is not known to be dead.
func compromised(versions []rotation.Version, retirements map[int]*rotation.Retirement, asked []int) ([]rotation.Version, error) {
	var hit []rotation.Version
	for _, v := range versions {
		t := retirements[v.Number]
		live := v.Stage != rotation.StageRetired // a retired one without a retirement was never made
		if t != nil {
			live = t.MayLive()
		}
		if slices.Contains(asked, v.Number) && !live {
			return nil, fmt.Errorf("%w: version %d is not alive: see `keybroker secret show` for what became of it", backends.ErrConflict, v.Number)
		}
		unheard := v.Stage == rotation.StagePending && v.Handle == nil // nobody has its value: see takeOver
		if live && (len(asked) == 0 && !unheard || slices.Contains(asked, v.Number)) {
			hit = append(hit, v)
		}
	}
	for _, n := range asked {
		if !slices.ContainsFunc(hit, func(v rotation.Version) bool { return v.Number == n }) {
			return nil, fmt.Errorf("%w: there is no version %d", backends.ErrNotFound, n)
		}
	}
	if len(hit) == 0 {
		return nil, fmt.Errorf("%w: no version of it can be alive, there is nothing to turn off", backends.ErrConflict)
	}
	return hit, nil
}

// takeOver ends the rotation that occupies the secret. What it has minted is
// pinned by the emergency; a mint whose answer nobody has heard is retired beside
// it, as an orphan whose value cannot have leaked: the emergency does not wait
// for it.
func (e *Engine) takeOver(ctx context.Context, tx Tx, live []rotation.Rotation, hit []rotation.Version, now time.Time) error {
	for i := range live {
		if !live[i].State.Occupies() {
			continue
		}
		step := stepName(live[i].State)
		live[i].Supersede(now)
		if err := tx.SaveRotation(ctx, &live[i]); err != nil {
			return err
		}
		if err := tx.EndStep(ctx, live[i].ID, step, "superseded", live[i].Error, now); err != nil {
			return err
		}
		pinned := slices.ContainsFunc(hit, func(v rotation.Version) bool { return v.Number == live[i].To })
		if live[i].To == 0 || pinned {
			continue
		}
		v, err := tx.Version(ctx, live[i].SecretID, live[i].To)
		if err != nil {
			return err
		}
		if v.Stage != rotation.StagePending {
			continue
		}
		if err := e.discard(ctx, tx, live[i], v, rotation.CauseOrphan); err != nil {
			return err
		}
	}
	return nil
}

// contain makes sure that version v is being retired as compromised, from at on.
func (e *Engine) contain(ctx context.Context, tx Tx, r rotation.Rotation, v rotation.Version, t *rotation.Retirement, at time.Time) error {
	if t == nil {
		_, err := e.retire(ctx, tx, v, r.Plan.Confirm, rotation.CauseEmergency, Asked{By: r.Actor, Reason: r.Reason}, r.ID, at)
		return err
	}
	t.RotationID, t.Reason, t.Actor = r.ID, r.Reason, r.Actor
	t.Escalate(e.Now())
	if err := tx.SaveRetirement(ctx, t); err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, time.Time{}))
}

// retire inserts the retirement of v, to begin at at.
func (e *Engine) retire(ctx context.Context, tx Tx, v rotation.Version, confirm rotation.Confirm, cause rotation.Cause, asked Asked, rotationID string, at time.Time) (rotation.Retirement, error) {
	now := e.Now()
	t := rotation.Retirement{ID: newID(), SecretID: v.SecretID, RotationID: rotationID, Version: v.Number, Cause: cause,
		Reason: asked.Reason, Actor: asked.By, Confirm: confirm, HasProbe: v.Probe != "" && v.Sealed != nil,
		State: rotation.Requested, RequestedAt: now, NextAt: at}
	if at.After(now) {
		t.WaitingFor = rotation.WaitReplacement
	}
	if err := tx.AddRetirement(ctx, &t); err != nil {
		return t, err
	}
	err := tx.AddAudit(ctx, rotation.AuditEvent{At: now, Tenant: v.Ref.Tenant, Actor: asked.By, Action: "retirement.request",
		Path: v.Ref.Name, Outcome: "ok", Detail: map[string]string{"retirement": t.ID, "version": fmt.Sprint(v.Number), "cause": string(cause), "reason": asked.Reason}})
	if err != nil {
		return t, err
	}
	return t, tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, at))
}

// Revoke retires one version inside tx because somebody asked for it. The
// current version is refused (rule 6): that is what an emergency is for.
func (e *Engine) Revoke(ctx context.Context, tx Tx, secretID string, number int, asked Asked) (rotation.Retirement, error) {
	s, err := tx.Secret(ctx, secretID)
	if err != nil {
		return rotation.Retirement{}, err
	}
	v, err := tx.Version(ctx, secretID, number)
	if err != nil {
		return rotation.Retirement{}, err
	}
	have, err := retirementsByVersion(ctx, tx, secretID)
	if err != nil {
		return rotation.Retirement{}, err
	}
	switch {
	case have[number] != nil:
		return *have[number], nil
	case v.Stage == rotation.StageCurrent:
		return rotation.Retirement{}, fmt.Errorf("%w: version %d is the current one of %s, which applications are using; rotate it first, or declare an emergency", backends.ErrConflict, number, s.Ref)
	case v.Stage == rotation.StagePending:
		return rotation.Retirement{}, fmt.Errorf("%w: version %d of %s is pending in a rotation that is under way", backends.ErrConflict, number, s.Ref)
	case v.Stage == rotation.StageRetired:
		return rotation.Retirement{}, fmt.Errorf("%w: version %d of %s never came into being", backends.ErrConflict, number, s.Ref)
	}
	t, err := e.retire(ctx, tx, v, s.Definition.Plan.Confirm, rotation.CauseRevoked, asked, "", e.Now())
	if err != nil {
		return t, err
	}
	return t, e.endOverlap(ctx, tx, secretID, number)
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
	r.OverlapUntil, r.NextAt = e.Now(), e.Now()
	r.Plan.Acknowledgement.Require = rotation.RequireNone
	if err := tx.SaveRotation(ctx, &r); err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, time.Time{}))
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
	if err := tx.SaveSecret(ctx, &s); err != nil {
		return s, err
	}
	jobs := []river.InsertManyParams{wakeUp(scheduleJob{s.ID}, s.NextDueAt)}
	if r, err := tx.Occupying(ctx, secretID); err == nil && r.State == rotation.Queued {
		r.NextAt = e.Now()
		if err := tx.SaveRotation(ctx, &r); err != nil {
			return s, err
		}
		jobs = append(jobs, wakeUp(rotationJob{r.ID}, time.Time{}))
	}
	if !paused {
		if err := tx.Enqueue(ctx, jobs...); err != nil {
			return s, err
		}
	}
	return s, tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: s.Ref.Tenant, Actor: asked.By, Action: action,
		Path: s.Ref.Name, Outcome: "ok", Detail: map[string]string{"reason": asked.Reason}})
}

// issuerFull tells whether the issuer holds as many live credentials of this
// secret as it can.
func (e *Engine) issuerFull(name string, versions []rotation.Version, retirements map[int]*rotation.Retirement) bool {
	is, err := e.issuer(name)
	if err != nil {
		return false
	}
	return full(is.Traits(), name, versions, retirements)
}

func full(traits issuer.Traits, name string, versions []rotation.Version, retirements map[int]*rotation.Retirement) bool {
	if traits.MaxLive == 0 {
		return false
	}
	live := 0
	for _, v := range versions {
		t := retirements[v.Number]
		if v.Issuer == name && v.Handle != nil && (t == nil || t.AcknowledgedAt.IsZero()) {
			live++
		}
	}
	return live >= traits.MaxLive
}
