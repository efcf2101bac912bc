package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
)

// InboundEvents lists the events that triggers have accepted: of p's tenant, if it is
// bound to one. Which secrets they are about is told as far as p sees these.
func (b *Broker) InboundEvents(ctx context.Context, p authn.Principal, q client.InboundEventQuery) (client.List[client.InboundEvent], error) {
	list := client.List[client.InboundEvent]{Items: []client.InboundEvent{}}
	const action = "event.list"
	err := b.do(ctx, p, policy.Read, request{action: action, path: eventsPath}, func() error {
		at, err := b.Pages.open(p, action, q.Page)
		if err != nil {
			return err
		}
		return b.Store.View(ctx, func(tx *store.Tx) error {
			found, next, err := tx.Events(ctx, store.EventFilter{Tenant: p.Tenant, Trigger: q.Trigger, Outcome: q.Outcome}, at)
			if err != nil {
				return err
			}
			list.Items, list.Next = list.Items[:0], b.Pages.next(p, action, next)
			for _, ev := range found {
				shown, err := b.viewEvent(ctx, tx, p, ev)
				if err != nil {
					return err
				}
				list.Items = append(list.Items, shown)
			}
			return nil
		})
	})
	return list, err
}

// InboundEvent shows one event.
func (b *Broker) InboundEvent(ctx context.Context, p authn.Principal, id string) (out client.InboundEvent, err error) {
	err = b.do(ctx, p, policy.Read, request{action: "event.show", path: eventsPath, detail: map[string]string{"event": id}}, func() error {
		return b.Store.View(ctx, func(tx *store.Tx) error {
			ev, err := eventFor(ctx, tx, p, id)
			if err == nil {
				out, err = b.viewEvent(ctx, tx, p, ev)
			}
			return err
		})
	})
	return out, err
}

// eventFor returns an event that is p's to know; to others it is not there.
func eventFor(ctx context.Context, tx *store.Tx, p authn.Principal, id string) (store.Event, error) {
	ev, err := tx.Event(ctx, id)
	if errors.Is(err, backends.ErrNotFound) || err == nil && p.Tenant != "" && ev.Tenant != p.Tenant {
		return store.Event{}, notThere("event", id)
	}
	return ev, err
}

func (b *Broker) viewEvent(ctx context.Context, tx *store.Tx, p authn.Principal, ev store.Event) (client.InboundEvent, error) {
	out := client.InboundEvent{ID: ev.ID, Trigger: ev.Trigger, EventID: ev.EventID, Tenant: ev.Tenant, ReceivedAt: utc(ev.ReceivedAt), At: utc(ev.At), Address: ev.Address,
		Actor: ev.Actor, Action: Trigger{Emergency: ev.Emergency}.action(), Outcome: ev.Outcome, Reason: ev.Reason, Source: ev.Source, URL: ev.URL, Names: ev.Names, Labels: ev.Labels,
		Values: ev.Values, Handles: ev.Handles, Matches: []client.EventMatch{}, Repeats: ev.Repeats, IncidentID: ev.IncidentID, AppliedBy: ev.AppliedBy, AppliedAt: utc(ev.AppliedAt), Error: ev.Error, RetryAt: utc(ev.RetryAt)}
	if ev.Repeats > 0 {
		out.LastAt = utc(ev.LastAt)
	}
	for _, m := range ev.Matches {
		s, err := tx.Secret(ctx, m.SecretID)
		if errors.Is(err, backends.ErrNotFound) {
			continue
		}
		if err != nil {
			return out, err
		}
		may, err := b.sight(ctx, tx, p, s)
		if err != nil {
			return out, err
		}
		if may.sees {
			out.Matches = append(out.Matches, client.EventMatch{Secret: m.Ref.Name, Tenant: m.Ref.Tenant, Versions: m.Versions, By: m.By, Outcome: m.Outcome, Error: m.Error,
				RotationID: m.RotationID, IncidentID: m.IncidentID})
		}
	}
	return out, nil
}

// ApplyEvent acts on what of an event was held, as p asks for it, who has to be allowed
// to for each secret by itself: what p is not allowed stays held.
func (b *Broker) ApplyEvent(ctx context.Context, p authn.Principal, id string, r client.ApplyEventRequest) (out client.InboundEvent, err error) {
	req := request{action: "event.apply", path: eventsPath, detail: map[string]string{"event": id, "reason": r.Reason}}
	d, denied := b.decide(p, req, policy.Read)
	if denied != nil {
		return out, b.refuse(ctx, p, req, d, denied)
	}
	d.changes = true
	var ev store.Event
	var mine []int
	missing := b.Store.View(ctx, func(tx *store.Tx) (err error) {
		if ev, err = eventFor(ctx, tx, p, id); err == nil {
			mine, err = b.applicable(ctx, tx, p, ev)
		}
		return err
	})
	apply := func() error {
		if missing != nil {
			return missing
		}
		if err := b.apply(ctx, p, ev, mine, r.Reason); err != nil {
			return err
		}
		return b.Store.View(ctx, func(tx *store.Tx) error {
			ev, err := tx.Event(ctx, id)
			if err == nil {
				out, err = b.viewEvent(ctx, tx, p, ev)
			}
			return err
		})
	}
	if missing == nil && ev.Emergency {
		err = b.containing(ctx, p, req, d, apply)
		return out, err
	}
	err = b.serve(ctx, p, req, d, func() (map[string]string, error) { return nil, apply() })
	return out, err
}

// applicable are the matches of an event that are held and on whose secrets p may do what
// the event asks for.
func (b *Broker) applicable(ctx context.Context, tx *store.Tx, p authn.Principal, ev store.Event) (mine []int, err error) {
	c := policy.Rotate
	if ev.Emergency {
		c = policy.Emergency
	}
	held := 0
	for i, m := range ev.Matches {
		if m.Outcome != client.OutcomeHeld {
			continue
		}
		held++
		s, err := tx.Secret(ctx, m.SecretID)
		if err != nil {
			return nil, err
		}
		reached, err := b.reaches(ctx, tx, p, s)
		if err != nil {
			return nil, err
		}
		if reached && b.allows(p, s.Ref.Name, s, c) {
			mine = append(mine, i)
		}
	}
	most := b.rulesOf(p).Emergency.ApprovalAbove
	switch {
	case held == 0:
		return nil, fmt.Errorf("%w: nothing of event %s is held", backends.ErrConflict, ev.ID)
	case len(mine) == 0:
		return nil, fmt.Errorf("%w: %s on the secrets of event %s is not allowed", backends.ErrDenied, c, ev.ID)
	case ev.Emergency && most > 0 && len(mine) > most:
		return nil, fmt.Errorf("%w: event %s is about %d secrets, more than one person may turn off (%d): somebody else has to approve it, by `keybroker incident approve %s`", backends.ErrConflict, ev.ID, len(mine), most, ev.IncidentID)
	}
	return mine, nil
}

// apply acts on some of the matches of an event.
func (b *Broker) apply(ctx context.Context, p authn.Principal, ev store.Event, mine []int, reason string) error {
	ask := asked(p, ev.Reason)
	if reason != "" {
		ask.Reason = reason
	}
	change := func(act func(tx *store.Tx, ev *store.Event) error) error {
		return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
			if err := tx.Serialize(ctx, "trigger/"+ev.Trigger); err != nil {
				return err
			}
			now, err := tx.Event(ctx, ev.ID)
			if err != nil {
				return err
			}
			proposed := now.IncidentID
			now.AppliedBy, now.AppliedAt = p.ID, b.Now()
			if err := act(tx, &now); err != nil {
				return err
			}
			if now.Outcome = overall(now.Matches); now.Outcome == client.OutcomeHeld {
				now.IncidentID = proposed // which decides on the rest
			}
			return b.saveDecided(ctx, tx, now)
		})
	}
	if ev.Emergency {
		return change(func(tx *store.Tx, now *store.Event) error {
			return b.declareAll(ctx, tx, now, stillHeld(now, mine), ask)
		})
	}
	var refused error
	for _, i := range mine {
		err := change(func(tx *store.Tx, now *store.Event) error {
			if len(stillHeld(now, []int{i})) == 0 {
				return nil
			}
			return b.rotateOne(ctx, tx, now, &now.Matches[i], ask)
		})
		refused = errors.Join(refused, err)
	}
	return refused
}

// stillHeld are those matches that nobody has acted on meanwhile.
func stillHeld(ev *store.Event, which []int) []int {
	return slices.DeleteFunc(slices.Clone(which), func(i int) bool { return ev.Matches[i].Outcome != client.OutcomeHeld })
}
