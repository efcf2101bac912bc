package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Emergency asks for compromised versions to be turned off and replaced.
type Emergency struct {
	Asked
	Versions []int  // pinned as compromised; empty: every version that is not known to be dead
	Contain  string // "revoke_first" or "replace_first"; empty: as the secret's policy says
	// Overwrite: the replacement may be written over a stranger's value in the vault.
	Overwrite bool
}

// repeatWithin is how long after it was published an emergency's replacement is
// not itself taken for compromised by declaring the emergency again.
const repeatWithin = time.Minute

// Declare starts an emergency inside tx, or returns the one that is under way
// for all that can be alive. Containment is in rows of its own from here on: it
// begins when the replacement is published or after replace_within, whichever is
// first, and waits for nothing else. Where the current version is not among the
// compromised ones, nothing is replaced: they are contained at once.
func (e *Engine) Declare(ctx context.Context, tx Tx, secretID string, em Emergency) (rotation.Rotation, error) {
	now := e.Now()
	d, err := e.loadDeclaring(ctx, tx, secretID, em)
	if err != nil {
		return rotation.Rotation{}, err
	}
	if r, ok := d.underWay(len(em.Versions) > 0, now); ok {
		return r, e.again(ctx, tx, r, em)
	}
	if r, ok := d.widened(); ok {
		return r, e.widen(ctx, tx, d, &r, em)
	}
	plan := d.secret.Definition.Plan
	if em.Contain != "" {
		plan.Emergency.RevokeFirst = em.Contain == "revoke_first"
	}
	r := rotation.Rotation{ID: newID(), SecretID: secretID, Trigger: rotation.TriggerEmergency, Reason: em.Reason, Actor: em.By,
		Plan: plan, Under: d.secret.Definition.Pinned(), Overwrite: em.Overwrite, State: rotation.Queued, From: d.secret.Current, Compromised: numbers(d.hit), CreatedAt: now, StepSince: now, NextAt: now}
	containBy := now.Add(plan.Emergency.ReplaceWithin)
	if plan.Emergency.RevokeFirst {
		containBy = now
	}
	if !d.replaces() {
		r.State, r.From, containBy = rotation.Retiring, 0, now
	}
	for _, was := range d.live {
		if was.EndsOld() { // what was seen of the current version before its account was set
			seen := *was.InPlace
			seen.Back = nil // nothing is put back: the replacement is on its way
			r.InPlace = &seen
		}
	}
	if err := tx.SaveSecret(ctx, &d.secret); err != nil { // what was read of it still holds
		return rotation.Rotation{}, err
	}
	if err := e.takeOver(ctx, tx, d, containBy, now); err != nil {
		return rotation.Rotation{}, err
	}
	if err := tx.AddRotation(ctx, &r); err != nil {
		return rotation.Rotation{}, err
	}
	full := e.fullFor(d.secret.Definition, d.secret.Current, d.versions, d.retirements, false)
	for _, v := range d.hit {
		at := containBy
		if full && v.Stage == rotation.StagePrevious {
			at = now // it makes room for the replacement
		}
		if err := e.contain(ctx, tx, r, v, d.retirements[v.Number], at); err != nil {
			return rotation.Rotation{}, err
		}
		if err := e.warn(ctx, tx, d.secret, r, v); err != nil {
			return rotation.Rotation{}, err
		}
	}
	if full {
		if err := e.makeRoom(ctx, tx, secretID); err != nil {
			return rotation.Rotation{}, err
		}
	}
	return r, e.begun(ctx, tx, d.secret, r)
}

// declaring is all that the declaration of an emergency looks at.
type declaring struct {
	secret      rotation.Secret
	live        []rotation.Rotation
	last        *rotation.Rotation // that brought the current version
	versions    []rotation.Version
	retirements map[int]*rotation.Retirement
	hit         []rotation.Version // the compromised ones
}

func (e *Engine) loadDeclaring(ctx context.Context, tx Tx, secretID string, em Emergency) (d *declaring, err error) {
	d = &declaring{}
	if d.secret, err = tx.Secret(ctx, secretID); err != nil {
		return nil, err
	}
	if d.live, err = tx.LiveRotations(ctx, secretID); err != nil {
		return nil, err
	}
	if d.versions, err = tx.Versions(ctx, secretID); err != nil {
		return nil, err
	}
	if d.retirements, err = retirementsByVersion(ctx, tx, secretID); err != nil {
		return nil, err
	}
	for _, v := range d.versions {
		if v.Number != d.secret.Current {
			continue
		}
		r, err := tx.Rotation(ctx, v.RotationID)
		if err != nil && !notFound(err) {
			return nil, err
		}
		d.last = &r
	}
	making := 0 // the replacement that an emergency is making
	for _, r := range d.live {
		if r.Emergency() && r.State.Occupies() {
			making = r.To
		}
	}
	if d.hit, err = compromised(d.versions, d.retirements, em.Versions, making); err != nil {
		return nil, fmt.Errorf("declaring an emergency for %s: %w", d.secret.Ref, err)
	}
	return d, nil
}

// underWay returns the emergency that deals with everything that is hit
// already. Its own replacement, while it is being made and for a while after,
// is what was asked for, unless it is named.
func (d *declaring) underWay(named bool, now time.Time) (rotation.Rotation, bool) {
	candidates := d.live
	if d.last != nil && d.last.State.Ended() { // done in seconds, and declared again
		candidates = append(slices.Clone(d.live), *d.last)
	}
	for _, r := range candidates {
		fresh := !named && (r.State.Occupies() || now.Before(r.PublishedAt.Add(repeatWithin)))
		covers := func(v rotation.Version) bool {
			return slices.Contains(r.Compromised, v.Number) || fresh && v.Number == r.To
		}
		if r.Emergency() && !slices.ContainsFunc(d.hit, func(v rotation.Version) bool { return !covers(v) }) {
			return r, true
		}
	}
	return rotation.Rotation{}, false
}

// replaces tells whether a replacement is needed: the current version is hit or
// being turned off already, or there is none. A secret whose block names no issuer
// (any more) can only be contained, by the issuers that its versions came from.
func (d *declaring) replaces() bool {
	if d.secret.Definition.Issuer == "" {
		return false
	}
	current := d.secret.Current
	for _, r := range d.live {
		bringing := r.State == rotation.Publishing && slices.Contains(numbers(d.hit), r.To)
		back := r.State == rotation.Overlap && r.RollBackBy != "" && slices.Contains(numbers(d.hit), r.From)
		replacing := r.Emergency() && r.State.Occupies() && slices.Contains(numbers(d.hit), r.To)
		inPlace := r.EndsOld() && slices.Contains(numbers(d.hit), r.To)
		if bringing || back || replacing || inPlace {
			return true // the vault may hold it, or what that emergency was replacing, or the current one is dead
		}
	}
	return current == 0 || d.retirements[current] != nil || slices.Contains(numbers(d.hit), current)
}

// widened returns the emergency that is still making its replacement, where more
// is compromised than it was declared for, but not that replacement: it goes on,
// and takes the others in.
func (d *declaring) widened() (rotation.Rotation, bool) {
	for _, r := range d.live {
		if r.Emergency() && r.State.Occupies() && !slices.Contains(numbers(d.hit), r.To) {
			return r, true
		}
	}
	return rotation.Rotation{}, false
}

// widen pins what is hit in an emergency that is under way.
func (e *Engine) widen(ctx context.Context, tx Tx, d *declaring, r *rotation.Rotation, em Emergency) error {
	containBy := r.CreatedAt.Add(r.Plan.Emergency.ReplaceWithin)
	for _, v := range d.hit {
		if slices.Contains(r.Compromised, v.Number) {
			continue
		}
		r.Compromised = append(slices.Clone(r.Compromised), v.Number)
		if err := e.contain(ctx, tx, *r, v, d.retirements[v.Number], containBy); err != nil {
			return err
		}
		if err := e.warn(ctx, tx, d.secret, *r, v); err != nil {
			return err
		}
	}
	if err := tx.SaveRotation(ctx, r); err != nil {
		return err
	}
	return e.again(ctx, tx, *r, em)
}

// again does what a repeated declaration asks for beyond the first one.
func (e *Engine) again(ctx context.Context, tx Tx, r rotation.Rotation, em Emergency) error {
	if em.Overwrite && !r.Overwrite && r.State.Occupies() {
		r.Overwrite = true
		if err := tx.SaveRotation(ctx, &r); err != nil {
			return err
		}
	}
	if em.Contain != "revoke_first" {
		return nil
	}
	for _, n := range r.Compromised {
		t, err := tx.RetirementOf(ctx, r.SecretID, n)
		if notFound(err) || (err == nil && !t.Hasten(e.Now())) {
			continue
		}
		if err != nil {
			return err
		}
		if err := tx.SaveRetirement(ctx, &t); err != nil {
			return err
		}
		if err := tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true)); err != nil {
			return err
		}
	}
	return nil
}

func numbers(versions []rotation.Version) []int {
	var out []int
	for _, v := range versions {
		out = append(out, v.Number)
	}
	return out
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
// or every one that is not known to be dead, but not the one that an emergency
// is making.
func compromised(versions []rotation.Version, retirements map[int]*rotation.Retirement, asked []int, making int) ([]rotation.Version, error) {
	var hit []rotation.Version
	for _, v := range versions {
		t := retirements[v.Number]
		// A retired one without a retirement was never made, unless it was imported so.
		live := v.Stage != rotation.StageRetired || v.Foreign() && v.Sealed != nil
		if t != nil {
			live = t.MayLive()
		}
		if slices.Contains(asked, v.Number) && !live {
			return nil, fmt.Errorf("%w: version %d is not alive: see `keybroker secret show` for what became of it", backends.ErrConflict, v.Number)
		}
		// Nobody has the value of what was never heard of: see takeOver. It is being retired already.
		unheard := v.Number == making || v.Sealed == nil && v.Handle == nil || v.Stage == rotation.StagePending && v.Handle == nil
		if live && (len(asked) == 0 && !unheard || slices.Contains(asked, v.Number)) {
			hit = append(hit, v)
		}
	}
	for _, n := range asked {
		if !slices.ContainsFunc(hit, func(v rotation.Version) bool { return v.Number == n }) {
			return nil, fmt.Errorf("%w: there is no version %d that may be alive; `keybroker secret show` tells what became of each", backends.ErrNotFound, n)
		}
	}
	if len(hit) == 0 {
		return nil, ErrNothingAlive
	}
	return hit, nil
}

// takeOver makes way for the emergency: the rotation that occupies the secret is
// superseded, where the emergency replaces the current version or has pinned what
// that rotation is bringing. What a superseded rotation leaves behind and the
// emergency has not pinned is retired all the same: the version it was replacing
// at the end of its overlap, and what it was minting as an orphan.
func (e *Engine) takeOver(ctx context.Context, tx Tx, d *declaring, containBy, now time.Time) error {
	pinned := numbers(d.hit)
	for _, r := range d.live {
		switch {
		case !r.State.Occupies():
			continue
		case !d.replaces() && !slices.Contains(pinned, r.To):
			if err := e.cutOverlap(ctx, tx, r, pinned, now); err != nil {
				return err
			}
			continue
		}
		was, before := r.State, r
		r.Supersede(now)
		if err := e.moved(ctx, tx, before, r); err != nil {
			return err
		}
		if err := tx.SaveRotation(ctx, &r); err != nil {
			return err
		}
		if err := e.endStep(ctx, tx, d.secret.Ref, r.ID, stepName(was), "superseded", r.Error, now); err != nil {
			return err
		}
		if was == rotation.Overlap && !slices.Contains(pinned, r.From) {
			if err := e.retireReplaced(ctx, tx, r, r.OverlapUntil); err != nil {
				return err
			}
		}
		if r.To > 0 && !slices.Contains(pinned, r.To) {
			at := now
			if was == rotation.Publishing {
				at = containBy // the vault may hold it
			}
			if err := e.discardPending(ctx, tx, r, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// cutOverlap lets a rotation go on at once whose overlap was for a version that
// is compromised.
func (e *Engine) cutOverlap(ctx context.Context, tx Tx, r rotation.Rotation, pinned []int, now time.Time) error {
	if r.State != rotation.Overlap || !slices.Contains(pinned, r.From) {
		return nil
	}
	r.CutOverlap(now)
	if err := tx.SaveRotation(ctx, &r); err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, zeroTime, false))
}

// retireReplaced retires the version that a rotation replaced, from at on, unless
// somebody has had it revoked already.
func (e *Engine) retireReplaced(ctx context.Context, tx Tx, r rotation.Rotation, at time.Time) error {
	if _, err := tx.RetirementOf(ctx, r.SecretID, r.From); !notFound(err) {
		return err
	}
	v, err := tx.Version(ctx, r.SecretID, r.From)
	if err != nil {
		return err
	}
	t, err := e.retire(ctx, tx, v, r.Plan.Confirm, rotation.CauseRotated, Asked{By: "keybroker", Reason: "rotated"}, r.ID, at)
	if err != nil || r.InPlace == nil || !r.InPlace.Begun {
		return err
	}
	t.Displaced(*r.InPlace)
	return tx.SaveRetirement(ctx, &t)
}

// discardPending retires what a superseded rotation was bringing.
func (e *Engine) discardPending(ctx context.Context, tx Tx, r rotation.Rotation, at time.Time) error {
	v, err := tx.Version(ctx, r.SecretID, r.To)
	if err != nil || v.Stage != rotation.StagePending {
		return err
	}
	return e.discard(ctx, tx, r, v, rotation.CauseOrphan, at)
}

// contain makes sure that version v is being retired as compromised, from at on.
func (e *Engine) contain(ctx context.Context, tx Tx, r rotation.Rotation, v rotation.Version, t *rotation.Retirement, at time.Time) error {
	if t == nil {
		_, err := e.retire(ctx, tx, v, r.Plan.Confirm, rotation.CauseEmergency, Asked{By: r.Actor, Reason: r.Reason}, r.ID, at)
		return err
	}
	t.RotationID, t.Reason, t.Actor = r.ID, r.Reason, r.Actor
	t.Escalate(at, e.Now())
	if err := tx.SaveRetirement(ctx, t); err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true))
}

// warn tells the consumers that a version which they had is compromised.
func (e *Engine) warn(ctx context.Context, tx Tx, s rotation.Secret, r rotation.Rotation, v rotation.Version) error {
	if v.PublishedAt.IsZero() {
		return nil
	}
	return e.tell(ctx, tx, s, news{event: rotation.EventEmergency, version: v.Number, trigger: r.Trigger, reason: r.Reason})
}

// full tells whether the issuer holds as many credentials of the secret as it can,
// those among them that are disabled and not removed yet.
func full(traits issuer.Traits, name string, versions []rotation.Version, retirements map[int]*rotation.Retirement) bool {
	if traits.MaxLive == 0 {
		return false
	}
	live := 0
	for _, v := range versions {
		t := retirements[v.Number]
		if v.Issuer == name && v.Handle != nil && (!gone(t) || t.Soaking()) {
			live++
		}
	}
	return live >= traits.MaxLive
}
