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

// Traits declares what an issuer can do; constant over its life.
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
}

// KeySpec is the strength asked of a value that the broker itself generates.
type KeySpec struct {
	Length   int    `json:"length,omitempty"`   // characters of the random part
	Alphabet string `json:"alphabet,omitempty"` // "base62", "hex", …
	Prefix   string `json:"prefix,omitempty"`
	Checksum bool   `json:"checksum,omitempty"`
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
	// An error that matches ErrNotSent as well was never sent: nothing was made.
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

// SettingsChecker is implemented by issuers that take a block of settings from
// each secret; without it a secret's issuer block must be empty.
type SettingsChecker interface {
	// CheckSettings returns what is wrong with a secret's settings (a JSON object,
	// or null), as texts for the operator.
	CheckSettings(settings json.RawMessage) []string
}
