package broker

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// watchPoll is how often a watcher looks without having been woken, for commits
// of other nodes.
const watchPoll = time.Second

// watchAgain is how often it is asked whether a watcher's token is still accepted.
const watchAgain = 3 * time.Second

// watchTries is how many tries of a retirement its watchers are sent, the newest:
// Retirement has them all.
const watchTries = 50

// WatchRotation sends the present state of a rotation, of the retirements it
// waits for, then each whenever it changed, then
// client.EventEnd once the rotation has ended (and, unless it is done, once what
// it leaves to be turned off is settled), and closes the channel. It closes
// it without EventEnd when ctx ends, when it can no longer tell, or when p may not
// see it any more.
func (b *Broker) WatchRotation(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error) {
	r, err := b.Rotation(ctx, p, id)
	if err != nil {
		return nil, err
	}
	return b.watch(ctx, p, backends.Ref{Tenant: r.Tenant, Name: r.Secret}, "rotation", id, snapshotOfRotation), nil
}

// WatchRetirement sends the present state of a retirement, again whenever it
// changed, and client.EventEnd once it is proven, or nothing changes by itself
// any more.
func (b *Broker) WatchRetirement(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error) {
	r, err := b.Retirement(ctx, p, id)
	if err != nil {
		return nil, err
	}
	return b.watch(ctx, p, backends.Ref{Tenant: r.Tenant, Name: r.Secret}, "retirement", id, snapshotOfRetirement), nil
}

// snapshot reads the present state of what is watched, and whether it has ended.
type snapshot func(ctx context.Context, tx *store.Tx, id string) (events []client.Event, ended bool, err error)

func (b *Broker) watch(ctx context.Context, p authn.Principal, of backends.Ref, kind, id string, read snapshot) <-chan client.Event {
	ch := make(chan client.Event)
	w := &watcher{b: b, who: p, of: of, kind: kind, id: id, read: read, out: ch, sent: map[string]string{}}
	go func() {
		defer close(ch)
		w.run(ctx)
	}()
	return ch
}

// watcher sends what changed of one rotation or retirement to one caller.
type watcher struct {
	b        *Broker
	who      authn.Principal
	of       backends.Ref    // whose it is
	secret   rotation.Secret // that, as it was at validAt
	validAt  time.Time       // when that and the token of who were last looked up
	kind, id string
	read     snapshot
	out      chan<- client.Event
	seq      int
	sent     map[string]string // object → its JSON as last sent
}

func (w *watcher) run(ctx context.Context) {
	t := time.NewTicker(watchPoll)
	defer t.Stop()
	for {
		changed := w.b.Store.Changed()
		if !w.mayStill(ctx) {
			return
		}
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

// mayStill tells whether who watches still may: a stream lives longer than tokens,
// policies and labels do.
func (w *watcher) mayStill(ctx context.Context) bool {
	if now := w.b.Now(); now.Sub(w.validAt) < watchAgain {
		return w.b.sees(w.who, w.secret)
	}
	w.validAt = w.b.Now()
	err := w.b.Store.View(ctx, func(tx *store.Tx) (err error) {
		w.secret, err = tx.SecretByRef(ctx, w.of)
		return err
	})
	valid := false
	if err == nil && w.b.sees(w.who, w.secret) {
		valid, err = w.b.Authn.Valid(ctx, w.who)
	}
	if err != nil && ctx.Err() == nil {
		w.b.Logger.Warn("whether a watcher still may cannot be looked up", "kind", w.kind, "id", w.id, "error", err)
	}
	return valid
}

// look sends what is new; ok is false when the watch is over.
func (w *watcher) look(ctx context.Context) (ended, ok bool) {
	var events []client.Event
	err := w.b.Store.View(ctx, func(tx *store.Tx) (err error) {
		events, ended, err = w.read(ctx, tx, w.id)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			w.b.Logger.Warn("watching failed", "kind", w.kind, "id", w.id, "error", err)
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

func snapshotOfRotation(ctx context.Context, tx *store.Tx, id string) ([]client.Event, bool, error) {
	r, err := tx.Rotation(ctx, id)
	if err != nil {
		return nil, false, err
	}
	s, err := tx.Secret(ctx, r.SecretID)
	if err != nil {
		return nil, false, err
	}
	steps, err := tx.Steps(ctx, r.ID)
	if err != nil {
		return nil, false, err
	}
	rot := viewRotation(store.RotationOf{Rotation: r, Ref: s.Ref}, steps)
	events := []client.Event{{Type: client.EventRotation, Rotation: &rot}}
	retirements, err := tx.RetirementsOfRotation(ctx, r.ID)
	if err != nil {
		return nil, false, err
	}
	for _, t := range retirements {
		tries, err := tx.LatestTries(ctx, t.ID, watchTries)
		if err != nil {
			return nil, false, err
		}
		v := viewRetirement(store.RetirementOf{Retirement: t, Ref: s.Ref}, tries)
		events = append(events, client.Event{Type: client.EventRetirement, Retirement: &v})
	}
	return events, r.State.Ended() && !turningOff(r, retirements), nil
}

// turningOff tells whether a rotation that has ended still has something turned
// off that its watcher waits for: what a failed emergency contains, or what a
// cancelled or rolled back rotation had made.
func turningOff(r rotation.Rotation, retirements []rotation.Retirement) bool {
	switch {
	case r.State == rotation.Cancelled, r.State == rotation.RolledBack, r.Emergency() && r.State == rotation.Failed:
		return slices.ContainsFunc(retirements, func(t rotation.Retirement) bool {
			return !over(t) && t.State != rotation.Unconfirmed && t.State != rotation.Unprovable
		})
	}
	return false
}

func snapshotOfRetirement(ctx context.Context, tx *store.Tx, id string) ([]client.Event, bool, error) {
	t, err := tx.Retirement(ctx, id)
	if err != nil {
		return nil, false, err
	}
	s, err := tx.Secret(ctx, t.SecretID)
	if err != nil {
		return nil, false, err
	}
	tries, err := tx.LatestTries(ctx, t.ID, watchTries)
	v := viewRetirement(store.RetirementOf{Retirement: t, Ref: s.Ref}, tries)
	return []client.Event{{Type: client.EventRetirement, Retirement: &v}}, over(t), err
}

// over tells whether a retirement is proven and nobody has asked for another
// try, or nothing changes by itself any more.
func over(t rotation.Retirement) bool {
	return t.Settled() && !t.Asked || t.NextAt.IsZero() || !t.PurgedAt.IsZero()
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
