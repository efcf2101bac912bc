package authn

import (
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Refused is the error of a caller who is told why: the text says no more than they
// know of themselves. It is ErrDenied.
type Refused struct{ text string }

// Error implements error.
func (e *Refused) Error() string { return e.text }

// Unwrap gives the class.
func (e *Refused) Unwrap() error { return backends.ErrDenied }

// Slowed is the error of a caller whose address has failed too often. It is ErrDenied.
type Slowed struct{ after time.Duration }

// Error implements error.
func (e *Slowed) Error() string {
	return "too many failed attempts to authenticate from this address: stay away for a while. Waiting does not make these credentials good; right ones are accepted at any time"
}

// Unwrap gives the class.
func (e *Slowed) Unwrap() error { return backends.ErrDenied }

// RetryAfter is how long the caller is to stay away.
func (e *Slowed) RetryAfter() time.Duration { return e.after }

// errCannotTell is all that somebody whom we do not know is told of our state.
var errCannotTell = fmt.Errorf("authenticating: %w: the broker cannot tell now who calls", backends.ErrUnavailable)
