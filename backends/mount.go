package backends

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// DefaultTimeout bounds one call of a Mount whose Limits name no other.
const DefaultTimeout = 10 * time.Second

// Limits is how much one Mount may ask of its vault.
type Limits struct {
	Timeout           time.Duration // per call with all its retries; 0 = DefaultTimeout; List has 2 minutes at least
	RequestsPerSecond float64       // attempts, in bursts of up to one second's worth; 0 = unlimited
	MaxConcurrent     int           // attempts under way at once; 0 = unlimited
}

// Options are what a Mount adds to its driver.
type Options struct {
	Limits   Limits
	ReadOnly bool     // what would write is ErrUnsupported, and the driver is not asked
	Observer Observer // nil: nobody
}

// Observer is told what Mounts do, for metrics. It must not block, nor call the
// Mount.
type Observer interface {
	// Called is told of a call once it has ended, with all its attempts: read,
	// describe, publish, stage, promote, retire, destroy, list or check. The class is
	// nil after a success.
	Called(backend, operation string, class error, took time.Duration)
	// Breaker is told when calls to a backend begin to fail without its being asked
	// (open), and when that ends.
	Breaker(backend string, open bool)
}

// Mount is a vault under the name that the configuration gives it: a Driver
// with a timeout, retries, limits, a circuit breaker and errors that say which
// backend and secret they are about. It is safe for concurrent use and is what
// every caller uses.
//
// Its methods are those of Driver, with the same errors. ErrUnavailable is
// retried until the timeout or the context ends; what is returned then is the
// last error, always in one of the package's classes. While a vault is found to be
// down, new calls get ErrUnavailable at once.
type Mount struct {
	name     string
	driver   Driver
	readOnly bool
	observer Observer // never nil
	timeout  time.Duration
	limiter  *rate.Limiter
	slots    chan struct{} // nil: no limit
	breaker  breaker
	turns    turns // none where the vault guards its writes itself
}

var _ Driver = (*Mount)(nil)

// NewMount puts a name and the options around a driver.
func NewMount(name string, driver Driver, o Options) *Mount {
	m := &Mount{
		name:     name,
		driver:   driver,
		readOnly: o.ReadOnly || driver.Capabilities().ReadOnly,
		observer: o.Observer,
		timeout:  o.Limits.Timeout,
		limiter:  rate.NewLimiter(rate.Inf, 0),
	}
	if m.observer == nil {
		m.observer = nobody{}
	}
	if m.timeout <= 0 {
		m.timeout = DefaultTimeout
	}
	m.breaker = breaker{
		now:      time.Now,
		changed:  func(open bool) { m.observer.Breaker(name, open) },
		patience: min(trialTimeout, m.timeout),
	}
	if perSecond := o.Limits.RequestsPerSecond; perSecond > 0 {
		m.limiter = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
	}
	if o.Limits.MaxConcurrent > 0 {
		m.slots = make(chan struct{}, o.Limits.MaxConcurrent)
	}
	if !driver.Capabilities().CompareSwap {
		m.turns = newTurns()
	}
	return m
}

// nobody observes nothing.
type nobody struct{}

func (nobody) Called(string, string, error, time.Duration) {}
func (nobody) Breaker(string, bool)                        {}

// Name is the backend's name in the configuration.
func (m *Mount) Name() string { return m.name }

// Capabilities says what the vault can do, and that it is read-only if it was
// mounted so.
func (m *Mount) Capabilities() Capabilities {
	c := m.driver.Capabilities()
	c.ReadOnly = m.readOnly
	return c
}

// Read returns a version's value; see Driver.
func (m *Mount) Read(ctx context.Context, ref Ref, id VersionID) (Value, VersionID, error) {
	type version struct {
		value Value
		id    VersionID
	}
	v, err := call(ctx, m, reading, ref, nil, func(ctx context.Context) (version, error) {
		value, at, err := m.driver.Read(ctx, ref, id)
		return version{value, at}, err
	})
	return v.value, v.id, err
}

// Describe returns what the vault knows of the secret's versions; see Driver.
func (m *Mount) Describe(ctx context.Context, ref Ref) (Description, error) {
	return call(ctx, m, describing, ref, nil, func(ctx context.Context) (Description, error) {
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
//
// Where the vault has no compare-and-swap, the driver looks before it writes. The
// writers of one Mount then take turns, so that exactly one of them wins; a wait for
// a turn is part of the call's time. Somebody else who writes between the look and
// the write is overwritten: another node, or a call that began before the
// configuration was reloaded and ends on the Mount that was replaced.
func (m *Mount) Publish(ctx context.Context, ref Ref, w Write) (VersionID, error) {
	return m.publish(ctx, publishing, ref, w)
}

// PublishOnce is Publish with a single attempt, for who has to make sure before
// each of them that the write is still wanted.
func (m *Mount) PublishOnce(ctx context.Context, ref Ref, w Write) (VersionID, error) {
	return m.publish(ctx, publishingOnce, ref, w)
}

func (m *Mount) publish(ctx context.Context, o operation, ref Ref, w Write) (VersionID, error) {
	return call(ctx, m, o, ref, m.takesValue(w.Value), func(ctx context.Context) (VersionID, error) {
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
	return m.change(ctx, retiring, ref, func(ctx context.Context) error {
		return m.driver.Retire(ctx, ref, id)
	})
}

// Destroy removes a version's value for good; see Driver.
func (m *Mount) Destroy(ctx context.Context, ref Ref, id VersionID) error {
	return m.change(ctx, destroying, ref, func(ctx context.Context) error {
		return m.driver.Destroy(ctx, ref, id)
	})
}

// List returns a page of the tenant's secrets in this vault; see Driver.
func (m *Mount) List(ctx context.Context, tenant, after string, limit int) ([]string, string, error) {
	type page struct {
		names []string
		next  string
	}
	p, err := attempt(ctx, m, listing, Ref{}, func(ctx context.Context) (page, error) {
		names, next, err := m.driver.List(ctx, tenant, after, limit)
		return page{names, next}, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("backend %s: listing: %w", m.name, err)
	}
	return p.names, p.next, nil
}

// Check tells whether the vault can be used now; see Driver. It always asks, at
// once and once: readiness is about this moment, and waits neither for the limits
// nor behind calls that hang. If the vault answers, calls that were kept from it are
// let through again.
func (m *Mount) Check(ctx context.Context) (err error) {
	defer m.observe(checking, &err)()
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	began := m.breaker.now()
	err = m.driver.Check(ctx)
	m.breaker.heard(ctx, began, err)
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
	return call(ctx, s.mount, staging, ref, s.mount.takesValue(w.Value), func(ctx context.Context) (VersionID, error) {
		return s.stager.Stage(ctx, ref, w)
	})
}

func (s mountStager) Promote(ctx context.Context, ref Ref, id, expect VersionID) error {
	return s.mount.change(ctx, promoting, ref, func(ctx context.Context) error {
		return s.stager.Promote(ctx, ref, id, expect)
	})
}
