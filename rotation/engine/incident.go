package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// ErrNothingAlive: no version of a secret can be alive, so there is nothing to turn off.
var ErrNothingAlive = fmt.Errorf("%w: no version of it can be alive, there is nothing to turn off", backends.ErrConflict)

const (
	// AtOnce is how many targets are declared together with their incident. What is more
	// follows in transactions of some, so that the first are contained while the last are
	// declared.
	AtOnce = 10
	// inTheNext is how many follow in one transaction.
	inTheNext = 25
	// A target that could not be declared is tried again more and more rarely.
	failedFirst = 5 * time.Second
	failedLast  = 5 * time.Minute
)

type incidentJob struct {
	ID string `json:"id"`
}

// Kind names the job in River's table.
func (incidentJob) Kind() string { return "incident" }

// OpenIncident records an incident inside tx and, unless it is only proposed, declares
// the emergencies of its targets, or begins to. Where these are few and an open incident
// is about just what they began, and joins (nil: any), *i becomes that one, and reused is
// true. ErrNothingAlive if none of few can be alive; ErrConflict if there is an incident
// of its id.
func (e *Engine) OpenIncident(ctx context.Context, tx Tx, i *rotation.Incident, targets []rotation.Target, joins func(rotation.Incident) bool) (reused bool, err error) {
	now := e.Now()
	if i.ID == "" {
		i.ID = newID()
	}
	if i.DeclaredAt, i.NextAt = now, now; i.DetectedAt.IsZero() {
		i.DetectedAt = now
	}
	for n := range targets {
		targets[n].IncidentID, targets[n].State = i.ID, rotation.TargetPending
	}
	var begun []declaredTarget
	if i.State == rotation.IncidentProposed {
		i.NextAt = i.ApproveBy
	} else if len(targets) <= AtOnce {
		if begun, err = e.declareFew(ctx, tx, *i, targets); err != nil {
			return false, err
		}
		same, err := sameIncident(ctx, tx, begun, joins)
		if err != nil {
			return false, err
		}
		if same != nil {
			*i = *same
			return true, nil
		}
	}
	if err := tx.AddIncident(ctx, i, targets); err != nil {
		return false, err
	}
	for _, d := range begun {
		if err := tx.SaveTarget(ctx, d.Target, d.compromised); err != nil {
			return false, err
		}
	}
	if err := e.auditIncident(ctx, tx, *i, "incident.open", i.Actor, map[string]string{"reason": i.Reason, "cause": string(i.Cause), "state": string(i.State), "secrets": fmt.Sprint(len(targets))}); err != nil {
		return false, err
	}
	return false, tx.Enqueue(ctx, wakeUp(incidentJob{i.ID}, i.NextAt, true))
}

// declaredTarget is a target with what its emergency turns off.
type declaredTarget struct {
	rotation.Target
	compromised []rotation.Compromised
}

func (e *Engine) declareFew(ctx context.Context, tx Tx, i rotation.Incident, targets []rotation.Target) ([]declaredTarget, error) {
	var begun []declaredTarget
	alive := len(targets) == 0
	for _, t := range targets {
		d, err := e.declareTarget(ctx, tx, i, t)
		if err != nil {
			return nil, err
		}
		alive = alive || d.State != rotation.TargetNothingAlive
		begun = append(begun, d)
	}
	if !alive {
		return nil, ErrNothingAlive
	}
	return begun, nil
}

// sameIncident returns the oldest open incident that is about everything which was begun,
// of those that joins, if there is one.
func sameIncident(ctx context.Context, tx Tx, begun []declaredTarget, joins func(rotation.Incident) bool) (*rotation.Incident, error) {
	var common []string
	for n, d := range begun {
		if d.State != rotation.TargetDeclared {
			return nil, nil
		}
		of, err := tx.IncidentsOfRotation(ctx, d.RotationID)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			common = of
		}
		common = slices.DeleteFunc(common, func(id string) bool { return !slices.Contains(of, id) })
	}
	for _, id := range common {
		i, err := tx.Incident(ctx, id)
		if err != nil {
			return nil, err
		}
		if i.Over() || joins != nil && !joins(i) {
			continue
		}
		for _, d := range begun { // an emergency that was widened since is about more
			d.IncidentID = id
			if err := tx.SaveTarget(ctx, d.Target, d.compromised); err != nil {
				return nil, err
			}
		}
		return &i, nil
	}
	return nil, nil
}

// declareTarget declares the emergency of one target inside tx. What of its versions is
// dead already is only tried again, and what never was is left out.
func (e *Engine) declareTarget(ctx context.Context, tx Tx, i rotation.Incident, t rotation.Target) (declaredTarget, error) {
	asked := Asked{By: i.Actor, Lineage: i.Lineage, Reason: i.Reason, Role: i.Role, Identity: i.Identity}
	d := declaredTarget{Target: t}
	d.Error, d.State = "", rotation.TargetNothingAlive
	var alive []int
	for _, n := range t.Versions {
		r, why, err := e.pinned(ctx, tx, t.SecretID, n, asked)
		switch {
		case err != nil:
			return d, err
		case why != "":
			d.Error = strings.TrimPrefix(d.Error+"; "+why, "; ")
			continue
		case r == nil || r.MayLive():
			alive = append(alive, n)
			continue
		case r.State == rotation.ProvenDead || r.NeverMade:
			if d.State == rotation.TargetNothingAlive {
				d.State = rotation.TargetAlreadyDead
			}
		default:
			d.State = rotation.TargetUnprovable
		}
		d.compromised = append(d.compromised, rotation.Compromised{SecretID: t.SecretID, Version: n, Retirement: *r})
	}
	if len(t.Versions) > 0 && len(alive) == 0 {
		return d, nil
	}
	r, err := e.Declare(ctx, tx, t.SecretID, Emergency{Asked: asked, Versions: alive, Contain: i.Contain, Overwrite: i.Overwrite})
	if errors.Is(err, ErrNothingAlive) || notFound(err) {
		d.State, d.Error = rotation.TargetNothingAlive, err.Error()
		return d, nil
	}
	if err != nil {
		return d, err
	}
	d.State, d.RotationID = rotation.TargetDeclared, r.ID
	for _, n := range r.Compromised {
		if len(t.Versions) > 0 && !slices.Contains(alive, n) {
			continue // of another incident
		}
		turned, err := tx.RetirementOf(ctx, t.SecretID, n)
		if err != nil {
			return d, err
		}
		d.compromised = append(d.compromised, rotation.Compromised{SecretID: t.SecretID, Version: n, Retirement: turned})
	}
	return d, nil
}

// pinned looks a version up that is to be turned off: with its retirement, if it has one,
// which is tried again if it is over; or why there is nothing to turn off.
func (e *Engine) pinned(ctx context.Context, tx Tx, secretID string, number int, asked Asked) (*rotation.Retirement, string, error) {
	r, err := tx.RetirementOf(ctx, secretID, number)
	if err == nil && !r.MayLive() {
		r, err = e.tryAgain(ctx, tx, r, asked)
	}
	if err == nil || !notFound(err) {
		return &r, "", err
	}
	v, err := tx.Version(ctx, secretID, number)
	switch {
	case notFound(err):
		return nil, fmt.Sprintf("there is no version %d", number), nil
	case err == nil && v.Stage == rotation.StageRetired && !(v.Foreign() && v.Sealed != nil):
		return nil, fmt.Sprintf("version %d was never made", number), nil
	}
	return nil, "", err
}

// tryAgain has a version that is dead already tried once more, where that can be done.
func (e *Engine) tryAgain(ctx context.Context, tx Tx, t rotation.Retirement, asked Asked) (rotation.Retirement, error) {
	look := t
	if _, err := look.ProbeNow(e.Now()); err != nil {
		return t, nil // it cannot be, and what was proven stands
	}
	t, _, err := e.hurry(ctx, tx, t, "retirement.probe", asked)
	return t, err
}

// ApproveIncident lets an incident begin that waits for a second person.
func (e *Engine) ApproveIncident(ctx context.Context, tx Tx, id string, asked Asked) (rotation.Incident, error) {
	return e.changeIncident(ctx, tx, id, "incident.approve", asked, func(i *rotation.Incident) error {
		return i.Approve(asked.By, asked.Lineage, e.Now())
	})
}

// RejectIncident ends an incident that nobody has approved.
func (e *Engine) RejectIncident(ctx context.Context, tx Tx, id string, asked Asked) (rotation.Incident, error) {
	return e.changeIncident(ctx, tx, id, "incident.reject", asked, func(i *rotation.Incident) error {
		return i.Reject(asked.By, asked.Reason, e.Now())
	})
}

// CloseIncident ends an incident for people: what it has begun goes on.
func (e *Engine) CloseIncident(ctx context.Context, tx Tx, id string, hold bool, asked Asked) (rotation.Incident, error) {
	return e.changeIncident(ctx, tx, id, "incident.close", asked, func(i *rotation.Incident) error {
		return i.Close(asked.By, asked.Reason, hold, e.Now())
	})
}

// HoldIncident says whether what may be evidence is kept.
func (e *Engine) HoldIncident(ctx context.Context, tx Tx, id string, hold bool, asked Asked) (rotation.Incident, error) {
	action := map[bool]string{true: "incident.hold", false: "incident.release"}[hold]
	return e.changeIncident(ctx, tx, id, action, asked, func(i *rotation.Incident) error {
		i.Hold = hold
		return nil
	})
}

func (e *Engine) changeIncident(ctx context.Context, tx Tx, id, action string, asked Asked, change func(*rotation.Incident) error) (rotation.Incident, error) {
	i, err := tx.Incident(ctx, id)
	if err != nil {
		return i, err
	}
	if err := change(&i); err != nil {
		return i, err
	}
	if err := tx.SaveIncident(ctx, &i); err != nil {
		return i, err
	}
	if err := e.auditIncident(ctx, tx, i, action, asked.By, map[string]string{"reason": asked.Reason}); err != nil || i.NextAt.IsZero() {
		return i, err
	}
	return i, tx.Enqueue(ctx, wakeUp(incidentJob{i.ID}, zeroTime, true))
}

func (e *Engine) auditIncident(ctx context.Context, tx Tx, i rotation.Incident, action, by string, detail map[string]string) error {
	detail["incident"] = i.ID
	return tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: i.Tenant, Actor: by, Action: action, Path: "sys/incidents/" + i.ID, Outcome: "ok", Detail: detail})
}

// stepIncident declares what of an incident is not declared yet, and notes how far it is.
func (e *Engine) stepIncident(ctx context.Context, id string) (stepResult, error) {
	var i rotation.Incident
	var n rotation.Tally
	var left []rotation.Target
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		if i, err = tx.Incident(ctx, id); err != nil || i.State != rotation.IncidentOpen {
			return err
		}
		if left, err = tx.Undeclared(ctx, id, inTheNext); err != nil || pending(left) {
			return err // counting can wait: it looks at everything
		}
		if len(left) == inTheNext { // some that fail again and again hide no others
			if left, err = tx.Undeclared(ctx, id, sweepLimit); err != nil {
				return err
			}
		}
		n, err = tx.Tally(ctx, id)
		return err
	})
	if err != nil {
		return stepResult{}, fmt.Errorf("reading incident %s: %w", id, err)
	}
	switch {
	case i.State == rotation.IncidentProposed:
		return e.expire(ctx, i)
	case i.Over():
		return stepResult{}, nil
	case pending(left):
		return stepResult{again: true}, e.declareLeft(ctx, i, left)
	}
	if n.Failed > 0 {
		if err := e.declareLeft(ctx, i, left); err != nil {
			return stepResult{}, err
		}
		return e.later(ctx, i)
	}
	return e.note(ctx, i, n)
}

// later lets an incident some of whose targets could not be declared be looked at again.
func (e *Engine) later(ctx context.Context, i rotation.Incident) (stepResult, error) {
	now := e.Now()
	again := min(max(now.Sub(i.Began())/4, failedFirst), failedLast)
	i.NextAt = now.Add(again)
	until := stepResult{until: i.NextAt, job: incidentJob{i.ID}, urgent: true}
	if again < sweepEvery {
		return until, nil
	}
	return until, e.Store.Update(ctx, func(tx Tx) error { return tx.SaveIncident(ctx, &i) })
}

// pending tells whether any of what is left has not been tried yet: those come first.
func pending(left []rotation.Target) bool {
	return len(left) > 0 && left[0].State == rotation.TargetPending
}

// expire rejects an incident that nobody has approved in time.
func (e *Engine) expire(ctx context.Context, i rotation.Incident) (stepResult, error) {
	if e.Now().Before(i.ApproveBy) {
		return stepResult{until: i.ApproveBy, job: incidentJob{i.ID}, urgent: true}, nil
	}
	return stepResult{}, e.Store.Update(ctx, func(tx Tx) error {
		_, err := e.RejectIncident(ctx, tx, i.ID, Asked{By: "keybroker", Reason: "nobody has approved it in time"})
		return err
	})
}

// declareLeft declares some targets: together, or where that fails one by one, so that
// none stands in the way of another.
func (e *Engine) declareLeft(ctx context.Context, i rotation.Incident, left []rotation.Target) error {
	err := e.declareSome(ctx, i, left)
	if err == nil || ctx.Err() != nil {
		return err
	}
	for _, t := range left {
		err := e.declareSome(ctx, i, []rotation.Target{t})
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		if t.State == rotation.TargetFailed && t.Error == err.Error() {
			continue // it was said
		}
		e.Logger.Warn("an emergency could not be declared and will be tried again", "incident", i.ID, "secret", t.Ref, "error", err)
		t.State, t.Error = rotation.TargetFailed, err.Error()
		if err := e.Store.Update(ctx, func(tx Tx) error { return e.unlessDeclared(ctx, tx, t) }); err != nil {
			return err
		}
	}
	return nil
}

// declareSome declares targets in one transaction, those of them that nobody has
// declared meanwhile.
func (e *Engine) declareSome(ctx context.Context, i rotation.Incident, targets []rotation.Target) error {
	return e.Store.Update(ctx, func(tx Tx) error {
		if err := tx.Serialize(ctx, "incident/"+i.ID); err != nil {
			return err
		}
		now, err := tx.Incident(ctx, i.ID)
		if err != nil || now.State != rotation.IncidentOpen {
			return err
		}
		for _, t := range targets {
			have, err := tx.Target(ctx, i.ID, t.SecretID)
			if err != nil {
				return err
			}
			if have.State != rotation.TargetPending && have.State != rotation.TargetFailed {
				continue
			}
			d, err := e.declareTarget(ctx, tx, now, have)
			if err != nil {
				return err
			}
			if err := tx.SaveTarget(ctx, d.Target, d.compromised); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *Engine) unlessDeclared(ctx context.Context, tx Tx, t rotation.Target) error {
	have, err := tx.Target(ctx, t.IncidentID, t.SecretID)
	if err != nil || have.State != rotation.TargetPending && have.State != rotation.TargetFailed {
		return err
	}
	return tx.SaveTarget(ctx, t, nil)
}

// note records that an incident is contained or proven, or is so no more. While neither
// changes, and it is looked at often, nothing is written: the row stays due.
func (e *Engine) note(ctx context.Context, i rotation.Incident, n rotation.Tally) (stepResult, error) {
	before := i
	i.Looked(n, e.Now())
	until := stepResult{until: i.NextAt, job: incidentJob{i.ID}, urgent: true}
	same := i.ContainedAt.Equal(before.ContainedAt) && i.ProvenAt.Equal(before.ProvenAt)
	if same && i.NextAt.Sub(e.Now()) < sweepEvery {
		return until, nil
	}
	return until, e.Store.Update(ctx, func(tx Tx) error {
		if err := tx.SaveIncident(ctx, &i); err != nil {
			return err
		}
		for _, at := range []struct {
			what        string
			before, now time.Time
		}{{"incident.contained", before.ContainedAt, i.ContainedAt}, {"incident.proven", before.ProvenAt, i.ProvenAt}} {
			if at.now.IsZero() || !at.before.IsZero() {
				continue
			}
			if err := e.auditIncident(ctx, tx, i, at.what, "keybroker", map[string]string{"versions": fmt.Sprint(n.Versions), "at": at.now.UTC().Format(time.RFC3339Nano)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// resurrected makes an incident of a version that was proven dead and was accepted again,
// unless one that is open is about it already: then that one is not over.
func (e *Engine) resurrected(ctx context.Context, tx Tx, x *retiring) error {
	open, err := tx.IncidentsOfVersion(ctx, x.t.SecretID, x.t.Version)
	if err != nil {
		return err
	}
	now := e.Now()
	for _, id := range slices.Backward(open) {
		i, err := tx.Incident(ctx, id)
		if err != nil {
			return err
		}
		if i.State != rotation.IncidentOpen {
			continue
		}
		i.ContainedAt, i.ProvenAt, i.NextAt = time.Time{}, time.Time{}, now
		if err := tx.SaveIncident(ctx, &i); err != nil {
			return err
		}
		return tx.Enqueue(ctx, wakeUp(incidentJob{id}, zeroTime, true))
	}
	i := rotation.Incident{ID: newID(), Tenant: x.secret.Ref.Tenant, State: rotation.IncidentOpen, Cause: rotation.IncidentResurrection, Actor: "keybroker", Hold: true,
		Reason:     fmt.Sprintf("version %d of %s was proven dead and was accepted again", x.t.Version, x.secret.Ref),
		DetectedAt: now, DeclaredAt: now, NextAt: now}
	target := rotation.Target{IncidentID: i.ID, SecretID: x.t.SecretID, Versions: []int{x.t.Version}, State: rotation.TargetDeclared, RotationID: x.t.RotationID}
	if err := tx.AddIncident(ctx, &i, []rotation.Target{target}); err != nil {
		return err
	}
	if err := tx.SaveTarget(ctx, target, []rotation.Compromised{{SecretID: x.t.SecretID, Version: x.t.Version, Retirement: x.t}}); err != nil {
		return err
	}
	if err := e.auditIncident(ctx, tx, i, "incident.open", "keybroker", map[string]string{"reason": i.Reason, "cause": string(i.Cause), "state": string(i.State), "secrets": "1"}); err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(incidentJob{i.ID}, zeroTime, true))
}
