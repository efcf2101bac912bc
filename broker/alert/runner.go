package alert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

const (
	usually     = 10 * time.Second // between two looks
	sendTimeout = 20 * time.Second
	lease       = time.Minute // longer than sending and committing take
	turn        = 30 * time.Second
	slowest     = 5 * time.Minute // between two attempts
	keep        = 90 * 24 * time.Hour
	pruneEvery  = time.Hour
	maxError    = 300 // bytes of why an attempt failed
)

// Config is what a Runner is made of; every field but Every is required.
type Config struct {
	Store  *store.DB
	Node   string        // this node's name, unlike that of any other
	Source func() string // the URL of this broker
	// Local tells what this node alone can: what is wrong with it now, and of which kinds
	// that may not be all, since it has not looked yet.
	Local func() (found []store.Raise, unsure []string)
	// Disabled tells whether a consumer of the configuration wants no more deliveries where
	// they go by now, and whose it is.
	Disabled func(rotation.ConsumerState) (tenant string, is bool)
	Observer Observer
	Every    time.Duration // between two looks; 0: ten seconds
	Now      func() time.Time
	Logger   hclog.Logger
}

// Observer is told of attempts.
type Observer interface {
	// Notified is told how an attempt at a notification ended.
	Notified(notifier string, err error)
}

// Rules are what the configuration says of alerts. They are never changed once the
// Runner has them.
type Rules struct {
	Alerts    []config.Alert
	Notifiers map[string]Notifier
}

// Runner looks for what is wrong and tells it. One runs on each node; each
// notification is sent by one of them. Safe for concurrent use.
type Runner struct {
	Config
	owner string
	begun sync.WaitGroup // turns of notifiers

	mu    sync.Mutex
	rules Rules
	busy  map[string]bool // notifiers whose turn it is
}

// NewRunner returns a Runner that tells nobody until it has Rules.
func NewRunner(cfg Config) *Runner {
	return &Runner{Config: cfg, owner: cfg.Node + "/" + uuid.Must(uuid.NewV7()).String(), busy: map[string]bool{}}
}

// SetRules replaces the rules, for what begins from now on.
func (r *Runner) SetRules(rules Rules) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = rules
}

func (r *Runner) inForce() Rules {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rules
}

// Run looks and tells at once and then every ten seconds, until ctx ends; it returns
// when the last attempt has.
func (r *Runner) Run(ctx context.Context) {
	defer r.begun.Wait()
	t := time.NewTicker(cmp.Or(r.Every, usually))
	defer t.Stop()
	var pruned time.Time
	for {
		err := r.Sweep(ctx)
		if err == nil {
			err = r.Tell(ctx) // heartbeats among it: they say that the sweep works
		}
		if now := r.Now(); err == nil && now.Sub(pruned) >= pruneEvery {
			pruned = now
			err = r.Store.Update(ctx, func(tx *store.Tx) error {
				if held, err := tx.EvidenceHeld(ctx); held || err != nil {
					return err
				}
				return tx.PruneAlerts(ctx, now.Add(-keep))
			})
		}
		if err != nil && ctx.Err() == nil {
			r.Logger.Error("alerts cannot be looked after; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Tell begins to tell what there is to tell now, each notifier on its own.
func (r *Runner) Tell(ctx context.Context) error {
	rules := r.inForce()
	now := r.Now()
	var changes Changes
	var due []store.Notice
	err := r.Store.View(ctx, func(tx *store.Tx) error {
		alerts, err := tx.UnsettledAlerts(ctx)
		if err != nil {
			return err
		}
		due, err = tx.UnsettledNotices(ctx)
		changes = Plan(alerts, due, rules.Alerts, now)
		return err
	})
	if err == nil {
		err = r.apply(ctx, changes)
	}
	if err == nil {
		err = r.Store.View(ctx, func(tx *store.Tx) (err error) {
			due, err = tx.UnsettledNotices(ctx)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("looking for what is to be told: %w", err)
	}
	turns := map[string][]store.Notice{}
	for _, n := range due {
		if n.State == store.NoticePending && !now.Before(n.NextAt) && !now.Before(n.Lease) && rules.Notifiers[n.Notifier] != nil {
			turns[n.Notifier] = append(turns[n.Notifier], n)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(turns)) {
		r.begin(ctx, name, rules.Notifiers[name], turns[name])
	}
	return nil
}

// apply commits what was planned, as far as nobody else was quicker.
func (r *Runner) apply(ctx context.Context, c Changes) error {
	if len(c.Add)+len(c.Save)+len(c.Settled) == 0 {
		return nil
	}
	return r.Store.Update(ctx, func(tx *store.Tx) error {
		for _, n := range c.Add {
			if err := tx.AddNotice(ctx, &n); err != nil && !errors.Is(err, backends.ErrConflict) {
				return err
			}
		}
		for _, n := range c.Save {
			if err := tx.SaveNotice(ctx, &n); err != nil && !errors.Is(err, store.ErrStale) {
				return err
			}
		}
		for _, a := range c.Settled {
			if err := tx.SaveAlert(ctx, &a); err != nil && !errors.Is(err, store.ErrStale) {
				return err
			}
		}
		return nil
	})
}

// begin gives a notifier its turn, unless it has it: one that hangs holds up no other.
func (r *Runner) begin(ctx context.Context, name string, to Notifier, due []store.Notice) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[name] {
		return
	}
	r.busy[name] = true
	r.begun.Go(func() {
		defer func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.busy, name)
		}()
		slices.SortFunc(due, func(a, b store.Notice) int { return a.NextAt.Compare(b.NextAt) })
		for end := r.Now().Add(turn); len(due) > 0 && r.Now().Before(end) && ctx.Err() == nil; due = due[1:] {
			if err := r.send(ctx, to, due[0]); err != nil && !errors.Is(err, backends.ErrInvalid) {
				return // it does not answer, or has enough: the others later
			}
		}
	})
}

// Wait returns when the turns that Tell has begun are over.
func (r *Runner) Wait() { r.begun.Wait() }

// send claims a notice, tells it and commits the result.
func (r *Runner) send(ctx context.Context, to Notifier, n store.Notice) error {
	message, err := r.claim(ctx, &n)
	if errors.Is(err, backends.ErrConflict) || errors.Is(err, backends.ErrNotFound) {
		return nil // somebody else does it, or it is not to be told any more
	}
	if err != nil {
		r.Logger.Error("a notification cannot be sent now", "notifier", n.Notifier, "error", err)
		return err
	}
	told := r.attempt(ctx, to, message)
	r.Observer.Notified(n.Notifier, told)
	r.result(&n, told)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	err = r.Store.Update(ctx, func(tx *store.Tx) error { return tx.SaveNotice(ctx, &n) })
	if err != nil && !errors.Is(err, store.ErrStale) {
		r.Logger.Error("it is not recorded how a notification ended; it is sent again", "notifier", n.Notifier, "event", n.Event, "error", err)
	}
	return told
}

func (r *Runner) attempt(ctx context.Context, to Notifier, message Notification) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return to.Notify(ctx, message)
}

// claim commits that this node tells n, and says with what words.
func (r *Runner) claim(ctx context.Context, n *store.Notice) (Notification, error) {
	var message Notification
	var claimed store.Notice
	err := r.Store.Update(ctx, func(tx *store.Tx) (err error) {
		claimed = *n
		if message, err = r.message(ctx, tx, claimed); err != nil {
			return err
		}
		claimed.Lease, claimed.Owner = r.Now().Add(lease), r.owner
		claimed.Attempts++
		return tx.SaveNotice(ctx, &claimed)
	})
	if err == nil {
		*n = claimed
	}
	return message, err
}

func (r *Runner) message(ctx context.Context, tx *store.Tx, n store.Notice) (m Notification, err error) {
	m = Notification{ID: fmt.Sprintf("%s-%d", n.ID, n.Seq), Event: Event(n.Event), At: n.CreatedAt, Source: r.Source(), Rule: n.Rule}
	if n.AlertID != "" {
		m.Alert, err = tx.Alert(ctx, n.AlertID)
		return m, err
	}
	all, err := tx.UnsettledAlerts(ctx)
	for _, rule := range r.inForce().Alerts {
		for _, a := range all {
			if rule.Name == n.Rule && a.Open() && Matches(rule, a) {
				m.Open++
			}
		}
	}
	return m, err
}

// result notes how an attempt ended.
func (r *Runner) result(n *store.Notice, err error) {
	now := r.Now()
	n.Lease, n.Owner = time.Time{}, ""
	if err == nil {
		if n.Error != "" {
			r.Logger.Info("a notifier can be used again", "notifier", n.Notifier)
		}
		n.State, n.Error, n.SentAt, n.NextAt = store.NoticeSent, "", now, time.Time{}
		n.Told++
		return
	}
	r.Logger.Error("people could not be told of an alert; it is tried again", "notifier", n.Notifier, "event", n.Event, "alert", n.AlertID, "attempts", n.Attempts, "error", err)
	wait := rotation.Backoff(n.Attempts+2, slowest) // 4 s, 8 s, …
	if slow, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err); ok {
		wait = max(wait, min(slow.RetryAfter(), time.Hour))
	}
	n.Error, n.NextAt = strings.ToValidUTF8(err.Error()[:min(len(err.Error()), maxError)], ""), now.Add(wait)
}

// Test has one notifier tell that it works, now. ErrNotFound if there is none of that
// name.
func (r *Runner) Test(ctx context.Context, notifier, by string) error {
	to := r.inForce().Notifiers[notifier]
	if to == nil {
		return fmt.Errorf("%w: there is no notifier %q in the configuration", backends.ErrNotFound, notifier)
	}
	err := r.attempt(ctx, to, Notification{ID: "tst_" + uuid.Must(uuid.NewV7()).String(), Event: Test, At: r.Now(), Source: r.Source(), By: by})
	r.Observer.Notified(notifier, err)
	return err
}
