package engine

import (
	"context"
	"slices"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/rotation"
)

// news is one event as all consumers of a secret are told of it.
type news struct {
	event   rotation.Event
	version int
	trigger rotation.Trigger
	reason  string
	due     time.Time // of rotation.EventRotating
	catalog *Catalog  // of the consumers; nil: the one in force
}

// tell commits a delivery for each consumer that wants to know, with the change it
// tells of. The secret is as this transaction has it: its generation is told.
func (e *Engine) tell(ctx context.Context, tx Tx, s rotation.Secret, n news) error {
	now, catalog := e.Now(), n.catalog
	if catalog == nil {
		catalog = e.catalog.Load()
	}
	var all []*rotation.Delivery
	for _, name := range s.Definition.Consumers {
		terms, configured := catalog.terms(name)
		if configured && !terms.wants(n.event) {
			continue
		}
		all = append(all, &rotation.Delivery{ID: newID(), SecretID: s.ID, Ref: s.Ref, Consumer: name, Event: n.event, Version: n.version, Generation: s.Generation,
			Trigger: n.trigger, Reason: n.reason, DueAt: n.due, State: rotation.DeliveryPending, Instances: max(terms.Instances, 1), CreatedAt: now})
	}
	return e.send(ctx, tx, catalog, all...)
}

// send adds deliveries, all of one event or of none: due at once, unless their consumer
// collects them, wants none or is in quarantine.
func (e *Engine) send(ctx context.Context, tx Tx, catalog *Catalog, all ...*rotation.Delivery) error {
	if len(all) == 0 {
		return nil
	}
	states, err := tx.ConsumerStates(ctx)
	if err != nil {
		return err
	}
	off := map[string]bool{}
	for _, s := range states {
		terms, _ := catalog.terms(s.Name)
		off[s.Name] = untold(s, terms)
	}
	var jobs []river.InsertManyParams
	for _, d := range all {
		if terms, _ := catalog.terms(d.Consumer); !terms.Inbox && !off[d.Consumer] {
			d.NextAttemptAt = d.CreatedAt
			jobs = append(jobs, pushNow(DueDelivery{ID: d.ID, Consumer: d.Consumer, SecretID: d.SecretID}))
			if d.Trigger == rotation.TriggerEmergency && d.Event.MakesCurrent() {
				e.lanes.urge(d.Consumer, e.Now()) // what it has is dead, or about to be
			}
		}
	}
	if err := tx.AddDeliveries(ctx, all); err != nil || len(jobs) == 0 {
		return err
	}
	return tx.Enqueue(ctx, jobs...)
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
func (c *Catalog) terms(consumer string) (Terms, bool) {
	d, ok := c.Consumers[consumer]
	if !ok {
		return Terms{}, false
	}
	return d.Terms(), true
}

func (e *Engine) terms(consumer string) (Terms, bool) { return e.catalog.Load().terms(consumer) }

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
	trigger := rotation.TriggerManual
	if t.RotationID != "" {
		r, err := tx.Rotation(ctx, t.RotationID)
		if err != nil {
			return err
		}
		trigger = r.Trigger
	}
	for _, event := range events {
		n := news{event: event, version: t.Version, trigger: trigger, reason: t.Reason}
		if err := e.tell(ctx, tx, s, n); err != nil {
			return err
		}
	}
	return nil
}

// noticeLater is when it is looked again whether consumers are to be told of a rotation
// that is due, while another one is under way.
const noticeLater = time.Minute

// stepNotice tells the consumers of a secret that a rotation is due.
func (e *Engine) stepNotice(ctx context.Context, secretID string) error {
	return e.Store.Update(ctx, func(tx Tx) error {
		now := e.Now()
		s, err := tx.Secret(ctx, secretID)
		if err != nil || s.NoticeAt.IsZero() || now.Before(s.NoticeAt) || s.State != rotation.SecretActive {
			return err
		}
		if _, err := tx.Occupying(ctx, secretID); !notFound(err) {
			if err == nil { // what it brings may be due at another time
				s.NoticeAt = now.Add(noticeLater)
				err = tx.SaveSecret(ctx, &s)
			}
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
// inside tx: they are its consumers since a moment ago. What waits for those that are none
// any more waits no longer. The catalog has the consumers; nil: the one in force.
func (e *Engine) Welcome(ctx context.Context, tx Tx, s rotation.Secret, catalog *Catalog) error {
	live, err := tx.LiveRotations(ctx, s.ID)
	if err != nil {
		return err
	}
	for _, r := range live {
		if err := wakeHeld(ctx, tx, r.ID, e.Now()); err != nil {
			return err
		}
	}
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
		if err != nil || told.Generation < s.Generation || told.State == rotation.DeliveryDead {
			fresh.Definition.Consumers = append(fresh.Definition.Consumers, name)
		}
	}
	return e.tell(ctx, tx, fresh, news{event: rotation.EventRotated, version: s.Current, trigger: rotation.TriggerManual, reason: "it is a consumer of the secret now", catalog: catalog})
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
