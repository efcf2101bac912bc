package backends

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// suspicious is after how many attempts in a row without an answer the vault
	// itself is in doubt.
	suspicious = 3
	// restFor is how long a vault that is down is left alone.
	restFor = 3 * time.Second
	// trialTimeout is how long the question whether the vault is back waits for an
	// answer; less where the Mount's own timeout is shorter.
	trialTimeout = 3 * time.Second
)

// breaker spares callers the wait for a vault that is down. Calls that fail for
// want of an answer only make it doubt; whether it opens is decided by the
// driver's Check, so that one secret that cannot be read, or callers in a hurry,
// close a vault to nobody. While it is open, calls fail at once, but for one in
// restFor, which asks by Check and goes on if the vault is back. A success of
// whatever call closes it.
//
// A vault may hang for longer than any caller waits. So silence is added up over
// the callers, whether they left or ran out of time: of attempts, until there is
// doubt; of trials that ended with their callers, until it opens.
type breaker struct {
	now      func() time.Time
	changed  func(open bool) // called under the lock, in order
	patience time.Duration   // how much silence is too much

	mu       sync.Mutex
	failures int           // attempts without an answer since the last success or trial
	silence  time.Duration // how long those waited, and those whose callers left
	trials   time.Duration // how long trials have waited since the last success
	since    time.Time     // when it opened; zero: it is closed
	next     time.Time     // while it is open: when the vault is asked again
}

// restingError says that the vault was not asked.
type restingError struct {
	since, next time.Time
	wait        time.Duration
}

func (e *restingError) Error() string {
	return fmt.Sprintf("%v: it has not answered since %s and is asked again at %s",
		ErrUnavailable, e.since.UTC().Format(time.RFC3339), e.next.UTC().Format(time.RFC3339))
}

func (e *restingError) Unwrap() error { return ErrUnavailable }

// RetryAfter implements the interface that RetryAfter looks for.
func (e *restingError) RetryAfter() time.Duration { return e.wait }

// admit tells whether a call may begin: it may, it must succeed with Check first
// (trial), or it fails with err. A trial is given to one caller at a time.
func (b *breaker) admit() (trial bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	switch open := !b.since.IsZero(); {
	case open && now.Before(b.next):
		return false, &restingError{b.since, b.next, b.next.Sub(now)}
	case open:
		b.next = now.Add(restFor)
	case b.failures < suspicious:
		return false, nil
	}
	b.failures, b.silence = 0, 0
	return true, nil
}

// answered closes the breaker.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.silence, b.trials = 0, 0, 0
	if !b.since.IsZero() {
		b.since = time.Time{}
		b.changed(false)
	}
}

// unanswered counts an attempt that waited for so long, unless its caller has left:
// that counts by its time alone.
func (b *breaker) unanswered(took time.Duration, left bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !left {
		b.failures++
	}
	if b.silence += took; b.silence >= b.patience {
		b.failures = suspicious
	}
}

// undecided counts a trial that ended with its caller and tells whether the vault
// has been silent for long enough by now.
func (b *breaker) undecided(took time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trials += took
	return b.trials >= b.patience
}

// open lets calls fail until the vault has rested.
func (b *breaker) open() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.next = now.Add(restFor)
	if b.since.IsZero() {
		b.since = now
		b.changed(true)
	}
}

// heard is told how an attempt that began then has ended.
func (b *breaker) heard(ctx context.Context, began time.Time, err error) {
	switch {
	case err == nil:
		b.answered()
	case Retryable(err):
		b.unanswered(b.now().Sub(began), errors.Is(ctx.Err(), context.Canceled))
	}
}

// begin lets a call begin, or says why it must not. A trial is not held to the
// limits: they may be used up by calls that hang.
func (m *Mount) begin(ctx context.Context) error {
	trial, err := m.breaker.admit()
	if !trial {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, m.breaker.patience)
	defer cancel()
	began := m.breaker.now()
	err = m.driver.Check(asking)
	switch {
	case err == nil || !Retryable(err): // it answers, if only to refuse us
		m.breaker.answered()
		return nil
	case ctx.Err() == nil || m.breaker.undecided(m.breaker.now().Sub(began)):
		m.breaker.open()
	}
	return fmt.Errorf("asking whether the vault is there: %w", classified(err))
}
