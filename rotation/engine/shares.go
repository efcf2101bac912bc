package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/rotation"
)

// An issuer, vault or probe that hangs keeps whoever asks it for up to a minute. Where
// many secrets need it at once, as in an emergency, it would keep all urgent workers
// before long, and nobody would be left for those that answer. So each has a share of
// them: so many of its steps at once, fewer once it hangs. The others wait here for
// their turn, which costs no worker and comes before any intent. What is revoked waits
// for nothing that is minted, and no emergency for what is none. All of it is in memory:
// the rows are due, and found by the sweep if a turn is lost.

const (
	shareWidth = 128 // steps at once; there are urgent workers for some sixteen such shares
	// hangsAfter is how long a step may be under way before only hungWidth are begun.
	hangsAfter = 10 * time.Second
	hungWidth  = 16
	// calledFor is how long a turn is kept for a step that was called.
	calledFor = 5 * time.Second
)

// shares are safe for concurrent use.
type shares struct {
	mu sync.Mutex
	m  map[string]*share
}

type share struct {
	busy    map[string]time.Time // steps under way → since when
	called  map[string]time.Time // those whose turn it is, and that have not come yet
	waiting []turn
	queued  map[string]bool // keys of waiting
}

// turn is what waits for one.
type turn struct {
	key string
	job river.JobArgs
}

// width is how many steps are taken at once.
func (s *share) width(now time.Time) int {
	for _, since := range s.busy {
		if now.Sub(since) >= hangsAfter {
			return hungWidth
		}
	}
	return shareWidth
}

// room is for how many more steps there is; who was called and did not come gives
// its place up.
func (s *share) room(now time.Time) int {
	for key, at := range s.called {
		if now.Sub(at) >= calledFor {
			delete(s.called, key)
		}
	}
	return s.width(now) - len(s.busy) - len(s.called)
}

// enter tells whether a step may be taken now; whoever takes it calls leave when it is
// over. Otherwise its job waits here.
func (a *shares) enter(of, key string, job river.JobArgs, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.m[of]
	if s == nil {
		s = &share{busy: map[string]time.Time{}, called: map[string]time.Time{}, queued: map[string]bool{}}
		a.m[of] = s
	}
	_, called := s.called[key]
	switch {
	case called:
		delete(s.called, key)
	case s.room(now) < 1:
		if !s.queued[key] {
			s.waiting, s.queued[key] = append(s.waiting, turn{key, job}), true
		}
		return false
	case s.queued[key]: // there is room, and nobody was left to call it: the sweep did
		s.waiting = slices.DeleteFunc(s.waiting, func(t turn) bool { return t.key == key })
		delete(s.queued, key)
	}
	s.busy[key] = now
	return true
}

// leave ends a step and returns the jobs whose turn it is.
func (a *shares) leave(of, key string, now time.Time) (next []river.JobArgs) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.m[of]
	delete(s.busy, key)
	return a.goOn(of, s, now)
}

// forget gives up the turns of a step that is not due any more, or is one of another
// share, and returns the jobs whose turn it is instead.
func (a *shares) forget(key, except string, now time.Time) (next []river.JobArgs) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for of, s := range a.m {
		if _, called := s.called[key]; of == except || !called && !s.queued[key] {
			continue
		}
		delete(s.called, key)
		s.waiting = slices.DeleteFunc(s.waiting, func(t turn) bool { return t.key == key })
		delete(s.queued, key)
		next = append(next, a.goOn(of, s, now)...)
	}
	return next
}

// goOn calls as many as there is room for.
func (a *shares) goOn(of string, s *share, now time.Time) (next []river.JobArgs) {
	for room := s.room(now); room > 0 && len(s.waiting) > 0; room-- {
		t := s.waiting[0]
		s.waiting = s.waiting[1:]
		delete(s.queued, t.key)
		s.called[t.key] = now
		next = append(next, t.job)
	}
	if len(s.busy) == 0 && len(s.called) == 0 && len(s.waiting) == 0 {
		delete(a.m, of)
	}
	return next
}

// inTurn does one step of a job within the share of what it asks, or, where that is used
// up, lets the job wait for its turn: false.
func (e *Engine) inTurn(ctx context.Context, of string, job river.JobArgs, do func() error) (took bool, err error) {
	e.giveUpTurns(ctx, job, of)
	if of == "" {
		return true, do()
	}
	key := job.Kind() + idOf(job)
	if !e.shares.enter(of, key, job, e.Now()) {
		return false, nil
	}
	defer func() { // also after a panic
		if next := e.shares.leave(of, key, e.Now()); len(next) > 0 {
			e.call(ctx, next)
		}
	}()
	return true, do()
}

// giveUpTurns gives up those that a job has elsewhere than in one share.
func (e *Engine) giveUpTurns(ctx context.Context, job river.JobArgs, except string) {
	if next := e.shares.forget(job.Kind()+idOf(job), except, e.Now()); len(next) > 0 {
		e.call(ctx, next)
	}
}

// call wakes those whose turn it is.
func (e *Engine) call(ctx context.Context, next []river.JobArgs) {
	jobs := make([]river.InsertManyParams, len(next))
	for i, job := range next {
		jobs[i] = wakeUp(job, zeroTime, true)
	}
	if err := e.Store.Update(ctx, func(tx Tx) error { return tx.Enqueue(ctx, jobs...) }); err != nil && ctx.Err() == nil {
		e.Logger.Warn("waking what has waited for its turn failed; the sweep will do", "error", err)
	}
}

// shareOfMaking names the share that a step of a rotation uses; empty: none. Only those
// of emergencies have urgent workers.
func shareOfMaking(x *rotating, effect rotation.Effect) string {
	if !x.r.Emergency() {
		return ""
	}
	v := x.version(x.r.To)
	switch effect {
	case rotation.Mint, rotation.RecoverMint:
		if v == nil {
			return "mint " + x.secret.Definition.Issuer
		}
		return "mint " + v.Issuer
	case rotation.VerifyTry:
		return "verify " + v.Probe
	case rotation.Stage, rotation.Publish, rotation.PutBack, rotation.Restore:
		return "write " + v.Backend
	}
	return ""
}

// shareOfRetiring names the share that a step of a retirement uses; empty: none.
func shareOfRetiring(x *retiring, effect rotation.Effect) string {
	of := ""
	switch effect {
	case rotation.Revoke, rotation.Remove:
		of = "revoke " + x.version.Issuer
	case rotation.ProbeBefore, rotation.DeathRound, rotation.RecheckRound: // the issuer is asked to end sessions
		of = "probe " + x.version.Probe + " " + x.version.Issuer
	default:
		return ""
	}
	if x.t.Emergency() {
		return "emergency " + of
	}
	return of
}
