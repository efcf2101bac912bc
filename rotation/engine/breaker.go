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

	mu    sync.Mutex
	state IssuerDown // zero: it works
	last  string     // error
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
			IsSuccessful:  works,
		})
		e.breakers.m[issuer] = b
	}
	return b
}

// works tells whether an answer is that of an issuer that works: a request that it
// refuses by its own rules says nothing of others.
func works(err error) bool { return !backends.Retryable(err) && !errors.Is(err, backends.ErrDenied) }

func (e *Engine) breakerTurned(issuer string, b *breaker, to gobreaker.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := e.Now()
	switch to {
	case gobreaker.StateOpen:
		if b.state.Since.IsZero() {
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

// asking counts a request to the issuer; the returned function takes its result.
// ErrUnavailable if the issuer is left alone, unless it is urgent.
func (e *Engine) asking(issuer string, urgent bool) (func(error), error) {
	b := e.breaker(issuer)
	done, err := b.Allow()
	switch {
	case err == nil:
		return func(err error) {
			if !works(err) {
				b.mu.Lock()
				b.last = err.Error()
				b.mu.Unlock()
			}
			done(err)
		}, nil
	case urgent:
		return func(error) {}, nil
	}
	return nil, fmt.Errorf("%w: %s", backends.ErrUnavailable, e.leftAlone(issuer).text(issuer))
}

// noteFailure counts a request of another kind, which nothing holds back, if the issuer
// failed it.
func (e *Engine) noteFailure(issuer string, err error) {
	if works(err) {
		return
	}
	if answered, refused := e.asking(issuer, false); refused == nil {
		answered(err)
	}
}

// IssuersDown returns the issuers of the configuration that keep failing, by name; nil:
// it works. Each is down until a request of it succeeds, or it is configured anew.
func (e *Engine) IssuersDown() map[string]*IssuerDown {
	out := map[string]*IssuerDown{}
	for name := range e.catalog.Load().Issuers {
		out[name] = nil
		b := e.breaker(name)
		b.mu.Lock()
		if down := b.state; !down.Since.IsZero() {
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
