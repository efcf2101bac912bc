package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// What operators ask for. Each of these runs inside tx and says in sentences what
// follows; a dry run is the same in a transaction that is not committed. What is
// being done at that moment loses the compare-and-swap, and what it made is
// recorded and retired.

// operate changes one rotation as an operator asks, and records who did.
func (e *Engine) operate(ctx context.Context, tx Tx, id, action string, asked Asked, change func(*rotation.Rotation) ([]string, error)) (rotation.Rotation, rotation.Secret, []string, error) {
	r, err := tx.Rotation(ctx, id)
	if err != nil {
		return r, rotation.Secret{}, nil, err
	}
	s, err := tx.Secret(ctx, r.SecretID)
	if err != nil {
		return r, s, nil, err
	}
	before := r
	will, err := change(&r)
	if err != nil {
		return r, s, nil, err
	}
	if err := e.moved(ctx, tx, before, r); err != nil {
		return r, s, nil, err
	}
	if err := tx.SaveRotation(ctx, &r); err != nil {
		return r, s, nil, err
	}
	err = tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: s.Ref.Tenant, Actor: asked.By, Action: action,
		Path: s.Ref.Name, Secret: s.Ref.String(), Outcome: "ok", Detail: map[string]string{"rotation": r.ID, "reason": asked.Reason}})
	if err != nil {
		return r, s, nil, err
	}
	return r, s, will, tx.Enqueue(ctx, wakeUp(rotationJob{r.ID}, zeroTime, r.Emergency()))
}

// Approve lets a rotation begin that waits for it; see rotation.Rotation.Approve.
func (e *Engine) Approve(ctx context.Context, tx Tx, id string, asked Asked) (rotation.Rotation, []string, error) {
	r, _, will, err := e.operate(ctx, tx, id, "rotation.approve", asked, func(r *rotation.Rotation) ([]string, error) {
		return r.Approve(asked.By, asked.Lineage, e.Now())
	})
	if err != nil {
		return r, nil, err
	}
	return r, will, tx.EndStep(ctx, id, "approve", "ok", "by "+asked.By, e.Now())
}

// Cancel ends a rotation that has published nothing, or only waits for a proof.
func (e *Engine) Cancel(ctx context.Context, tx Tx, id string, asked Asked) (rotation.Rotation, []string, error) {
	var was rotation.State
	var unsent bool // of what it is minting nobody has heard anything
	r, s, will, err := e.operate(ctx, tx, id, "rotation.cancel", asked, func(r *rotation.Rotation) ([]string, error) {
		was, unsent = r.State, r.State == rotation.Minting && r.Intent == nil && !r.AwaitsValue()
		if r.Emergency() && r.State.Occupies() && r.From > 0 && !slices.Contains(r.Compromised, r.From) {
			return nil, fmt.Errorf("%w: the vault may hold a compromised version, which rotation %s replaces: let it end", backends.ErrConflict, r.ID)
		}
		return r.Cancel(asked.By, e.Now())
	})
	if err != nil {
		return r, nil, err
	}
	if was == rotation.Overlap { // only its rollback was withdrawn
		return r, will, tx.EndStep(ctx, id, stepRollback, "cancelled", asked.Reason, e.Now())
	}
	if err := tx.EndStep(ctx, id, stepName(was), "cancelled", asked.Reason, e.Now()); err != nil {
		return r, nil, err
	}
	if was == rotation.Retiring {
		return r, will, nil
	}
	if unsent && r.To > 0 {
		if err := closeUnsent(ctx, tx, r); err != nil {
			return r, nil, err
		}
	}
	if err := e.containNow(ctx, tx, &rotating{r: r, secret: s}, e.Now()); err != nil {
		return r, nil, err // there is no replacement to wait for any more
	}
	if r.To > 0 {
		err = e.discardPending(ctx, tx, r, e.Now())
	}
	return r, will, err
}

// closeUnsent closes the version of a mint whose request certainly did not reach its
// issuer: there is nothing to retire.
func closeUnsent(ctx context.Context, tx Tx, r rotation.Rotation) error {
	v, err := tx.Version(ctx, r.SecretID, r.To)
	if err != nil || v.Stage != rotation.StagePending || v.Handle != nil {
		return err
	}
	v.Stage, v.Sealed = rotation.StageRetired, nil
	return tx.SaveVersion(ctx, &v)
}

// Retry lets a rotation that waits look again now. Of one that failed, was
// cancelled or rolled back it starts another, which is returned.
func (e *Engine) Retry(ctx context.Context, tx Tx, id string, asked Asked) (rotation.Rotation, []string, error) {
	r, err := tx.Rotation(ctx, id)
	if err != nil {
		return r, nil, err
	}
	switch r.State {
	case rotation.Failed, rotation.Cancelled, rotation.RolledBack:
		if r.Adopts != nil {
			next, err := e.adopt(ctx, tx, r.SecretID, *r.Adopts, Asked{By: asked.By, Lineage: asked.Lineage, Reason: retryReason(r, asked)})
			return next, []string{"another adoption of the same value waits until somebody else approves it"}, err
		}
		next, err := e.Rotate(ctx, tx, r.SecretID, rotation.TriggerManual, Asked{By: asked.By, Lineage: asked.Lineage, Reason: retryReason(r, asked)})
		return next, []string{"another rotation of the same secret begins"}, err
	case rotation.Retiring:
		return e.retryRetiring(ctx, tx, r, asked)
	}
	if f, err := tx.Freeze(ctx); err == nil && !r.Emergency() {
		return r, nil, fmt.Errorf("%w: everything is frozen by %s (%s): `keybroker unfreeze`", backends.ErrConflict, f.By, f.Reason)
	}
	r, _, will, err := e.operate(ctx, tx, id, "rotation.retry", asked, func(r *rotation.Rotation) ([]string, error) { return r.Retry(e.Now()) })
	return r, will, err
}

func retryReason(r rotation.Rotation, asked Asked) string {
	if asked.Reason != "" {
		return asked.Reason
	}
	return "retry of " + r.ID
}

// retryRetiring hurries the proofs that a rotation waits for.
func (e *Engine) retryRetiring(ctx context.Context, tx Tx, r rotation.Rotation, asked Asked) (rotation.Rotation, []string, error) {
	var will []string
	var refused []error
	for _, n := range r.Retires() {
		t, err := tx.RetirementOf(ctx, r.SecretID, n)
		if notFound(err) || err == nil && t.Settled() {
			continue
		}
		if err != nil {
			return r, nil, err
		}
		_, w, err := e.hurry(ctx, tx, t, "rotation.retry", asked)
		if isConflict(err) && !errors.Is(err, errStale) {
			refused = append(refused, err)
			continue
		}
		if err != nil {
			return r, nil, err
		}
		will = append(will, w...)
	}
	if len(will) == 0 {
		err := fmt.Errorf("%w: nothing about rotation %s can be tried again now; `keybroker rotation cancel %s` ends it without the proof", backends.ErrConflict, r.ID, r.ID)
		return r, nil, errors.Join(append([]error{err}, refused...)...)
	}
	return r, will, nil
}

// hurry lets a retirement go on now: its revocation if that has failed, or a
// round of tries.
func (e *Engine) hurry(ctx context.Context, tx Tx, t rotation.Retirement, action string, asked Asked) (rotation.Retirement, []string, error) {
	s, err := tx.Secret(ctx, t.SecretID)
	if err != nil {
		return t, nil, err
	}
	will, err := t.ProbeNow(e.Now())
	if t.State == rotation.Requested && action == "rotation.retry" {
		will, err = t.Retry(e.Now())
	}
	if err != nil {
		return t, nil, err
	}
	if err := tx.SaveRetirement(ctx, &t); err != nil {
		return t, nil, fmt.Errorf("%w: %w", errStale, err)
	}
	err = tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: s.Ref.Tenant, Actor: asked.By, Action: action, Path: s.Ref.Name, Secret: s.Ref.String(),
		Outcome: "ok", Detail: map[string]string{"retirement": t.ID, "version": fmt.Sprint(t.Version), "reason": asked.Reason}})
	if err != nil {
		return t, nil, err
	}
	return t, will, tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true))
}

// errStale tells a lost compare-and-swap from a refusal.
var errStale = errors.New("the record has changed")

// ProbeNow asks for a round of tries of a revoked version now.
func (e *Engine) ProbeNow(ctx context.Context, tx Tx, id string, asked Asked) (rotation.Retirement, []string, error) {
	t, err := tx.Retirement(ctx, id)
	if err != nil {
		return t, nil, err
	}
	return e.hurry(ctx, tx, t, "retirement.probe", asked)
}

// RollBack asks for the version that a rotation replaced to be made current again.
func (e *Engine) RollBack(ctx context.Context, tx Tx, id string, asked Asked) (rotation.Rotation, []string, error) {
	r, _, will, err := e.operate(ctx, tx, id, "rotation.rollback", asked, func(r *rotation.Rotation) ([]string, error) {
		if r.State == rotation.Overlap {
			if _, err := tx.RetirementOf(ctx, r.SecretID, r.From); !notFound(err) {
				return nil, errors.Join(err, fmt.Errorf("%w: the retirement of version %d was requested: it cannot come back; rotate again instead", backends.ErrConflict, r.From))
			}
		}
		return r.RollBack(asked.By, e.Now())
	})
	if err != nil {
		return r, nil, err
	}
	return r, will, tx.StartStep(ctx, id, stepRollback, e.Now())
}

// Freeze freezes everything; see rotation.Freeze.
func (e *Engine) Freeze(ctx context.Context, tx Tx, asked Asked) (rotation.Freeze, []string, error) {
	switch f, err := tx.Freeze(ctx); {
	case err == nil:
		return f, nil, fmt.Errorf("%w: everything is frozen by %s since %s: %s", backends.ErrConflict, f.By, f.At.UTC().Format("2006-01-02T15:04:05Z"), f.Reason)
	case !notFound(err):
		return f, nil, err
	}
	f := rotation.Freeze{By: asked.By, Reason: asked.Reason, At: e.Now()}
	if err := tx.SetFreeze(ctx, &f); err != nil {
		return f, nil, err
	}
	will := []string{
		"no rotation begins, publishes or ends its overlap, of any secret",
		"nothing is revoked, except in an emergency or by `keybroker secret revoke`; `keybroker rotation rollback` works too",
		"what has begun at an issuer or vault is finished; probing and deliveries go on; reads are served",
	}
	return f, will, e.auditFreeze(ctx, tx, "sys.freeze", asked)
}

// Unfreeze ends a freeze and wakes whatever waited for that.
func (e *Engine) Unfreeze(ctx context.Context, tx Tx, asked Asked) ([]string, error) {
	if _, err := tx.Freeze(ctx); err != nil {
		if notFound(err) {
			err = fmt.Errorf("%w: nothing is frozen", backends.ErrConflict)
		}
		return nil, err
	}
	if err := tx.SetFreeze(ctx, nil); err != nil {
		return nil, err
	}
	held, err := tx.Waiting(ctx, rotation.WaitFreeze)
	if err != nil {
		return nil, err
	}
	for _, id := range held.Rotations {
		if err := e.thaw(ctx, tx, id, rotation.WaitFreeze); err != nil {
			return nil, err
		}
	}
	for _, id := range held.Retirements {
		if err := e.thawRetirement(ctx, tx, id, rotation.WaitFreeze); err != nil {
			return nil, err
		}
	}
	will := []string{fmt.Sprintf("%s and %s that waited for it go on", counted(len(held.Rotations), "rotation"), counted(len(held.Retirements), "retirement"))}
	return will, e.auditFreeze(ctx, tx, "sys.unfreeze", asked)
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// thaw lets a rotation that waits for what is over go on. That it is time is in
// its row too: a wake-up alone may come to nobody. One that a worker has taken up
// meanwhile is left to it, or its result would lose the row.
func (e *Engine) thaw(ctx context.Context, tx Tx, id, waitedFor string) error {
	r, err := tx.Rotation(ctx, id)
	if err != nil || r.WaitingFor != waitedFor {
		return err
	}
	r.NextAt = e.Now()
	if err := tx.SaveRotation(ctx, &r); err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(rotationJob{id}, zeroTime, r.Emergency()))
}

func (e *Engine) thawRetirement(ctx context.Context, tx Tx, id, waitedFor string) error {
	t, err := tx.Retirement(ctx, id)
	if err != nil || t.WaitingFor != waitedFor {
		return err
	}
	t.NextAt = e.Now()
	if err := tx.SaveRetirement(ctx, &t); err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(retirementJob{id}, zeroTime, true))
}

func (e *Engine) auditFreeze(ctx context.Context, tx Tx, action string, asked Asked) error {
	return tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Actor: asked.By, Action: action, Path: "sys/freeze", Outcome: "ok",
		Detail: map[string]string{"reason": asked.Reason}})
}

// Redeliver sends a delivery once more, from its first attempt. Only what tells of
// the newest generation is: an older one is never delivered after a newer one.
func (e *Engine) Redeliver(ctx context.Context, tx Tx, id string, asked Asked) (rotation.Delivery, []string, error) {
	d, err := tx.Delivery(ctx, id)
	if err != nil {
		return d, nil, err
	}
	if d.SecretID == "" {
		return d, nil, fmt.Errorf("%w: delivery %s was a test: `keybroker consumer test %s` makes another one", backends.ErrConflict, id, d.Consumer)
	}
	s, err := tx.Secret(ctx, d.SecretID)
	if err != nil {
		return d, nil, err
	}
	terms, _ := e.terms(d.Consumer)
	state, err := tx.ConsumerState(ctx, d.Consumer)
	if err != nil {
		return d, nil, err
	}
	if err := whyUntold(state, terms); err != nil {
		return d, nil, err
	}
	switch {
	case d.Generation != s.Generation || d.State == rotation.DeliverySuperseded:
		return d, nil, fmt.Errorf("%w: delivery %s tells of generation %d of %s, which is in generation %d by now", backends.ErrConflict, id, d.Generation, s.Ref, s.Generation)
	case d.State == rotation.DeliveryPending:
		d.NextAttemptAt = e.Now()
	default:
		d.State, d.Attempts, d.NextAttemptAt, d.Error = rotation.DeliveryPending, 0, e.Now(), ""
		d.Since, d.Instances = e.Now(), max(terms.Instances, 1)
		d.ReceivedAt, d.FetchedAt, d.AppliedAt = zeroTime, zeroTime, zeroTime // it is told, and acknowledges, anew
		if err := tx.DropAcks(ctx, id); err != nil {
			return d, nil, err
		}
	}
	if terms.Inbox {
		d.NextAttemptAt, d.Lease = zeroTime, zeroTime
	}
	if err := tx.SaveDelivery(ctx, &d); err != nil {
		return d, nil, err
	}
	err = tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: d.Ref.Tenant, Actor: asked.By, Action: "delivery.replay", Path: d.Ref.Name, Secret: d.Ref.String(),
		Outcome: "ok", Detail: map[string]string{"delivery": id, "consumer": d.Consumer, "reason": asked.Reason}})
	if err != nil {
		return d, nil, err
	}
	did := []string{fmt.Sprintf("%s is told again of version %d (generation %d)", d.Consumer, d.Version, d.Generation)}
	if terms.Inbox {
		return d, did, nil
	}
	return d, did, tx.Enqueue(ctx, pushNow(DueDelivery{ID: id, Consumer: d.Consumer, SecretID: d.SecretID}))
}
