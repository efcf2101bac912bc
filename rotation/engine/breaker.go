package engine

import (
	"errors"
	"fmt"
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
)

// breakers hold one breaker per issuer, by its name. They are kept in memory: a
// process that starts anew asks once more, that is all.
type breakers struct {
	mu sync.Mutex
	m  map[string]*gobreaker.TwoStepCircuitBreaker[struct{}]
}

func (e *Engine) breaker(issuer string) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	e.breakers.mu.Lock()
	defer e.breakers.mu.Unlock()
	b, ok := e.breakers.m[issuer]
	if !ok {
		b = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name:        issuer,
			Timeout:     breakFor,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
			OnStateChange: func(name string, _, to gobreaker.State) {
				switch to {
				case gobreaker.StateOpen:
					e.Logger.Error("an issuer keeps failing: rotations wait, except in an emergency", "issuer", name, "tried_again_in", breakFor)
				case gobreaker.StateClosed:
					e.Logger.Info("an issuer works again", "issuer", name)
				}
			},
			// A request that the issuer refuses by its own rules says nothing of others.
			IsSuccessful: func(err error) bool {
				return !backends.Retryable(err) && !errors.Is(err, backends.ErrDenied)
			},
		})
		e.breakers.m[issuer] = b
	}
	return b
}

// broken tells whether the issuer is left alone now.
func (e *Engine) broken(issuer string) bool {
	return e.breaker(issuer).State() == gobreaker.StateOpen
}

// asking counts a request to the issuer; the returned function takes its result.
// ErrUnavailable if the issuer is left alone, unless it is urgent.
func (e *Engine) asking(issuer string, urgent bool) (func(error), error) {
	done, err := e.breaker(issuer).Allow()
	switch {
	case err == nil:
		return done, nil
	case urgent:
		return func(error) {}, nil
	}
	return nil, fmt.Errorf("%w: issuer %q failed %d times in a row and is left alone for %s", backends.ErrUnavailable, issuer, breakAfter, breakFor)
}
