package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const (
	// What an event lacks is fetched again after firstResolve, then after twice as long each
	// time up to mostResolve, for resolvedFor.
	firstResolve = 2 * time.Second
	mostResolve  = 15 * time.Minute
	resolvedFor  = 24 * time.Hour
	// resolveTimeout is how long one try takes at most.
	resolveTimeout = 30 * time.Second
	// resolvedAtOnce is how many are asked for at a time.
	resolvedAtOnce = 8
	// mostUnresolved is how many events of a trigger are unresolved at a time.
	mostUnresolved = 1000
)

// resolveEvents fetches what events lack, until ctx ends.
func (b *Broker) resolveEvents(ctx context.Context) {
	tick := time.NewTicker(senseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.warnIf(ctx, b.resolveDue(ctx))
		}
	}
}

func (b *Broker) resolveDue(ctx context.Context) error {
	var all []store.Event
	err := b.Store.View(ctx, func(tx *store.Tx) (err error) {
		all, err = tx.UnresolvedEvents(ctx, "", mostUnresolved)
		return err
	})
	if err != nil {
		return err
	}
	turn := make(chan struct{}, resolvedAtOnce)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, ev := range all {
		if ev.RetryAt.After(b.Now()) {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case turn <- struct{}{}:
		}
		wg.Go(func() {
			defer func() { <-turn }()
			b.warnIf(ctx, b.resolveEvent(ctx, ev.ID, ev.Trigger))
		})
	}
	return nil
}

// resolveEvent tries once to fetch what an event lacks, unless another node does.
func (b *Broker) resolveEvent(ctx context.Context, id, trigger string) error {
	t := b.triggers()[trigger]
	var mine bool
	var ev store.Event
	err := b.onUnresolved(ctx, id, trigger, func(tx *store.Tx, now *store.Event) error {
		if mine = !now.RetryAt.After(b.Now()); !mine {
			return nil
		}
		now.Tries++
		now.RetryAt = b.Now().Add(min(firstResolve<<min(now.Tries, 20), mostResolve))
		ev = *now
		return tx.SaveEvent(ctx, *now)
	})
	if err != nil || !mine {
		return err
	}
	values, why := ask(ctx, t, ev)
	if ctx.Err() != nil {
		return nil // the node stops: it is tried again
	}
	if why != nil {
		return b.onUnresolved(ctx, id, trigger, func(tx *store.Tx, now *store.Event) error { return b.notResolved(ctx, tx, t, now, why) })
	}
	ctx = context.WithoutCancel(ctx)
	in := inbound.Event{Values: values, Secrets: ev.Names, Labels: ev.Labels, Reason: ev.Reason, Source: ev.Source, URL: ev.URL}.Clean()
	found, err := b.match(ctx, t, in)
	if err != nil {
		return err
	}
	fresh := store.Event{Reason: in.Reason, URL: in.URL, Values: len(in.Values), Handles: ev.Handles, Hashes: b.hashesOf(in), Matches: found.matches, Outcome: client.OutcomeReceiving}
	if len(found.matches) == 0 {
		fresh.Outcome = client.OutcomeNothingMatched
	}
	err = b.onUnresolved(ctx, id, trigger, func(tx *store.Tx, now *store.Event) error { return b.takeUp(ctx, tx, t, now, fresh) })
	if err == nil && fresh.Outcome == client.OutcomeReceiving {
		_, _, err = b.finish(ctx, id)
	}
	return err
}

// ask has the receiver of a trigger ask for what an event lacks.
func ask(ctx context.Context, t Trigger, ev store.Event) ([]backends.SecretString, error) {
	r, can := t.Receiver.(inbound.Resolver)
	if !can {
		return nil, fmt.Errorf("%w: its trigger was taken out of the configuration, or is another one", backends.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	return r.Resolve(ctx, ev.Missing)
}

// onUnresolved changes an event that still lacks something.
func (b *Broker) onUnresolved(ctx context.Context, id, trigger string, change func(*store.Tx, *store.Event) error) error {
	return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
		if err := tx.Serialize(ctx, "trigger/"+trigger); err != nil {
			return err
		}
		ev, err := tx.Event(ctx, id)
		if err != nil || ev.Outcome != client.OutcomeUnresolved {
			return err
		}
		return change(tx, &ev)
	})
}

// triedAgain tells whether an event that came again, as fresh, is begun anew: nothing came
// of it before, or it lacked what it has now.
func triedAgain(ev, fresh store.Event) bool {
	switch ev.Outcome {
	case client.OutcomeUnresolved:
		return fresh.Outcome != client.OutcomeUnresolved
	case client.OutcomeActed:
		return fresh.Outcome == client.OutcomeReceiving && slices.ContainsFunc(ev.Matches, refusedByItself)
	case client.OutcomeNothingMatched:
		return fresh.Outcome == client.OutcomeReceiving
	case client.OutcomeRefused:
		return (fresh.Outcome == client.OutcomeReceiving || fresh.Outcome == client.OutcomeUnresolved) && !decidedOn(ev)
	}
	return false
}

// refusedByItself tells of a match that nothing could be begun, and nobody decided that.
func refusedByItself(m store.EventMatch) bool {
	return m.Outcome == client.OutcomeRefused && m.IncidentID == ""
}

// takeUp goes on with an event as it is now, and ends the alerts that something is missing.
func (b *Broker) takeUp(ctx context.Context, tx *store.Tx, t Trigger, ev *store.Event, fresh store.Event) error {
	if ev.Outcome == client.OutcomeActed { // what was begun stays
		for i := range ev.Matches {
			if refusedByItself(ev.Matches[i]) {
				ev.Matches[i].Outcome, ev.Matches[i].Error = "", ""
			}
		}
		ev.Outcome = fresh.Outcome
		return tx.SaveEvent(ctx, *ev)
	}
	ev.Outcome, ev.Matches, ev.Reason, ev.URL = fresh.Outcome, fresh.Matches, fresh.Reason, fresh.URL
	ev.Values, ev.Handles, ev.Hashes = fresh.Values, fresh.Handles, fresh.Hashes
	ev.Missing, ev.Error, ev.Tries, ev.RetryAt, ev.RetryUntil = fresh.Missing, fresh.Error, 0, fresh.RetryAt, fresh.RetryUntil
	if err := tx.SaveEvent(ctx, *ev); err != nil {
		return err
	}
	if ev.Outcome == client.OutcomeUnresolved {
		return b.tellUnresolved(ctx, tx, t, *ev)
	}
	if err := b.endUnresolved(ctx, tx, *ev); err != nil || ev.Outcome == client.OutcomeReceiving {
		return err
	}
	return b.auditEvent(ctx, tx, *ev)
}

// tellUnresolved tells people that something has leaked which the broker cannot find out:
// one alert for all such events of a trigger.
func (b *Broker) tellUnresolved(ctx context.Context, tx *store.Tx, t Trigger, ev store.Event) error {
	others, err := tx.UnresolvedEvents(ctx, ev.Trigger, mostUnresolved+1)
	if err != nil {
		return err
	}
	if len(others) > mostUnresolved { // this one is among them
		return &overrun{after: time.Minute, why: fmt.Sprintf("what %d events of trigger %q are about cannot be fetched already", mostUnresolved, ev.Trigger)}
	}
	next := "keybroker event show " + ev.ID
	if len(others) > 1 {
		next = "keybroker event list --outcome unresolved --trigger " + ev.Trigger
	}
	return tx.RaiseAlert(ctx, store.Raise{Kind: alert.EventUnresolved, Tenant: t.Tenant, Subject: ev.Trigger, Next: next,
		Text: fmt.Sprintf("trigger %s was told of a leak, and what leaked cannot be fetched, so that nothing is done: %s: %s; it is tried again for %s", ev.Trigger, ev.Reason, ev.Error, resolvedFor)})
}

// endUnresolved ends the alerts that something is missing, where that was the last of it.
func (b *Broker) endUnresolved(ctx context.Context, tx *store.Tx, ev store.Event) error {
	if err := tx.EndAlert(ctx, alert.EventUnresolved, ev.ID); err != nil {
		return err
	}
	left, err := tx.UnresolvedEvents(ctx, ev.Trigger, 1)
	if err != nil || len(left) > 0 {
		return err
	}
	return tx.EndAlert(ctx, alert.EventUnresolved, ev.Trigger)
}

// notResolved notes why what an event lacks could not be fetched. In the end that is left
// to people, by an alert of its own.
func (b *Broker) notResolved(ctx context.Context, tx *store.Tx, t Trigger, ev *store.Event, why error) error {
	ev.Error = cut(why.Error())
	if b.Now().Before(ev.RetryUntil) {
		return tx.SaveEvent(ctx, *ev)
	}
	ev.Outcome, ev.RetryAt = client.OutcomeRefused, time.Time{}
	if err := tx.SaveEvent(ctx, *ev); err != nil {
		return err
	}
	if err := b.endUnresolved(ctx, tx, *ev); err != nil {
		return err
	}
	err := tx.RaiseAlert(ctx, store.Raise{Kind: alert.EventUnresolved, Tenant: t.Tenant, Subject: ev.ID, Next: "keybroker event show " + ev.ID,
		Text: fmt.Sprintf("trigger %s was told of a leak, and what leaked could not be fetched for %s, which is not tried any more: %s: %s", ev.Trigger, resolvedFor, ev.Reason, ev.Error)})
	if err != nil {
		return err
	}
	return b.auditEvent(ctx, tx, *ev)
}
