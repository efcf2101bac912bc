package broker

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// watchPoll is how often a watcher looks without having been woken, for commits
// of other nodes.
const watchPoll = time.Second

// WatchRotation sends the present state of a rotation, of the retirements it
// waits for, then each whenever it changed, then
// client.EventEnd once the rotation has ended (one that failed in an emergency: once
// what it contains is settled), and closes the channel. It closes
// it without EventEnd when ctx ends or it can no longer tell.
func (b *Broker) WatchRotation(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error) {
	if _, err := b.Rotation(ctx, p, id); err != nil {
		return nil, err
	}
	ch := make(chan client.Event)
	w := &watcher{b: b, id: id, out: ch, sent: map[string]string{}}
	go func() {
		defer close(ch)
		w.run(ctx)
	}()
	return ch, nil
}

// watcher sends what changed of one rotation to one caller.
type watcher struct {
	b    *Broker
	id   string
	out  chan<- client.Event
	seq  int
	sent map[string]string // object → its JSON as last sent
}

func (w *watcher) run(ctx context.Context) {
	t := time.NewTicker(watchPoll)
	defer t.Stop()
	for {
		changed := w.b.Store.Changed()
		ended, ok := w.look(ctx)
		if !ok {
			return
		}
		if ended {
			w.send(ctx, client.Event{Type: client.EventEnd})
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-t.C:
		}
	}
}

// look sends what is new; ok is false when the watch is over.
func (w *watcher) look(ctx context.Context) (ended, ok bool) {
	var events []client.Event
	err := w.b.Store.View(ctx, func(tx *store.Tx) error {
		events = nil
		r, err := tx.Rotation(ctx, w.id)
		if err != nil {
			return err
		}
		s, err := tx.Secret(ctx, r.SecretID)
		if err != nil {
			return err
		}
		events, err = w.snapshot(ctx, tx, r, s)
		ended = r.State.Ended() && !containing(r, events)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			w.b.Logger.Warn("watching a rotation failed", "rotation", w.id, "error", err)
		}
		return false, false
	}
	for _, ev := range events {
		if w.isNew(ev) && !w.send(ctx, ev) {
			return false, false
		}
	}
	return ended, true
}

// containing tells whether an emergency that failed to bring a replacement is
// still turning something off: that is what its watcher waits for.
func containing(r rotation.Rotation, events []client.Event) bool {
	return r.Emergency() && r.State == rotation.Failed && slices.ContainsFunc(events, func(ev client.Event) bool {
		return ev.Retirement != nil && !ev.Retirement.Settled()
	})
}

func (w *watcher) snapshot(ctx context.Context, tx *store.Tx, r rotation.Rotation, s rotation.Secret) ([]client.Event, error) {
	steps, err := tx.Steps(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	rot := viewRotation(store.RotationOf{Rotation: r, Ref: s.Ref}, steps)
	events := []client.Event{{Type: client.EventRotation, Rotation: &rot}}
	retirements, err := tx.RetirementsOfRotation(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	for _, t := range retirements {
		tries, err := allTries(ctx, tx, t.ID)
		if err != nil {
			return nil, err
		}
		v := viewRetirement(store.RetirementOf{Retirement: t, Ref: s.Ref}, tries)
		events = append(events, client.Event{Type: client.EventRetirement, Retirement: &v})
	}
	return events, nil
}

// isNew tells whether ev differs from what was last sent of the same object.
func (w *watcher) isNew(ev client.Event) bool {
	key := ev.Type
	var of any
	switch {
	case ev.Rotation != nil:
		of = ev.Rotation
	case ev.Retirement != nil:
		key, of = key+ev.Retirement.ID, ev.Retirement
	}
	text, err := json.Marshal(of)
	if err != nil || w.sent[key] == string(text) {
		return err != nil
	}
	w.sent[key] = string(text)
	return true
}

func (w *watcher) send(ctx context.Context, ev client.Event) bool {
	w.seq++
	ev.ID = strconv.Itoa(w.seq)
	select {
	case w.out <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}
