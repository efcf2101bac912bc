package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Outlook tells what would happen to a secret, when, and why not. It looks at the
// vault too, and changes nothing.
func (e *Engine) Outlook(ctx context.Context, secretID string) (rotation.Outlook, error) {
	x, seen, err := e.look(ctx, secretID)
	if err != nil {
		return rotation.Outlook{}, fmt.Errorf("looking ahead: %w", err)
	}
	if seen.Rotation == nil || !seen.Rotation.State.Occupies() || seen.Rotation.State == rotation.Queued {
		e.lookOutside(ctx, x)
	}
	seen.Facts = x.facts
	seen.Blockers = append(seen.Blockers, e.blockers(x, seen)...)
	if m, err := e.backend(seen.Secret.Definition.Backend); err == nil {
		_, seen.Stages = m.Stager()
	}
	if is, err := e.issuer(seen.Secret.Definition.Issuer); err == nil {
		traits := issuer.TraitsOf(is, seen.Secret.Definition.Settings)
		_, seen.ByHand = is.(issuer.Person)
		seen.InPlace, seen.Unseen = traits.InPlace(), traits.Unseen
	}
	return rotation.Foresee(seen, e.Now()), nil
}

// look reads what an Outlook is computed from, as if a rotation were queued.
func (e *Engine) look(ctx context.Context, secretID string) (*rotating, rotation.Seen, error) {
	x, seen := &rotating{}, rotation.Seen{}
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		*x, seen = rotating{}, rotation.Seen{}
		if x.secret, err = tx.Secret(ctx, secretID); err != nil {
			return err
		}
		if x.versions, err = tx.Versions(ctx, secretID); err != nil {
			return err
		}
		if seen.Retirements, err = tx.Retirements(ctx, secretID); err != nil {
			return err
		}
		if seen.Placements, err = tx.Placements(ctx, secretID); err != nil {
			return err
		}
		if x.retirements, err = retirementsByVersion(ctx, tx, secretID); err != nil {
			return err
		}
		live, err := tx.LiveRotations(ctx, secretID)
		if err != nil {
			return err
		}
		for i := range live { // the one that occupies the secret, else the newest that waits for its proof
			if seen.Rotation == nil || live[i].State.Occupies() || !seen.Rotation.State.Occupies() {
				seen.Rotation = &live[i]
			}
		}
		if seen.Freeze, err = tx.Freeze(ctx); err != nil && !notFound(err) {
			return err
		}
		x.facts.Frozen = err == nil
		if seen.Rotation == nil || !seen.Rotation.State.Occupies() {
			if err := e.tooSoon(ctx, tx, x.secret, rotation.TriggerManual, "", e.Now()); errors.Is(err, backends.ErrConflict) {
				seen.Blockers = append(seen.Blockers, rotation.Blocker{WaitingFor: "min_interval", Detail: err.Error(), Mend: "wait; an emergency does not"})
			} else if err != nil {
				return err
			}
		}
		return e.lookAhead(ctx, tx, x, &seen)
	})
	if seen.Rotation != nil {
		x.r = *seen.Rotation
	}
	x.facts.Paused = x.secret.State == rotation.SecretPaused
	seen.Secret = x.secret
	return x, seen, err
}

// lookAhead notes what a queued rotation, or one asked for now, would have to wait for
// among others.
func (e *Engine) lookAhead(ctx context.Context, tx Tx, x *rotating, seen *rotation.Seen) error {
	queued := *x
	if queued.r = (rotation.Rotation{SecretID: x.secret.ID, State: rotation.Queued}); seen.Rotation != nil && seen.Rotation.State.Occupies() {
		queued.r = *seen.Rotation
	}
	if err := e.lookAtGates(ctx, tx, &queued, x.secret); err != nil {
		return err
	}
	x.facts.ClosedUntil, x.facts.Gate = queued.facts.ClosedUntil, queued.facts.Gate
	for _, g := range gatesOf(x.secret) {
		if g.Kind != x.facts.Gate {
			continue
		}
		through, err := tx.Through(ctx, g, x.secret.ID)
		if err != nil {
			return err
		}
		seen.Blockers = append(seen.Blockers, g.blocker(through))
	}
	return nil
}

// blocker says what stands in the way at the gate, and what ends it.
func (g Gate) blocker(through []string) rotation.Blocker {
	b := rotation.Blocker{WaitingFor: g.Kind, Mend: "it begins in its turn, as soon as there is room; an emergency does not wait"}
	switch {
	case len(through) == 0:
		b.Detail = "others have waited longer"
	case g.Kind == rotation.WaitPair:
		b.Detail = fmt.Sprintf("rotation %s of another secret of its pair %q has not come to the end of its overlap", through[0], g.Pair)
	default:
		b.Detail = fmt.Sprintf("as many secrets of policy %q are rotating as may at once (%d): %s", g.Policy, g.Room, strings.Join(through[:min(len(through), 3)], ", "))
	}
	return b
}

// qualified names a secret for a command.
func qualified(ref backends.Ref) string {
	if ref.Tenant == backends.DefaultTenant {
		return ref.Name
	}
	return ref.Tenant + ":" + ref.Name
}

// blockers are what keeps a rotation of the secret from beginning, or the one
// under way from going on.
func (e *Engine) blockers(x *rotating, seen rotation.Seen) []rotation.Blocker {
	var out []rotation.Blocker
	add := func(on bool, waitingFor, detail, mend string) {
		if on {
			out = append(out, rotation.Blocker{WaitingFor: waitingFor, Detail: detail, Mend: mend})
		}
	}
	name := qualified(x.secret.Ref)
	r := seen.Rotation
	free := r == nil || !r.State.Occupies() // another one could begin
	routine := free || !r.Emergency()       // what an emergency is not held by
	queued := free || r.State == rotation.Queued
	add(free && x.secret.State == rotation.SecretUnmanaged, "configuration", "its block was taken out of the configuration", "put it back and `keybroker reload`")
	add(free && x.secret.Definition.Issuer == "", "configuration", "its block names no issuer: nobody can rotate it", "name an issuer in its block and `keybroker reload`")
	add(routine && x.facts.Frozen, rotation.WaitFreeze, "everything is frozen: "+seen.Freeze.Reason+" (by "+seen.Freeze.By+")", "`keybroker unfreeze`")
	add(routine && queued && x.facts.Paused, rotation.WaitPause, "the secret is paused", "`keybroker secret resume "+name+"`")
	add(routine && x.facts.OutOfStep, rotation.WaitRepair, x.r.Error, "`keybroker secret repair "+name+"`")
	add(routine && queued && !x.facts.ClosedUntil.IsZero(), rotation.WaitWindow, x.secret.Definition.Opens(x.facts.ClosedUntil),
		"it begins then, or now by `keybroker secret rotate "+name+" --ignore-window`")
	add(x.facts.BackendDown, rotation.WaitBackend, x.r.Error, "make the vault usable again; it is tried once a minute")
	add(x.facts.IssuerFull, rotation.WaitIssuer, x.r.Error, "revoke a version that is not needed with `keybroker secret revoke`, or mend the issuer")
	if r == nil {
		return out
	}
	waits := r.WaitingFor == rotation.WaitIssuer || r.WaitingFor == rotation.WaitProbe || r.WaitingFor == rotation.WaitSeal || r.WaitingFor == rotation.WaitBackend
	add(waits && len(out) == 0, r.WaitingFor, r.Error, "`keybroker rotation retry "+r.ID+"` tries at once")
	add(r.State == rotation.Queued && r.Plan.Approval && r.ApprovedBy == "" && !r.Emergency(), rotation.WaitApproval,
		"rotation "+r.ID+" waits for an approval", "`keybroker rotation approve "+r.ID+"`, by somebody else than "+r.Actor)
	add(r.WaitingFor == rotation.WaitAcknowledgment, r.WaitingFor, "consumers have not acknowledged the new version", "`keybroker secret consumers "+name+"`")
	for i := range seen.Placements {
		p := &seen.Placements[i]
		add(r.WaitingFor == rotation.WaitMirror && p.Lags(), rotation.WaitMirror, lagging(p), "`keybroker drift list --secret "+name+"`")
	}
	return out
}

// lagging says how a mirror is behind.
func lagging(p *rotation.Placement) string {
	text := fmt.Sprintf("mirror %s is behind: it should hold version %d", p.Backend, p.Want)
	switch {
	case p.Drift != nil:
		text = fmt.Sprintf("mirror %s has drifted: %s", p.Backend, p.Drift.Detail)
	case p.Error != "":
		text += ": " + p.Error
	}
	return text
}
