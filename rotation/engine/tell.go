package engine

import (
	"context"
	"slices"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// news is one event as all consumers of a secret are told of it.
type news struct {
	event   rotation.Event
	version int
	trigger rotation.Trigger
	reason  string
	due     time.Time // of rotation.EventRotating
}

// tell commits a delivery for each consumer that wants to know, with the change it
// tells of. The secret is as this transaction has it: its generation is told.
func (e *Engine) tell(ctx context.Context, tx Tx, s rotation.Secret, n news) error {
	now := e.Now()
	for _, name := range s.Definition.Consumers {
		terms, configured := e.terms(name)
		if configured && !terms.wants(n.event) {
			continue
		}
		d := rotation.Delivery{ID: newID(), SecretID: s.ID, Ref: s.Ref, Consumer: name, Event: n.event, Version: n.version, Generation: s.Generation,
			Trigger: n.trigger, Reason: n.reason, DueAt: n.due, State: rotation.DeliveryPending, Instances: max(terms.Instances, 1), CreatedAt: now}
		if err := e.send(ctx, tx, &d, terms); err != nil {
			return err
		}
	}
	return nil
}

// send adds a delivery: due at once, unless its consumer collects it or wants none.
func (e *Engine) send(ctx context.Context, tx Tx, d *rotation.Delivery, terms Terms) error {
	if terms.Inbox {
		return tx.AddDelivery(ctx, d)
	}
	state, err := tx.ConsumerState(ctx, d.Consumer)
	if err != nil || disabled(state, terms) {
		if err == nil {
			err = tx.AddDelivery(ctx, d)
		}
		return err
	}
	d.NextAttemptAt = d.CreatedAt
	if err := tx.AddDelivery(ctx, d); err != nil {
		return err
	}
	return tx.Enqueue(ctx, pushNow(DueDelivery{ID: d.ID, Consumer: d.Consumer, SecretID: d.SecretID}))
}

// disabled tells whether a consumer wants no more deliveries where it is now.
func disabled(s rotation.ConsumerState, terms Terms) bool {
	return !s.DisabledAt.IsZero() && s.Endpoint == terms.Endpoint
}

// wants tells whether a consumer is told of an event.
func (t Terms) wants(event rotation.Event) bool {
	return t.Events == nil || event.MakesCurrent() || event == rotation.EventTest || slices.Contains(t.Events, event)
}

// terms are those of a consumer, if it is configured.
func (e *Engine) terms(consumer string) (Terms, bool) {
	c, err := e.consumer(consumer)
	if err != nil {
		return Terms{}, false
	}
	return c.Terms(), true
}

// tellOfRetirement tells the consumers what has become of a version that they once had.
func (e *Engine) tellOfRetirement(ctx context.Context, tx Tx, before rotation.Retirement, x *retiring) error {
	if x.version.PublishedAt.IsZero() || len(x.secret.Definition.Consumers) == 0 {
		return nil
	}
	var events []rotation.Event
	t := x.t
	if before.RevokeBegunAt.IsZero() && !t.RevokeBegunAt.IsZero() && t.Cause != rotation.CauseEmergency {
		events = append(events, rotation.EventRetiring)
	}
	if before.AcknowledgedAt.IsZero() && !t.AcknowledgedAt.IsZero() {
		events = append(events, rotation.EventRetired)
	}
	if t.State != before.State && t.State == rotation.ProvenDead {
		events = append(events, rotation.EventProvenDead)
	}
	if t.State != before.State && t.State == rotation.Resurrected {
		events = append(events, rotation.EventResurrected)
	}
	if len(events) == 0 {
		return nil
	}
	s, err := tx.Secret(ctx, t.SecretID)
	if err != nil {
		return err
	}
	for _, event := range events {
		n := news{event: event, version: t.Version, trigger: triggerOf[t.Cause], reason: t.Reason}
		if err := e.tell(ctx, tx, s, n); err != nil {
			return err
		}
	}
	return nil
}

// triggerOf is why a version is turned off, in the words of what consumers are told. Of
// one that was replaced or taken back it is what brought the other.
var triggerOf = map[rotation.Cause]rotation.Trigger{rotation.CauseEmergency: rotation.TriggerEmergency, rotation.CauseRevoked: rotation.TriggerManual}

// stepNotice tells the consumers of a secret that a rotation is due.
func (e *Engine) stepNotice(ctx context.Context, secretID string) error {
	return e.Store.Update(ctx, func(tx Tx) error {
		now := e.Now()
		s, err := tx.Secret(ctx, secretID)
		if err != nil || s.NoticeAt.IsZero() || now.Before(s.NoticeAt) || s.State != rotation.SecretActive {
			return err
		}
		current, err := currentOf(ctx, tx, s)
		if err != nil {
			return err
		}
		due := s.NextDueAt
		if all := rotation.Forecast(s.Definition, current, now, 1); len(all) > 0 && all[0].At.After(due) {
			due = all[0].At // its window opens then
		}
		s.NoticeAt, s.NoticedDue = zeroTime, s.NextDueAt
		if err := tx.SaveSecret(ctx, &s); err != nil {
			return err
		}
		return e.tell(ctx, tx, s, news{event: rotation.EventRotating, version: s.Current, trigger: rotation.TriggerSchedule, due: due})
	})
}

// Welcome tells the consumers of a secret that were never told of its current version,
// inside tx: they are its consumers since a moment ago.
func (e *Engine) Welcome(ctx context.Context, tx Tx, s rotation.Secret) error {
	if s.Current == 0 || len(s.Definition.Consumers) == 0 {
		return nil
	}
	if _, err := tx.RetirementOf(ctx, s.ID, s.Current); !notFound(err) {
		return err // it is being turned off
	}
	fresh := s
	fresh.Definition.Consumers = nil
	for _, name := range s.Definition.Consumers {
		told, err := tx.LastTold(ctx, s.ID, name, 0)
		if err != nil && !notFound(err) {
			return err
		}
		if err != nil || told.Generation < s.Generation {
			fresh.Definition.Consumers = append(fresh.Definition.Consumers, name)
		}
	}
	return e.tell(ctx, tx, fresh, news{event: rotation.EventRotated, version: s.Current, trigger: rotation.TriggerManual, reason: "it is a consumer of the secret now"})
}

// SetNotice works out when the consumers of s, whose row the caller saves, are to be told
// of the rotation that is due next.
func (e *Engine) SetNotice(s *rotation.Secret) { s.NoticeAt = noticeAt(*s) }

// noticeAt is when consumers are to be told of the rotation that is due next; zero: they
// were, or are not told.
func noticeAt(s rotation.Secret) time.Time {
	if s.Definition.NoticeBefore <= 0 || s.NextDueAt.IsZero() || s.NextDueAt.Equal(s.NoticedDue) || len(s.Definition.Consumers) == 0 {
		return zeroTime
	}
	return s.NextDueAt.Add(-s.Definition.NoticeBefore)
}
