// Package issuer is the contract of whoever mints and revokes credentials.
package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Handle names a credential at its issuer, e.g. {"id": "key_123"}. It is not
// secret: it is stored, logged and shown.
type Handle map[string]string

// Kind says how a credential comes into being.
type Kind string

const (
	// Mint: the issuer makes a new credential; old and new live side by side.
	Mint Kind = "mint"
	// Set: the issuer replaces the value of an existing account.
	Set Kind = "set"
)

// Traits declares what an issuer can do, for one secret's settings where it is a
// Shaper; constant over its life.
type Traits struct {
	Kind             Kind
	Fields           []string      // names of the fields that every value has, sorted; nil: not known
	Handle           []string      // names of the parts of every handle, sorted; nil: not known
	MaxLive          int           // credentials that can be live at once; 0 = no limit known
	ShowOnce         bool          // the value is shown at creation only: a found one must be retired
	MaxOverlap       time.Duration // longest overlap it can give; 0 = any, negative = none
	RevocationBudget time.Duration // how long a revocation may take to reach every server
	DerivedSessions  bool          // sessions made from a credential may outlive it
	SelfAttested     bool          // the broker itself decides whether the credential is valid

	// Slots are the accounts, of a Set issuer, whose values are set in turn: the
	// current version is in one, and the next goes to another, which must hold no live
	// version. With a single one a new value ends the one before it at once. They
	// depend on the secret's settings.
	Slots []string
	// Unseen: nobody accepts a value before it is published, so it is not tried then.
	Unseen bool
	// Exclusive, of a Lister: nobody but the broker makes credentials for these
	// subjects, so an id that is new after a lost answer is ours.
	Exclusive bool
	// Soak is how long after Revoke, which only disables, a Remover is to remove.
	Soak time.Duration
}

// InPlace tells whether a new value ends the one before it at once.
func (t Traits) InPlace() bool { return t.Kind == Set && len(t.Slots) == 1 }

// KeySpec is the strength asked of a value that the broker itself generates.
type KeySpec struct {
	Length   int      `json:"length,omitempty"`   // characters of the random part
	Alphabet string   `json:"alphabet,omitempty"` // "base62", "hex", …
	Classes  []string `json:"classes,omitempty"`  // "lower", "upper", "digit", "symbol": at least one character of each
	Prefix   string   `json:"prefix,omitempty"`
	Checksum bool     `json:"checksum,omitempty"`
}

// Subject is the secret that a credential is for, as the issuer and its
// templates see it.
type Subject struct {
	Ref      backends.Ref
	Labels   map[string]string
	Settings json.RawMessage // the secret's own issuer block as a JSON object
}

// Request asks for one credential.
type Request struct {
	Subject Subject
	Tag     string // derived from rotation and attempt: unique, [a-z0-9-], at most 64 bytes
	Attempt int    // 1 for the first
	Version int    // the broker's number of the version
	Key     KeySpec
	// Slot is the account of Traits.Slots to set; empty where there are none.
	Slot string
	// Urgent: in an emergency.
	Urgent bool
	// Prepared is the value made by Prepare, sealed before this call; zero for an
	// issuer that is no Preparer.
	Prepared backends.Value
}

// Credential is what an issuer made.
type Credential struct {
	Value    backends.Value
	Handle   Handle
	NotAfter time.Time // zero: it does not expire by itself
}

// ErrNotSent stands beside backends.ErrUnavailable where the issuer certainly
// heard nothing of a request: no connection could be made (refused, no such
// host, no TLS), so nothing was asked of anybody. An issuer that cannot tell
// leaves it out.
var ErrNotSent = errors.New("the request was not sent")

// Issuer mints and revokes. Implementations are safe for concurrent use, honour
// the context's deadline, wrap errors in the classes of package backends and
// pass issuertest.Run.
type Issuer interface {
	Traits() Traits

	// Issue makes the credential named by req.Tag. After ErrUnavailable it may or
	// may not exist; the caller then recovers by Find, or, with a Preparer, by
	// calling Issue again with the same request, which must not make a second one.
	// An error that matches ErrNotSent as well was never sent: nothing was made. Where
	// the handle was heard and nothing else that can be used, the credential has it, and
	// is retired by it.
	// ErrInvalid and ErrDenied are final for this request: nothing was made.
	Issue(ctx context.Context, req Request) (Credential, error)

	// Revoke turns the credential off. It is idempotent; one that the issuer does
	// not know (any more) is no error: that is an acknowledgement, never a proof.
	Revoke(ctx context.Context, sub Subject, h Handle) error
}

// Preparer is implemented by issuers whose value the broker generates: the value
// is sealed and committed before Issue is called with it.
type Preparer interface {
	Prepare(req Request) (backends.Value, error)
}

// Found is a credential that exists at the issuer.
type Found struct {
	Handle Handle
	Tag    string
}

// Finder is implemented by issuers that can look a credential up by its tag.
type Finder interface {
	// Find returns the credentials whose tag is exactly tag; none is no error.
	Find(ctx context.Context, sub Subject, tag string) ([]Found, error)
}

// Lister is implemented by issuers whose credentials carry no tag. What it lists
// before a mint is kept with the intent; after a lost answer what is new there is
// ours if Traits.Exclusive says so, and a suspected orphan otherwise.
type Lister interface {
	// List returns the handles of all credentials of the subject that are live or
	// can be made live again.
	List(ctx context.Context, sub Subject) ([]Handle, error)
}

// Setter is implemented by issuers of the kind Set, which are Preparers and Finders,
// too: Find tells whether a slot holds the version with that tag now. A slot knows which
// version it holds and the highest that it ever held: an Issue of a lower one, or of one
// that was put back from, changes nothing and is ErrConflict. A Revoke of what a slot
// holds no more changes nothing and is no error.
type Setter interface {
	// SlotOf tells in which slot a credential is; empty if it cannot be told.
	SlotOf(h Handle) string
	// PutBack sets the value of an older version, req, once more, in place of that of
	// version over, of which no Issue can succeed from then on. It may be repeated.
	// h is the handle of the older version, which is valid again.
	PutBack(ctx context.Context, req Request, h Handle, over int) error
}

// Remover is implemented by issuers that turn off in two steps: Revoke disables,
// and after Traits.Soak Remove deletes for good. Both are idempotent.
type Remover interface {
	Remove(ctx context.Context, sub Subject, h Handle) error
}

// SessionEnder is implemented by issuers that can end what was derived from a
// credential. It is called after Revoke and may be repeated. ErrUnsupported: this
// one cannot be, by its configuration; ErrDenied: it is not allowed to.
type SessionEnder interface {
	EndSessions(ctx context.Context, sub Subject, h Handle) error
}

// Use is when a credential was last used.
type Use struct {
	At    time.Time // zero: never, as far as is known
	Where string    // for people: "3 sessions open", "s3 in eu-central-1"
}

// UseReporter is implemented by issuers that know when a credential was last used.
type UseReporter interface {
	LastUsed(ctx context.Context, sub Subject, h Handle) (Use, error)
}

// Finding is one result of a Check.
type Finding struct {
	What    string // "may create access keys for user ci"
	Problem string // empty: it is as it should be
	Mend    string // how to mend the problem
	Unknown bool   // it cannot be told without an effect; Problem says why
}

// Checker is implemented by issuers that can try their permissions without any effect.
type Checker interface {
	// Check looks whether what a rotation of this subject needs is there and allowed.
	Check(ctx context.Context, sub Subject) []Finding
}

// ErrByHand: Revoke asks a person, and the broker can only watch for the death.
var ErrByHand = errors.New("it is to be turned off by hand")

// Task is what a person is asked for.
type Task struct {
	Mint     string        // instructions for making a credential
	Revoke   string        // instructions for turning one off
	Deadline time.Duration // from the beginning of the mint
	Remind   time.Duration // how often people are told again
}

// Person is implemented by issuers that are people. The value is handed in by one,
// checked by Accept, and sealed, and stands in for what Prepare makes elsewhere; then
// Issue is called with it. Revoke returns ErrByHand.
type Person interface {
	Task(sub Subject, tag string) Task
	// Accept says what is wrong with what was handed in: ErrInvalid, without any value in it.
	Accept(sub Subject, value backends.Value, h Handle) error
}

// Shaper is implemented by issuers whose traits depend on what a secret asks of them.
type Shaper interface {
	TraitsFor(settings json.RawMessage) Traits
}

// TraitsOf returns what is can do for a secret with these settings.
func TraitsOf(is Issuer, settings json.RawMessage) Traits {
	if s, ok := is.(Shaper); ok {
		return s.TraitsFor(settings)
	}
	return is.Traits()
}

// SettingsChecker is implemented by issuers that take a block of settings from
// each secret; without it a secret's issuer block must be empty.
type SettingsChecker interface {
	// CheckSettings returns what is wrong with a secret's settings (a JSON object,
	// or null), as texts for the operator.
	CheckSettings(settings json.RawMessage) []string
}

// KeyChecker is implemented by issuers whose values are made as a KeySpec asks.
type KeyChecker interface {
	// CheckKey returns the spec with what it leaves to the issuer filled in. ErrInvalid
	// names what the issuer cannot make: "key.alphabet: base62 alone can be made".
	CheckKey(spec KeySpec) (KeySpec, error)
}
