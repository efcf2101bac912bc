package issuertest

import (
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Harness is one issuer with a fresh system behind it, and what the suite must know
// of that system. Whatever is nil, zero or empty switches its tests off, and the
// suite says so at its end.
type Harness struct {
	Issuer  issuer.Issuer
	Subject issuer.Subject // with settings that the issuer takes
	// Others are more subjects of the issuer, whose credentials have nothing to do
	// with those of Subject or of each other: other tenants, accounts, roles.
	Others []issuer.Subject
	// Key is asked of what the broker makes itself.
	Key issuer.KeySpec

	// Live returns the names of the credentials of all subjects that are live at the
	// system, or can be made live again, seen from its own side, not through Issuer.
	Live func() []string
	// Name is the name in Live of the credential with that handle; nil: it is the tag.
	Name func(issuer.Handle) string
	// Works tells whether a credential works where it is used.
	Works func(backends.Value) bool
	// Public are the names of the fields of a value that are no secret: user names, ids.
	Public []string
	// Unknown makes of a handle one that the system has never heard of; nil: each part
	// is "no-such-credential".
	Unknown func(issuer.Handle) issuer.Handle

	// Cut returns an issuer for the same system whose conversation with it ends at the
	// point n, 0 and up, for good, as if the broker had been killed there; reached
	// tells whether it came that far. CutHTTP and CutTCP make one.
	Cut func(n int) (is issuer.Issuer, reached func() bool)
	// LoseAnswer makes the next Issue act and then lose its answer.
	LoseAnswer func()
	// Outage makes the system answer that it is out of order, or work again.
	Outage func(on bool)
	// Hang makes the system take requests, do nothing and answer none, or work again.
	Hang func(on bool)

	// Refused makes of a request one that the system refuses: by its settings, its key
	// or, of a Preparer, its prepared value. It is given one without a value yet.
	Refused func(issuer.Request) issuer.Request
	// Limited: the system itself allows no more than Traits.MaxLive credentials.
	Limited bool

	// Denied is an issuer for the same system with wrong credentials.
	Denied issuer.Issuer
	// Expired is one with credentials that were good once and are not renewed.
	Expired issuer.Issuer
	// Expire ends the login that Issuer has at the system; it is to make another.
	Expire func()
	// Lacking are issuers whose credentials lack one permission each. A Check of
	// theirs has a problem in whose texts the key occurs.
	Lacking map[string]issuer.Issuer
	// Unreachable is an issuer for a place where nobody listens.
	Unreachable issuer.Issuer

	// Session begins something that lives on its own, derived from a credential; alive
	// tells whether it still does.
	Session func(backends.Value) (alive func() bool)
	// SharedSessions: EndSessions ends those of the subject's other credentials, too.
	SharedSessions bool
	// Use uses a credential so that a UseReporter must know of it.
	Use func(backends.Value)

	// Supply is what a person hands in for a tag; ByHand turns a credential off as a
	// person does. Both are needed for a Person.
	Supply func(tag string) (backends.Value, issuer.Handle)
	ByHand func(issuer.Handle)

	// Secrets must be in no error, finding or note: the issuer's own credentials.
	Secrets []string
}

// Factory makes a harness with nothing live.
type Factory func(t *testing.T) Harness
