package authn

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// KeptOut is the error of a caller whose role is in quarantine: who they are is certain,
// and they are told. It is ErrDenied.
type KeptOut struct{ rotation.Quarantine }

// Error implements error.
func (e *KeptOut) Error() string {
	if e.Kind == rotation.KeptConsumer {
		return fmt.Sprintf("the consumer %q, and its role with it, is %s", e.Name, e.Quarantine)
	}
	return fmt.Sprintf("the role %q is %s", e.Name, e.Quarantine)
}

// Unwrap gives the class.
func (e *KeptOut) Unwrap() error { return backends.ErrDenied }

// quarantines are those that go on, as this node has last looked: each request asks for
// them, so they are kept in memory. The rows are the truth; see Callers.LookAtQuarantines.
// It is safe for concurrent use.
type quarantines struct {
	looking sync.Mutex // one look at a time, so that none puts older ones in the place of newer
	now     atomic.Pointer[keptOut]
}

// keptOut is who was kept out at one moment, the oldest of each first.
type keptOut struct {
	all     []rotation.Quarantine
	changed chan struct{} // closed by what comes after it
}

func newQuarantines() *quarantines {
	q := &quarantines{}
	q.now.Store(&keptOut{changed: make(chan struct{})})
	return q
}

// LookAtQuarantines reads who is kept out, for this node to go by from now on. It returns
// those that it did not know: all of them, at first. It is to be called after each change,
// and now and then for those of other nodes.
func (c *Callers) LookAtQuarantines(ctx context.Context) (fresh []rotation.Quarantine, err error) {
	q := c.quarantines
	q.looking.Lock()
	defer q.looking.Unlock()
	next := &keptOut{changed: make(chan struct{})}
	err = c.db.ViewOne(ctx, func(tx *store.Tx) (err error) {
		next.all, err = tx.Quarantines(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	before := q.now.Load()
	if slices.Equal(next.all, before.all) {
		return nil, nil
	}
	for _, one := range next.all {
		if !slices.ContainsFunc(before.all, func(o rotation.Quarantine) bool { return o.ID == one.ID }) {
			fresh = append(fresh, one)
		}
	}
	q.now.Store(next)
	close(before.changed)
	return fresh, nil
}

// QuarantinesChanged is closed once this node knows of others than it knows of now.
func (c *Callers) QuarantinesChanged() <-chan struct{} { return c.quarantines.now.Load().changed }

// Quarantined tells whether a consumer or a role is in quarantine, and in which: a role
// also in that of a consumer that reads as it.
func (c *Callers) Quarantined(kind rotation.Kept, name string) (rotation.Quarantine, bool) {
	return c.quarantined(c.rules.Load(), kind, name)
}

func (c *Callers) quarantined(rules *Rules, kind rotation.Kept, name string) (rotation.Quarantine, bool) {
	if name == "" {
		return rotation.Quarantine{}, false
	}
	for _, q := range c.quarantines.now.Load().all {
		if q.Kind == kind && q.Name == name || kind == rotation.KeptRole && q.Kind == rotation.KeptConsumer && (q.Role == name || rules.Readers[q.Name] == name) {
			return q, true
		}
	}
	return rotation.Quarantine{}, false
}

// Barred returns a *KeptOut if p's role, or that of one whose token p's descends from, is in
// quarantine. Tokens for breaking glass are of no role in this: they are for when nothing
// else is left, and each one is revoked by itself.
func (c *Callers) Barred(p Principal) error {
	if len(c.quarantines.now.Load().all) == 0 {
		return nil
	}
	rules := c.RulesOf(p)
	for _, one := range append([]Principal{p}, p.Within...) {
		if one.Method == MethodBreakGlass {
			continue
		}
		if q, is := c.quarantined(rules, rotation.KeptRole, one.Role); is {
			return &KeptOut{q}
		}
	}
	return nil
}

// bars tells whether one of the roles of a line is in quarantine.
func (c *Callers) bars(l line, rules *Rules) *refusal {
	for _, rec := range l.tokens {
		if rec.Kind == store.TokenBreakGlass {
			continue
		}
		if q, is := c.quarantined(rules, rotation.KeptRole, rec.Role); is {
			r := l.refuse((&KeptOut{q}).Error())
			r.kept, r.proven = &KeptOut{q}, true
			return r
		}
	}
	return nil
}
