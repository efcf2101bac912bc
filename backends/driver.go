package backends

import (
	"context"
	"time"
)

// Driver is one vault. Implementations are safe for concurrent use, honour the
// context's deadline, wrap every error in one of this package's classes and
// retry nothing themselves: the Mount above them does. They pass
// backendtest.Run.
type Driver interface {
	// Read returns the value of version id, or of the current version where id is
	// empty, and the id it has. ErrNotFound if the secret or version does not exist
	// or was destroyed, and if it was retired where that hides it (see Retire).
	Read(ctx context.Context, ref Ref, id VersionID) (Value, VersionID, error)

	// Describe returns what the vault knows of the secret's versions without
	// reading a value. ErrNotFound if it never held the secret.
	Describe(ctx context.Context, ref Ref) (Description, error)

	// Publish makes w.Value the current version in one guarded write and returns
	// its id. The write happens only if the vault's current version is w.Expect
	// (empty: the secret must not exist yet, or have no current version);
	// ErrConflict otherwise. All fields change together or none does. After
	// ErrUnavailable the write may have happened.
	Publish(ctx context.Context, ref Ref, w Write) (VersionID, error)

	// Retire takes a version that is not current out of use, as far as the vault
	// has a word for it: soft-deleted (Vault), without a stage (AWS), nothing where
	// only who names the version is given it (local). No stage leads to it
	// afterwards; where the vault does not hide it, reading it by its id still gives
	// it. Retiring the current version is ErrConflict. One that is retired or gone
	// already, or was never there, is no error, and neither is an id that this vault
	// never gave: there is nothing of it left to take out of use.
	Retire(ctx context.Context, ref Ref, id VersionID) error

	// Destroy removes the value of a version for good. Destroying the current
	// version is ErrConflict; what is not there is no error, as for Retire.
	// ErrUnsupported where Capabilities.Destroy is false.
	Destroy(ctx context.Context, ref Ref, id VersionID) error

	// List returns the names of the tenant's secrets in this vault in pages, in
	// byte order; next is empty after the last page, else it is given as after. Where
	// the vault gives no order or no place to go on from, each page costs a pass over
	// all names: take large ones. Nothing that serves or rotates secrets calls it.
	List(ctx context.Context, tenant, after string, limit int) (names []string, next string, err error)

	// Check tells whether the vault can be used now: reachable, unsealed, our
	// credentials accepted. It writes nothing.
	Check(ctx context.Context) error

	// Capabilities says what this vault can do; constant over its life.
	Capabilities() Capabilities
}

// Stager is implemented by drivers of vaults that can hold a version which is
// not yet current (AWS Secrets Manager). Where it is missing, a pending value
// stays sealed in the broker's own store until it is published.
type Stager interface {
	// Stage writes a pending version; the same w.Token and value again is the
	// same version. ErrUnsupported where the secret has no current version and the
	// vault would make its first one current at once: it is published instead.
	Stage(ctx context.Context, ref Ref, w Write) (VersionID, error)
	// Promote makes a staged version current if the current one is expect;
	// ErrConflict otherwise. Promoting what is current already is no error.
	Promote(ctx context.Context, ref Ref, id, expect VersionID) error
}

// Write is one version to be written.
type Write struct {
	Value      Value
	Expect     VersionID // the version that must be current now; empty: none
	Token      string    // names the write: the same for every attempt at it
	Version    int       // the broker's number of this version, kept as metadata where the vault can
	Generation int64     // the secret's generation once this version is current, likewise
	Urgent     bool      // part of an emergency: it may use what a driver keeps back of the vault's limits
}

// Capabilities says what a vault can do. What a secret needs beyond them is
// refused when the configuration is loaded.
type Capabilities struct {
	ReadOnly    bool // Publish, Stage, Retire and Destroy are ErrUnsupported
	Versions    bool // versions other than the current one can be read
	Stages      bool // it implements Stager
	CompareSwap bool // Publish is guarded by the vault itself, else by a look before the write
	Destroy     bool // the value of one version can be removed for good
	Tenants     bool // tenants may have secrets of the same name; if not, List gives those of all
	Binary      bool // fields may hold bytes that are no UTF-8 text
	// Field is the name of the one field that every value has, where the layout has
	// no place for several; empty: any fields. Another value is ErrInvalid.
	Field string
	// MaxValueSize is the largest value in bytes as the vault stores it, in its
	// layout; 0 = no limit known. A larger one is ErrInvalid.
	MaxValueSize int
}

// Description is what a vault knows of a secret without its values.
type Description struct {
	Current  VersionID     // empty if no version is current
	Versions []VersionMeta // oldest first
	Note     Note          // zero where the vault keeps none
}

// VersionMeta describes one version in a vault.
type VersionMeta struct {
	ID        VersionID
	CreatedAt time.Time // zero where the vault does not tell
	Gone      bool      // its value was deleted or destroyed
	Stages    []string  // the vault's own names for what it is, such as AWSPREVIOUS, sorted
}

// Note is what the broker wrote beside a secret at its last write: for people, and
// to find out after a restored backup how far the broker had come. It is no part of
// the guarded write and may be one write behind; then Of is not the current version.
type Note struct {
	Of         VersionID // the vault's version that the rest is about
	Version    int       // the broker's number of that version
	Generation int64     // the secret's generation at that write
}
