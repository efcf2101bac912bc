package backends

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Retries wait 100 ms, then twice as long each time up to 2 s, each time
// randomised by half so that many callers do not return in step. Where the vault
// says how long to wait, it is that and up to half as much again.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// listTimeout is how long List may take, where Limits.Timeout is shorter: a page
// may cost its driver a request for each hundred names of the vault.
const listTimeout = 2 * time.Minute

// operation is one of Driver's or Stager's: its name in metrics, and in errors.
type operation struct {
	name, doing string
	once        bool          // it is not tried again
	inTurn      bool          // those on one secret follow each other; see turns
	atLeast     time.Duration // it may take that long, whatever the limits say
}

var (
	reading        = operation{name: "read", doing: "reading"}
	describing     = operation{name: "describe", doing: "describing"}
	publishing     = operation{name: "publish", doing: "publishing", inTurn: true}
	publishingOnce = operation{name: "publish", doing: "publishing", inTurn: true, once: true}
	staging        = operation{name: "stage", doing: "staging"}
	promoting      = operation{name: "promote", doing: "promoting a version of"}
	retiring       = operation{name: "retire", doing: "retiring a version of"}
	destroying     = operation{name: "destroy", doing: "destroying a version of"}
	listing        = operation{name: "list", doing: "listing", atLeast: listTimeout}
	checking       = operation{name: "check", doing: "checking"}
)

// observe is deferred to tell the observer of a call that ends with *err.
func (m *Mount) observe(o operation, err *error) func() {
	began := time.Now()
	return func() { m.observer.Called(m.name, o.name, Class(*err), time.Since(began)) }
}

// takes tells whether anything can be written here.
func (m *Mount) takes() error {
	if m.readOnly {
		return fmt.Errorf("%w: the backend is read-only", ErrUnsupported)
	}
	return nil
}

// takesValue tells whether v can be written here, as far as every driver's values
// have to be alike.
func (m *Mount) takesValue(v Value) error {
	if err := m.takes(); err != nil {
		return err
	}
	return v.storable(m.Capabilities())
}

// change is call for what writes and gives only an error.
func (m *Mount) change(ctx context.Context, o operation, ref Ref, op func(context.Context) error) error {
	_, err := call(ctx, m, o, ref, m.takes(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, op(ctx)
	})
	return err
}

// call is the way of every operation on one secret to the driver, unless there is
// a refusal already. It refuses names that ParseName refuses, so that no driver
// ever builds a path from one.
func call[T any](ctx context.Context, m *Mount, o operation, ref Ref, refusal error, op func(context.Context) (T, error)) (result T, err error) {
	if refusal == nil {
		refusal = ParseName(ref.Name)
	}
	if refusal != nil {
		defer m.observe(o, &err)()
		err = refusal
	} else {
		result, err = attempt(ctx, m, o, ref, op)
	}
	if err != nil {
		var none T
		return none, fmt.Errorf("backend %s: %s %s: %w", m.name, o.doing, ref, err) // the one wrap around a driver's error
	}
	return result, nil
}

// attempt runs op until it succeeds, fails for good or time is up. A call that has
// begun keeps trying also while others are kept from the vault: it is among those
// that find out first when the vault is back.
func attempt[T any](ctx context.Context, m *Mount, o operation, ref Ref, op func(context.Context) (T, error)) (result T, err error) {
	defer m.observe(o, &err)()
	timeout := max(m.timeout, o.atLeast)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := m.begin(ctx); err != nil {
		return result, err
	}
	if o.inTurn { // before it takes a slot from those who could use it
		leave, err := m.turns.take(ctx, ref)
		if err != nil {
			return result, err
		}
		defer leave()
	}
	deadline, _ := ctx.Deadline()

	var last error
	result, err = backoff.Retry(ctx, func() (T, error) {
		result, err := once(ctx, m, op)
		if err == nil {
			return result, nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // what the vault said outlives the "deadline exceeded" after it
		}
		if !Retryable(err) || o.once {
			return result, backoff.Permanent(err)
		}
		if wait, ok := RetryAfter(err); ok && wait >= firstRetry {
			wait = min(wait, timeout)                                                // and that is given up at once
			return result, &backoff.RetryAfterError{Duration: wait + rand.N(wait/2)} //nolint:gosec // it scatters callers, and keeps no secret
		}
		return result, err
	},
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval:     firstRetry,
			RandomizationFactor: 0.5,
			Multiplier:          2,
			MaxInterval:         lastRetry,
		}),
		backoff.WithMaxElapsedTime(time.Until(deadline)), // no wait that the deadline would cut short
	)
	if err != nil {
		return result, classified(last)
	}
	return result, nil
}

// once admits one attempt, runs it and tells the breaker how it went.
func once[T any](ctx context.Context, m *Mount, op func(context.Context) (T, error)) (T, error) {
	var none T
	if err := m.limiter.Wait(ctx); err != nil {
		return none, fmt.Errorf("%w: waiting for the rate limit: %w", ErrUnavailable, err)
	}
	if m.slots != nil {
		select {
		case m.slots <- struct{}{}:
			defer func() { <-m.slots }()
		case <-ctx.Done():
			return none, fmt.Errorf("%w: %d calls are under way already: %w", ErrUnavailable, cap(m.slots), context.Cause(ctx))
		}
	}
	began := time.Now()
	result, err := op(ctx)
	m.breaker.heard(ctx, began, err)
	return result, err
}

// turns lets one writer of a secret at a time through. Secrets share them by
// chance, which costs no more than a wait.
type turns struct {
	seed  maphash.Seed
	taken []chan struct{}
}

func newTurns() turns {
	t := turns{seed: maphash.MakeSeed(), taken: make([]chan struct{}, 64)}
	for i := range t.taken {
		t.taken[i] = make(chan struct{}, 1)
	}
	return t
}

// take waits for the secret's turn, which leave ends. The zero turns are free.
func (t turns) take(ctx context.Context, ref Ref) (leave func(), err error) {
	if t.taken == nil {
		return func() {}, nil
	}
	turn := t.taken[maphash.Comparable(t.seed, ref)%uint64(len(t.taken))]
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: another write is under way: %w", ErrUnavailable, context.Cause(ctx))
	}
}

// classified gives an error without a class the one of an unknown outcome.
func classified(err error) error {
	if Class(err) == nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
