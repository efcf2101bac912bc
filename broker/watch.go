package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
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
	return b.watch(ctx, p, "rotation", id, 0, snapshotOfRotation, func() (stillMay, error) {
		r, err := b.Rotation(ctx, p, id)
		return b.whileSeen(backends.Ref{Tenant: r.Tenant, Name: r.Secret}), err
	})
}

// WatchRetirement sends the present state of a retirement, again whenever it
// changed, and client.EventEnd once it is proven, or nothing changes by itself
// any more.
func (b *Broker) WatchRetirement(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error) {
	return b.watch(ctx, p, "retirement", id, 0, snapshotOfRetirement, func() (stillMay, error) {
		r, err := b.Retirement(ctx, p, id)
		return b.whileSeen(backends.Ref{Tenant: r.Tenant, Name: r.Secret}), err
	})
}

// snapshot reads the present state of what is watched, and whether it has ended.
type snapshot func(ctx context.Context, tx *store.Tx, who authn.Principal, id string) (events []client.Event, ended bool, err error)

// stillMay tells whether somebody still may watch; anew: what they watch is looked up again,
// too.
type stillMay func(ctx context.Context, tx *store.Tx, who authn.Principal, anew bool) (bool, error)

// whileSeen lets those watch who see a secret.
func (b *Broker) whileSeen(of backends.Ref) stillMay {
	var secret rotation.Secret // as it was when it was last looked up
	return func(ctx context.Context, tx *store.Tx, who authn.Principal, anew bool) (_ bool, err error) {
		if anew {
			if secret, err = tx.SecretByRef(ctx, of); err != nil {
				return false, err
			}
		}
		may, err := b.sight(ctx, tx, who, secret)
		return may.sees, err
	}
}

// watch begins a stream, unless p has too many or show, which tells who may watch, fails.
// It looks at most every so often; 0: whenever something changed.
func (b *Broker) watch(ctx context.Context, p authn.Principal, kind, id string, every time.Duration, read snapshot, show func() (stillMay, error)) (<-chan client.Event, error) {
	leave, err := b.streams.enter(cmp.Or(p.Lineage, p.ID)) // whatever tokens one makes for oneself
	if err != nil {
		return nil, err
	}
	may, err := show()
	if err != nil {
		leave()
		return nil, err
	}
	ch := make(chan client.Event)
	w := &watcher{b: b, every: every, who: p, may: may, kind: kind, id: id, read: read, out: ch, sent: map[string]string{}}
	go func() {
		defer close(ch)
		defer leave()
		w.run(ctx)
	}()
	return ch, nil
}

// streams counts the streams of each identity: each of them looks into the store for as
// long as it lasts, which no rate limits. It is safe for concurrent use.
type streams struct {
	mu   sync.Mutex
	open map[string]int
}

// maxStreams is how many streams one identity has at a time on one node.
const maxStreams = 100

// enter counts a stream until leave is called; a tooManyStreams if there are too many.
func (s *streams) enter(identity string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[identity] >= maxStreams {
		return nil, tooManyStreams{}
	}
	s.open[identity]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[identity]--; s.open[identity] == 0 {
			delete(s.open, identity)
		}
	}, nil
}

// tooManyStreams is the error of a caller who has to end a stream first. It is
// ErrUnavailable.
type tooManyStreams struct{}

// Error implements error.
func (tooManyStreams) Error() string {
	return fmt.Sprintf("the caller has %d event streams open, and may have no more at a time: end one first", maxStreams)
}

// Unwrap gives the class.
func (tooManyStreams) Unwrap() error { return backends.ErrUnavailable }

// RetryAfter is how long the caller is to wait.
func (tooManyStreams) RetryAfter() time.Duration { return watchAgain }

// watcher sends what changed of one rotation or retirement to one caller.
type watcher struct {
	b        *Broker
	who      authn.Principal
	may      stillMay
	validAt  time.Time // when the token of who was last looked up
	kind, id string
	read     snapshot
	every    time.Duration // it looks no more often than that; 0: whenever something changed
	out      chan<- client.Event
	seq      int
	sent     map[string]string // object → its JSON as last sent
}

func (w *watcher) run(ctx context.Context) {
	t := time.NewTicker(watchPoll)
	defer t.Stop()
	for {
		changed, barred, began := w.b.Store.Changed(), w.b.Authn.QuarantinesChanged(), time.Now()
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
		if !w.rest(ctx, time.Since(began)) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-barred:
			w.validAt = time.Time{}
		case <-t.C:
		}
	}
}

// restBy bounds what a watcher costs, by how much longer it rests than it looks; it rests
// no longer than restMost, however long its reader kept it waiting.
const (
	restBy   = 10
	restMost = 2 * time.Second
)

// rest waits after a look that took so long, and tells whether the watch goes on.
func (w *watcher) rest(ctx context.Context, took time.Duration) bool {
	if w.every == 0 {
		return true
	}
	t := time.NewTimer(min(max(w.every, restBy*took), restMost) - took)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// mayStill tells whether who watches still may: a stream lives longer than tokens,
// roles, policies and labels do.
func (w *watcher) mayStill(ctx context.Context) bool {
	may := false
	again := w.b.Now().Sub(w.validAt) >= watchAgain || w.b.Authn.RulesOf(w.who) != w.b.Authn.Rules()
	var err error
	if again {
		w.validAt = w.b.Now()
		w.who, err = w.b.Authn.Again(ctx, w.who)
	}
	if err == nil {
		err = w.b.Store.View(ctx, func(tx *store.Tx) (err error) {
			may, err = w.may(ctx, tx, w.who, again)
			return err
		})
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, backends.ErrDenied) {
		w.b.Logger.Warn("whether a watcher still may cannot be looked up", "kind", w.kind, "id", w.id, "error", err)
	}
	return err == nil && may
}

// look sends what is new; ok is false when the watch is over.
func (w *watcher) look(ctx context.Context) (ended, ok bool) {
	var events []client.Event
	err := w.b.Store.View(ctx, func(tx *store.Tx) (err error) {
		events, ended, err = w.read(ctx, tx, w.who, w.id)
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

func snapshotOfRotation(ctx context.Context, tx *store.Tx, _ authn.Principal, id string) ([]client.Event, bool, error) {
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

func snapshotOfRetirement(ctx context.Context, tx *store.Tx, _ authn.Principal, id string) ([]client.Event, bool, error) {
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
	case ev.Incident != nil:
		known := *ev.Incident // but for estimates, which move by themselves
		known.Progress.ContainedBy, known.Progress.ProvenBy = time.Time{}, time.Time{}
		of = known
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
