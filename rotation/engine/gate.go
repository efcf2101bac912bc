package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// A rotation outside an emergency passes two gates as it begins to mint. That of its pair
// lets one through at a time, until the end of its overlap; that of its policy as many as
// max_concurrent, until each has published. Whether it may pass is decided in the
// transaction that begins the mint. Who waits at a gate is let through in the order of age,
// and woken in the transaction in which another one makes room: nobody asks every few
// seconds. The window is looked at by the clock alone.

// Gate is one of the two, of one pair or policy.
type Gate struct {
	Kind string // rotation.WaitPair or WaitConcurrency, for which those wait who stand at it
	// Of a pair, and the tenant whose it is.
	Tenant, Pair string
	Policy       string
	Room         int // how many may be through it at once
}

func (g Gate) key() string { return g.Kind + " " + g.Tenant + " " + g.Pair + g.Policy }

// gatesOf are the gates that rotations of a secret pass, always in this order.
func gatesOf(s rotation.Secret) []Gate {
	var out []Gate
	if d := s.Definition; d.Pair != "" {
		out = append(out, Gate{Kind: rotation.WaitPair, Tenant: s.Ref.Tenant, Pair: d.Pair, Room: 1})
	}
	if d := s.Definition; d.Policy != "" && d.MaxConcurrent > 0 {
		out = append(out, Gate{Kind: rotation.WaitConcurrency, Policy: d.Policy, Room: d.MaxConcurrent})
	}
	return out
}

// claims tells whether a rotation stands at the gate or is through it, and not yet beyond.
func (g Gate) claims(r rotation.Rotation) bool {
	switch r.State {
	case rotation.Queued:
		return r.WaitingFor == g.Kind
	case rotation.Overlap:
		return g.Kind == rotation.WaitPair
	case rotation.Minting: // a person may take days, in which others of the policy go on
		return g.Kind == rotation.WaitPair || !r.AwaitsValue()
	}
	return r.State.Occupies()
}

// lookAtGates notes at which gate the queued rotation has to wait, if at any. The secret
// is as it is configured now, not as it was when the rotation was asked for.
func (e *Engine) lookAtGates(ctx context.Context, tx Tx, x *rotating, now rotation.Secret) error {
	x.facts.Gate, x.facts.ClosedUntil = "", zeroTime
	if x.r.Emergency() || x.r.State != rotation.Queued {
		return nil
	}
	if err := e.lookAtWindow(ctx, tx, x, now); err != nil || !x.facts.ClosedUntil.IsZero() {
		return err
	}
	for _, g := range gatesOf(now) {
		shut, err := g.shut(ctx, tx, x.r)
		if err != nil {
			return fmt.Errorf("looking whether it has to wait for its %s: %w", g.Kind, err)
		}
		if shut {
			x.facts.Gate = g.Kind
			return nil
		}
	}
	return nil
}

// shut tells whether the gate's room is taken, by those who are through it and those who
// have waited longer.
func (g Gate) shut(ctx context.Context, tx Tx, r rotation.Rotation) (bool, error) {
	through, err := tx.Through(ctx, g, r.SecretID)
	free := g.Room - len(through)
	if err != nil || free <= 0 {
		return err == nil, err
	}
	ahead, err := tx.Waiters(ctx, g, r.ID, free)
	return len(ahead) >= free, err
}

// lookAtWindow notes until when the rotation waits for the window, and whether it begins
// in spite of it, since it opens too late.
func (e *Engine) lookAtWindow(ctx context.Context, tx Tx, x *rotating, s rotation.Secret) error {
	x.inSpite = false
	if s.Definition.Window == "" || x.r.IgnoreWindow {
		return nil
	}
	current, err := currentOf(ctx, tx, s)
	if err != nil {
		return err
	}
	now := e.Now()
	at, inSpite, err := rotation.MayBegin(s.Definition, current, now)
	if err != nil { // the configuration is checked as it is loaded
		e.Logger.Error("a window does not hold", "secret", s.Ref, "error", err)
		return nil
	}
	if at.After(now) {
		x.facts.ClosedUntil = at
	} else {
		x.inSpite = inSpite
	}
	return nil
}

// errShut: a gate was passed by somebody else since it was looked at, or the window has closed.
var errShut = fmt.Errorf("%w: another rotation came first, or its window has closed", backends.ErrConflict)

// pass refuses inside tx, which begins the mint of a queued rotation, what has to wait at
// a gate after all. Nobody else decides about the same gate until tx ends.
func (e *Engine) pass(ctx context.Context, tx Tx, x *rotating) error {
	if x.r.State != rotation.Queued || x.r.Emergency() {
		return nil
	}
	s, err := e.atGates(ctx, tx, x.r.SecretID)
	if err != nil {
		return err
	}
	if err := e.lookAtGates(ctx, tx, x, s); err != nil {
		return err
	}
	if x.facts.Gate != "" || !x.facts.ClosedUntil.IsZero() {
		return errShut
	}
	if x.inSpite {
		x.r.IgnoreWindow = true
		x.r.Reason = strings.TrimPrefix(x.r.Reason+"; outside of its window, which opens too late", "; ")
	}
	return nil
}

// atGates reads the secret and keeps everybody else from its gates until tx ends.
func (e *Engine) atGates(ctx context.Context, tx Tx, secretID string) (rotation.Secret, error) {
	s, err := tx.Secret(ctx, secretID)
	if err != nil {
		return s, err
	}
	for _, g := range gatesOf(s) {
		if err := tx.Serialize(ctx, g.key()); err != nil {
			return s, err
		}
	}
	return s, nil
}

// wasLetIn tells whether the gate that act waits at has opened meanwhile: who waits at it
// only after that is woken by nobody.
func (e *Engine) wasLetIn(ctx context.Context, tx Tx, x *rotating) (bool, error) {
	s, err := e.atGates(ctx, tx, x.r.SecretID)
	if err != nil {
		return false, err
	}
	now := *x
	err = e.lookAtGates(ctx, tx, &now, s)
	return err == nil && now.facts.Gate == "" && now.facts.ClosedUntil.IsZero(), err
}

// moved lets the next one in where a rotation that stood at a gate, or was through it, is
// beyond it now. Whoever is at that one already sees for himself.
func (e *Engine) moved(ctx context.Context, tx Tx, before, after rotation.Rotation) error {
	left := func(kind string) bool { g := Gate{Kind: kind}; return g.claims(before) && !g.claims(after) }
	if !left(rotation.WaitPair) && !left(rotation.WaitConcurrency) {
		return nil
	}
	s, err := tx.Secret(ctx, after.SecretID)
	if err != nil {
		return err
	}
	for _, g := range gatesOf(s) {
		if !left(g.Kind) {
			continue
		}
		if err := e.letIn(ctx, tx, g, after.ID); err != nil {
			return fmt.Errorf("waking who waits for its %s: %w", g.Kind, err)
		}
	}
	return nil
}

// letIn wakes the rotation that has waited longest at a gate, other than the one that left.
func (e *Engine) letIn(ctx context.Context, tx Tx, g Gate, left string) error {
	if err := tx.Serialize(ctx, g.key()); err != nil {
		return err
	}
	waiting, err := tx.Waiters(ctx, g, "", 2)
	if err != nil {
		return err
	}
	for _, id := range waiting {
		if id == left {
			continue
		}
		if err := e.thaw(ctx, tx, id, g.Kind); err != nil && !errors.Is(err, backends.ErrConflict) {
			return err
		}
		break
	}
	return nil
}
