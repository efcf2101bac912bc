package engine

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/keybroker/keybroker/backends"
)

// An issuer that failed so often in a row is left alone for a while: outside an
// emergency no rotation asks it for anything, then one tries (rule 17).
const (
	breakAfter = 5
	breakFor   = time.Minute
	// trialEvery is how long the others wait while that one tries.
	trialEvery = 5 * time.Second
	// unknownAfter is how long after it may be asked again an issuer that nobody has
	// asked is still said to fail. What waits for one asks every 5 minutes at least.
	unknownAfter = 10 * time.Minute
)

// breakers hold one breaker per issuer, by its name. They are kept in memory: a
// process that starts anew asks once more, that is all.
type breakers struct {
	mu sync.Mutex
	m  map[string]*breaker
}

// breaker is that of one issuer.
type breaker struct {
	*gobreaker.TwoStepCircuitBreaker[struct{}]

	mu     sync.Mutex
	state  IssuerDown // zero: it works
	last   string     // error
	denied string     // a secret that was denied since the last success; empty: none
	many   bool       // another one was as well
}

// IssuerDown says that an issuer keeps failing, as this process sees it.
type IssuerDown struct {
	Since time.Time // when that was found
	Until time.Time // until then it is left alone; after that one rotation tries
	Error string    // of the last failure
}

func (d IssuerDown) text(issuer string) string {
	return fmt.Sprintf("issuer %q keeps failing since %s and is left alone until %s: %s", issuer,
		d.Since.UTC().Format(time.RFC3339), d.Until.UTC().Format(time.RFC3339), d.Error)
}

func (e *Engine) breaker(issuer string) *breaker {
	e.breakers.mu.Lock()
	defer e.breakers.mu.Unlock()
	b, ok := e.breakers.m[issuer]
	if !ok {
		b = &breaker{}
		b.TwoStepCircuitBreaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name:          issuer,
			Timeout:       breakFor,
			ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
			OnStateChange: func(_ string, _, to gobreaker.State) { e.breakerTurned(issuer, b, to) },
		})
		e.breakers.m[issuer] = b
	}
	return b
}

// failure returns what of an answer to a request for one secret counts against the
// issuer. A request that it refuses by its own rules says nothing of others. Nor does a
// denial of what is asked for one secret; only where several are denied, and none is
// served, it is what the issuer is asked with.
func (b *breaker) failure(secretID string, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch denied := errors.Is(err, backends.ErrDenied); {
	case !denied && !backends.Retryable(err):
		b.denied, b.many = "", false
		return nil
	case denied:
		b.many = b.many || b.denied != "" && b.denied != secretID
		b.denied = secretID
		if !b.many {
			return nil
		}
	}
	b.last = err.Error()
	return err
}

// over tells whether it was found so long ago, with nobody asking since, that it says
// nothing of now.
func (d IssuerDown) over(now time.Time) bool {
	return d.Since.IsZero() || now.Sub(d.Until) > unknownAfter
}

func (e *Engine) breakerTurned(issuer string, b *breaker, to gobreaker.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := e.Now()
	switch to {
	case gobreaker.StateOpen:
		if b.state.over(now) {
			b.state.Since = now
			e.Logger.Error("an issuer keeps failing: rotations wait, except in an emergency", "issuer", issuer, "tried_again_in", breakFor, "error", b.last)
		}
		b.state.Until, b.state.Error = now.Add(breakFor), b.last
	case gobreaker.StateClosed:
		b.state = IssuerDown{}
		e.Logger.Info("an issuer works again", "issuer", issuer)
	}
}

// leftAlone tells until when the issuer is left alone; zero if it may be asked now.
func (e *Engine) leftAlone(issuer string) IssuerDown {
	b := e.breaker(issuer)
	state := b.State()
	idle := b.Counts().Requests == 0
	b.mu.Lock()
	defer b.mu.Unlock()
	if state == gobreaker.StateClosed || state == gobreaker.StateHalfOpen && idle {
		return IssuerDown{}
	}
	down := b.state
	if soon := e.Now().Add(trialEvery); state == gobreaker.StateHalfOpen || !down.Until.After(e.Now()) {
		down.Until = soon // somebody tries it right now
	}
	return down
}

// asking counts a request to the issuer for a secret; the returned function takes its
// result. ErrUnavailable if the issuer is left alone, unless it is urgent.
func (e *Engine) asking(issuer, secretID string, urgent bool) (func(error), error) {
	b := e.breaker(issuer)
	done, err := b.Allow()
	switch {
	case err == nil:
		return func(err error) { done(b.failure(secretID, err)) }, nil
	case urgent:
		return func(error) {}, nil
	}
	return nil, fmt.Errorf("%w: %s", backends.ErrUnavailable, e.leftAlone(issuer).text(issuer))
}

// noteFailure counts a request of another kind, which nothing holds back, if the issuer
// failed it.
func (e *Engine) noteFailure(issuer, secretID string, err error) {
	failed := backends.Retryable(err) || errors.Is(err, backends.ErrDenied)
	if !failed || e.breaker(issuer).failure(secretID, err) == nil {
		return
	}
	if answered, refused := e.asking(issuer, secretID, false); refused == nil {
		answered(err)
	}
}

// IssuersDown returns the issuers of the configuration that keep failing, by name; nil:
// it works, or nobody has asked it for a while. Each is down until a request of it
// succeeds, or it is configured anew.
func (e *Engine) IssuersDown() map[string]*IssuerDown {
	out := map[string]*IssuerDown{}
	for name := range e.catalog.Load().Issuers {
		out[name] = nil
		b := e.breaker(name)
		b.mu.Lock()
		if down := b.state; !down.over(e.Now()) {
			out[name] = &down
		}
		b.mu.Unlock()
	}
	return out
}

// forgetBreakers drops those of issuers that are not the same in another catalog.
func (e *Engine) forgetBreakers(before, after *Catalog) {
	e.breakers.mu.Lock()
	defer e.breakers.mu.Unlock()
	for name := range e.breakers.m {
		if !same(before.Issuers[name], after.Issuers[name]) {
			delete(e.breakers.m, name)
		}
	}
}

// same tells whether two components are one, where that can be told.
func same(a, b any) bool {
	return a != nil && b != nil && reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}
