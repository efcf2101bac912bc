package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// afterRevoke does what follows an acknowledged revocation at issuers that can: it
// ends what was derived from the credential. The function that it returns records
// the result, and when what is only disabled is to be removed.
func (e *Engine) afterRevoke(ctx context.Context, x *retiring, err error) func(*rotation.Retirement) {
	is, issuerErr := e.issuer(x.version.Issuer)
	if err != nil || issuerErr != nil {
		return func(*rotation.Retirement) {}
	}
	traits := issuer.TraitsOf(is, x.version.Settings)
	_, removes := is.(issuer.Remover)
	sessions := e.endSessions(ctx, is, x)
	return func(t *rotation.Retirement) {
		if removes && traits.Soak > 0 {
			t.RemovesAt(e.Now().Add(traits.Soak))
		}
		e.noteSessions(t, sessions)
	}
}

// endSessions asks the issuer to end what was derived from the credential; empty if
// it cannot.
func (e *Engine) endSessions(ctx context.Context, is issuer.Issuer, x *retiring) rotation.Sessions {
	ender, ok := is.(issuer.SessionEnder)
	if !ok {
		return ""
	}
	var h issuer.Handle = x.version.Handle
	if h == nil { // it was found, and recorded, just now
		err := e.Store.View(ctx, func(tx Tx) error {
			v, err := tx.Version(ctx, x.t.SecretID, x.t.Version)
			h = v.Handle
			return err
		})
		if err != nil || h == nil {
			return ""
		}
	}
	err := ender.EndSessions(ctx, e.subject(x.secret, x.version), h)
	switch {
	case err == nil:
		return rotation.SessionsEnded
	case errors.Is(err, backends.ErrUnsupported):
		return ""
	}
	e.Logger.Warn("what was derived from a revoked credential could not be ended, and will be tried again", "secret", x.secret.Ref, "version", x.t.Version, "error", err)
	return rotation.SessionsPending
}

func (e *Engine) noteSessions(t *rotation.Retirement, s rotation.Sessions) {
	if s == "" {
		return
	}
	if t.Sessions = s; s == rotation.SessionsEnded {
		t.SessionsEndedAt = e.Now()
	}
}

// sessionsAgain ends, before a round, what was derived from the credential since the
// issuer was asked last: until the news has spread there may be more.
func (e *Engine) sessionsAgain(ctx context.Context, x *retiring, effect rotation.Effect) rotation.Sessions {
	if x.t.Sessions == "" || x.t.Sessions == rotation.SessionsEnded && effect != rotation.DeathRound {
		return ""
	}
	is, err := e.issuer(x.version.Issuer)
	if err != nil {
		return ""
	}
	return e.endSessions(ctx, is, x)
}

// remove deletes for good what is disabled.
func (e *Engine) remove(ctx context.Context, x *retiring) error {
	is, err := e.issuer(x.version.Issuer)
	remover, ok := is.(issuer.Remover)
	switch {
	case err != nil:
	case !ok:
		err = fmt.Errorf("%w: issuer %s removes nothing", backends.ErrUnsupported, x.version.Issuer)
	default:
		if err := e.beginRetirement(ctx, x, rotation.Remove, nil); err != nil {
			return err
		}
		cctx, cancel := context.WithTimeout(ctx, effectTimeout)
		defer cancel()
		err = remover.Remove(cctx, e.subject(x.secret, x.version), x.version.Handle)
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return e.saveRetirement(ctx, x, func(ctx context.Context, tx Tx) error {
		if err != nil {
			e.Logger.Warn("a disabled credential could not be removed", "secret", x.secret.Ref, "version", x.t.Version, "error", err)
			if !errors.Is(err, backends.ErrUnsupported) {
				x.t.RemoveFailed(err.Error(), e.Now())
				return nil
			}
			x.t.NotRemovable(err.Error(), e.Now())
			if err := e.auditFailed(ctx, tx, x, err); err != nil {
				return err
			}
			return e.wakeQueued(ctx, tx, x.t.SecretID)
		}
		x.t.Removed(e.Now())
		if err := e.audit(ctx, tx, x.secret.Ref, "retirement.remove", "ok", map[string]string{"retirement": x.t.ID, "version": fmt.Sprint(x.t.Version)}); err != nil {
			return err
		}
		return e.wakeQueued(ctx, tx, x.t.SecretID)
	})
}

// auditFailed says that what is disabled stays so: nobody removes it.
func (e *Engine) auditFailed(ctx context.Context, tx Tx, x *retiring, cause error) error {
	return e.audit(ctx, tx, x.secret.Ref, "retirement.remove", "failed", map[string]string{"retirement": x.t.ID, "version": fmt.Sprint(x.t.Version), "error": cause.Error()})
}

// makeRoom ends the soak of what takes a place that an emergency needs.
func (e *Engine) makeRoom(ctx context.Context, tx Tx, secretID string) error {
	retirements, err := retirementsByVersion(ctx, tx, secretID)
	if err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(retirements)) {
		t := retirements[n]
		if !t.RemoveNow(e.Now()) {
			continue
		}
		if err := tx.SaveRetirement(ctx, t); err != nil {
			return err
		}
		if err := tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true)); err != nil {
			return err
		}
	}
	return nil
}

// wakeQueued lets a rotation look again that waits for a place at its issuer.
func (e *Engine) wakeQueued(ctx context.Context, tx Tx, secretID string) error {
	r, err := tx.Occupying(ctx, secretID)
	if notFound(err) || err == nil && (r.State != rotation.Queued || r.WaitingFor != rotation.WaitIssuer) {
		return nil
	}
	if err != nil {
		return err
	}
	r.NextAt = e.Now()
	if err := tx.SaveRotation(ctx, &r); err != nil && !isConflict(err) {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, zeroTime, r.Emergency()))
}

// lastUsed asks the issuer when the version that is about to be revoked was used.
func (e *Engine) lastUsed(ctx context.Context, x *rotating) (use issuer.Use, known bool) {
	var v rotation.Version
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		v, err = tx.Version(ctx, x.r.SecretID, x.r.From)
		return err
	})
	if err != nil || v.Handle == nil || x.r.From == 0 {
		return use, false
	}
	is, err := e.issuer(v.Issuer)
	if err != nil {
		return use, false
	}
	reporter, ok := is.(issuer.UseReporter)
	if !ok {
		return use, false
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if use, err = reporter.LastUsed(ctx, e.subject(x.secret, v), v.Handle); err != nil {
		e.Logger.Warn("the issuer does not say when the previous version was last used", "secret", x.secret.Ref, "error", err)
		return use, false
	}
	return use, true
}

// lastUse says it for people.
func lastUse(u issuer.Use) string {
	text := "never used, as far as its issuer knows"
	if !u.At.IsZero() {
		text = "last used at " + stamp(u.At)
	}
	if u.Where != "" {
		text += " (" + u.Where + ")"
	}
	return text
}

// noteUse records the last use with the retirement of what is being replaced.
func noteUse(ctx context.Context, tx Tx, r rotation.Rotation, u issuer.Use) error {
	t, err := tx.RetirementOf(ctx, r.SecretID, r.From)
	if err != nil {
		return err
	}
	t.LastUsedAt, t.LastUse = u.At, lastUse(u)
	return tx.SaveRetirement(ctx, &t)
}
