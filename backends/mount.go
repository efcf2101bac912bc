package backends

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"
)

// DefaultTimeout bounds one call of a Mount whose Limits name no other.
const DefaultTimeout = 10 * time.Second

// Retries wait 100 ms, then twice as long each time up to 2 s, each time
// randomised by half so that many callers do not return in step.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// Limits is how much one Mount may ask of its vault.
type Limits struct {
	Timeout           time.Duration // per call with all its retries; 0 = DefaultTimeout
	RequestsPerSecond float64       // attempts, in bursts of up to one second's worth; 0 = unlimited
	MaxConcurrent     int           // attempts under way at once; 0 = unlimited
}

// Mount is a vault under the name that the configuration gives it: a Driver
// with a timeout, retries, limits and errors that say which backend and secret
// they are about. It is safe for concurrent use and is what every caller uses.
//
// Its methods are those of Driver, with the same errors. ErrUnavailable is
// retried until the timeout or the context ends; what is returned then is the
// last error, always in one of the package's classes.
type Mount struct {
	name    string
	driver  Driver
	timeout time.Duration
	limiter *rate.Limiter
	slots   chan struct{} // nil: no limit
}

var _ Driver = (*Mount)(nil)

// NewMount puts limits and a name around a driver.
func NewMount(name string, driver Driver, limits Limits) *Mount {
	m := &Mount{
		name:    name,
		driver:  driver,
		timeout: limits.Timeout,
		limiter: rate.NewLimiter(rate.Inf, 0),
	}
	if m.timeout <= 0 {
		m.timeout = DefaultTimeout
	}
	if limits.RequestsPerSecond > 0 {
		burst := max(1, int(limits.RequestsPerSecond))
		m.limiter = rate.NewLimiter(rate.Limit(limits.RequestsPerSecond), burst)
	}
	if limits.MaxConcurrent > 0 {
		m.slots = make(chan struct{}, limits.MaxConcurrent)
	}
	return m
}

// Name is the backend's name in the configuration.
func (m *Mount) Name() string { return m.name }

// Capabilities says what the vault can do.
func (m *Mount) Capabilities() Capabilities { return m.driver.Capabilities() }

// Read returns a version's value; see Driver.
func (m *Mount) Read(ctx context.Context, ref Ref, id VersionID) (Value, VersionID, error) {
	type version struct {
		value Value
		id    VersionID
	}
	v, err := call(ctx, m, "reading", ref, func(ctx context.Context) (version, error) {
		value, at, err := m.driver.Read(ctx, ref, id)
		return version{value, at}, err
	})
	return v.value, v.id, err
}

// Describe returns what the vault knows of the secret's versions; see Driver.
func (m *Mount) Describe(ctx context.Context, ref Ref) (Description, error) {
	return call(ctx, m, "describing", ref, func(ctx context.Context) (Description, error) {
		return m.driver.Describe(ctx, ref)
	})
}

// Publish makes w.Value the current version; see Driver.
//
// It may be repeated: on a conflict the current version is read, and if it
// holds exactly w.Value, its id is returned as if this call had written it. A
// write whose answer was lost, to a timeout here or to a crash of the broker
// before it recorded the result, is thereby found instead of failing for ever
// or being written twice. Who expected another value still gets ErrConflict.
func (m *Mount) Publish(ctx context.Context, ref Ref, w Write) (VersionID, error) {
	if err := w.Value.storable(m.Capabilities()); err != nil {
		return "", m.fail("publishing", ref, err)
	}
	return call(ctx, m, "publishing", ref, func(ctx context.Context) (VersionID, error) {
		id, err := m.driver.Publish(ctx, ref, w)
		if !errors.Is(err, ErrConflict) {
			return id, err
		}
		return m.adopt(ctx, ref, w.Value, err)
	})
}

// adopt returns the id of the current version if it holds want, else conflict;
// or why it could not tell, where asking again may help.
func (m *Mount) adopt(ctx context.Context, ref Ref, want Value, conflict error) (VersionID, error) {
	have, id, err := m.driver.Read(ctx, ref, "")
	switch {
	case err == nil && have.Equal(want):
		return id, nil
	case Retryable(err):
		return "", fmt.Errorf("after a conflict, reading what is current: %w", err)
	}
	return "", conflict
}

// Retire takes a version out of use; see Driver.
func (m *Mount) Retire(ctx context.Context, ref Ref, id VersionID) error {
	return m.do(ctx, "retiring a version of", ref, func(ctx context.Context) error {
		return m.driver.Retire(ctx, ref, id)
	})
}

// Destroy removes a version's value for good; see Driver.
func (m *Mount) Destroy(ctx context.Context, ref Ref, id VersionID) error {
	return m.do(ctx, "destroying a version of", ref, func(ctx context.Context) error {
		return m.driver.Destroy(ctx, ref, id)
	})
}

// List returns a page of the tenant's secrets in this vault; see Driver.
func (m *Mount) List(ctx context.Context, tenant, after string, limit int) ([]string, string, error) {
	type page struct {
		names []string
		next  string
	}
	p, err := attempt(ctx, m, func(ctx context.Context) (page, error) {
		names, next, err := m.driver.List(ctx, tenant, after, limit)
		return page{names, next}, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("backend %s: listing: %w", m.name, err)
	}
	return p.names, p.next, nil
}

// Check tells whether the vault can be used now; see Driver. It asks once:
// readiness is about this moment.
func (m *Mount) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	_, err := once(ctx, m, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.driver.Check(ctx)
	})
	if err != nil {
		return fmt.Errorf("backend %s: checking: %w", m.name, classified(err))
	}
	return nil
}

// Stager returns the vault's stages, under the same limits and retries, if it
// has any.
func (m *Mount) Stager() (Stager, bool) {
	s, ok := m.driver.(Stager)
	if !ok {
		return nil, false
	}
	return mountStager{m, s}, true
}

type mountStager struct {
	mount  *Mount
	stager Stager
}

func (s mountStager) Stage(ctx context.Context, ref Ref, w Write) (VersionID, error) {
	if err := w.Value.storable(s.mount.Capabilities()); err != nil {
		return "", s.mount.fail("staging", ref, err)
	}
	return call(ctx, s.mount, "staging", ref, func(ctx context.Context) (VersionID, error) {
		return s.stager.Stage(ctx, ref, w)
	})
}

func (s mountStager) Promote(ctx context.Context, ref Ref, id, expect VersionID) error {
	return s.mount.do(ctx, "promoting a version of", ref, func(ctx context.Context) error {
		return s.stager.Promote(ctx, ref, id, expect)
	})
}

func (m *Mount) do(ctx context.Context, doing string, ref Ref, op func(context.Context) error) error {
	_, err := call(ctx, m, doing, ref, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, op(ctx)
	})
	return err
}

// call is the way of every operation on one secret to the driver. It refuses
// names that ParseName refuses, so that no driver ever builds a path from one.
func call[T any](ctx context.Context, m *Mount, doing string, ref Ref, op func(context.Context) (T, error)) (T, error) {
	var none T
	if err := ParseName(ref.Name); err != nil {
		return none, m.fail(doing, ref, err)
	}
	result, err := attempt(ctx, m, op)
	if err != nil {
		return none, m.fail(doing, ref, err)
	}
	return result, nil
}

// fail is the one wrap around a driver's error.
func (m *Mount) fail(doing string, ref Ref, err error) error {
	return fmt.Errorf("backend %s: %s %s: %w", m.name, doing, ref, err)
}

// attempt runs op until it succeeds, fails for good or time is up.
func attempt[T any](ctx context.Context, m *Mount, op func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()

	var last error
	result, err := backoff.Retry(ctx, func() (T, error) {
		result, err := once(ctx, m, op)
		if err == nil {
			return result, nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // what the vault said outlives the "deadline exceeded" after it
		}
		if !Retryable(err) {
			return result, backoff.Permanent(err)
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

// once admits one attempt and runs it.
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
	return op(ctx)
}

// classified gives an error without a class the one of an unknown outcome.
func classified(err error) error {
	if Class(err) == nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
