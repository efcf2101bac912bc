package backends

import (
	"errors"
	"time"
)

// The classes of error, the same for the same situation in every backend,
// issuer and probe. Test with errors.Is; a driver maps its SDK's codes to one of
// them in a table.
var (
	// ErrNotFound: no such secret or version.
	ErrNotFound = errors.New("not found")
	// ErrDenied: the vault or issuer refuses our credentials or rights.
	ErrDenied = errors.New("denied")
	// ErrConflict: a guarded write met another state than it expected.
	ErrConflict = errors.New("conflict")
	// ErrInvalid: the request itself is wrong and will stay so.
	ErrInvalid = errors.New("invalid")
	// ErrUnsupported: the backend or issuer cannot do this at all.
	ErrUnsupported = errors.New("unsupported")
	// ErrUnavailable: no answer, or one that says to try again later. The
	// effect may or may not have happened.
	ErrUnavailable = errors.New("unavailable")
)

var classes = []error{ErrNotFound, ErrDenied, ErrConflict, ErrInvalid, ErrUnsupported, ErrUnavailable}

// Class returns the class of err, or nil if it carries none.
func Class(err error) error {
	for _, c := range classes {
		if errors.Is(err, c) {
			return c
		}
	}
	return nil
}

// Retryable tells whether the same call may succeed later: the class is
// ErrUnavailable, or err has no class at all (an unknown failure is not taken
// for a final one).
func Retryable(err error) bool {
	if err == nil {
		return false
	}
	c := Class(err)
	return c == nil || errors.Is(c, ErrUnavailable)
}

// After adds to err how long to wait before asking again, where the vault said so
// (Retry-After).
func After(wait time.Duration, err error) error { return &delayedError{err, wait} }

type delayedError struct {
	error
	wait time.Duration
}

func (e *delayedError) Unwrap() error             { return e.error }
func (e *delayedError) RetryAfter() time.Duration { return e.wait }

// RetryAfter is how long to wait before asking again, if err carries it: by After, or
// by any error with the method RetryAfter() time.Duration.
func RetryAfter(err error) (wait time.Duration, ok bool) {
	var delayed interface{ RetryAfter() time.Duration }
	if errors.As(err, &delayed) {
		return delayed.RetryAfter(), true
	}
	return 0, false
}
