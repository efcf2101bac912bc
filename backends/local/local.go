// Package local is the embedded vault: values sealed at rest in the broker's
// own storage.
package local

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// MaxValueSize is how many bytes a value may have in the form of Value.Encode.
const MaxValueSize = 1 << 20

// column names what AssociatedData binds a sealed value to; see Storage.
const column = "local_versions.sealed"

// Sealer encrypts with associated data, like seal.Keyring.
type Sealer interface {
	Seal(ctx context.Context, plaintext, ad []byte) ([]byte, error)
	Open(ctx context.Context, sealed, ad []byte) ([]byte, error)
}

// Version is one stored version.
type Version struct {
	Number      int    // from 1 upwards
	Sealed      []byte // nil where it was destroyed, and in what Describe returns
	CreatedAt   time.Time
	DestroyedAt time.Time // zero if it was not
}

// Storage keeps sealed versions. Times are kept to the microsecond. It is safe
// for concurrent use, also by several processes, and passes
// localtest.RunStorage.
type Storage interface {
	// Put stores v and makes it the secret's current version, in one step, if the
	// current number is expect (0: the secret has none) and v.Number is greater
	// than every number the secret ever had; ErrConflict otherwise.
	Put(ctx context.Context, ref backends.Ref, expect int, v Version) error

	// Get returns a version, or the current one where number is 0. ErrNotFound if
	// there is none; one that was destroyed is returned without Sealed.
	Get(ctx context.Context, ref backends.Ref, number int) (Version, error)

	// Describe returns the current number and every version, oldest first,
	// without Sealed. ErrNotFound if the secret was never put.
	Describe(ctx context.Context, ref backends.Ref) (current int, versions []Version, err error)

	// List returns at most limit names of the tenant's secrets that come after
	// one, in byte order (not in a locale's).
	List(ctx context.Context, tenant, after string, limit int) ([]string, error)

	// Destroy overwrites Sealed and keeps the rest. ErrConflict for the current
	// version; nothing happens to one that is destroyed already or unknown.
	Destroy(ctx context.Context, ref backends.Ref, number int, at time.Time) error
}

// Driver is a backends.Driver on a Storage.
type Driver struct {
	sealer  Sealer
	storage Storage
	now     func() time.Time
}

var _ backends.Driver = (*Driver)(nil)

// New returns a driver that seals with sealer what it puts in storage.
func New(sealer Sealer, storage Storage) *Driver {
	return &Driver{sealer: sealer, storage: storage, now: time.Now}
}

// Capabilities says what the embedded vault can do.
func (d *Driver) Capabilities() backends.Capabilities {
	return backends.Capabilities{Versions: true, CompareSwap: true, Destroy: true, Tenants: true, Binary: true, MaxValueSize: MaxValueSize}
}

// Read implements backends.Driver.
func (d *Driver) Read(ctx context.Context, ref backends.Ref, id backends.VersionID) (backends.Value, backends.VersionID, error) {
	none := backends.Value{}
	wanted := 0
	if id != "" {
		n, err := number(id)
		if err != nil {
			return none, "", err
		}
		wanted = n
	}
	v, err := d.storage.Get(ctx, ref, wanted)
	if err != nil {
		return none, "", classified(err)
	}
	if len(v.Sealed) == 0 {
		return none, "", fmt.Errorf("%w: the version was destroyed", backends.ErrNotFound)
	}
	plaintext, err := d.sealer.Open(ctx, v.Sealed, backends.AssociatedData(ref, v.Number, column))
	if err != nil {
		return none, "", classified(err)
	}
	defer clear(plaintext)
	value, err := backends.DecodeValue(plaintext)
	return value, versionID(v.Number), err
}

// Describe implements backends.Driver.
func (d *Driver) Describe(ctx context.Context, ref backends.Ref) (backends.Description, error) {
	current, versions, err := d.storage.Describe(ctx, ref)
	if err != nil {
		return backends.Description{}, classified(err)
	}
	desc := backends.Description{Current: versionID(current)}
	for _, v := range versions {
		desc.Versions = append(desc.Versions, backends.VersionMeta{
			ID:        versionID(v.Number),
			CreatedAt: v.CreatedAt,
			Gone:      !v.DestroyedAt.IsZero(),
		})
	}
	return desc, nil
}

// Publish implements backends.Driver. The number is part of what the value is
// sealed to, so it is chosen before the write; the storage refuses it if
// somebody else was faster.
func (d *Driver) Publish(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	expect, newest := 0, 0
	current, versions, err := d.storage.Describe(ctx, ref)
	switch {
	case err == nil:
		newest = versions[len(versions)-1].Number
	case !errors.Is(err, backends.ErrNotFound):
		return "", classified(err)
	}
	if w.Expect != "" {
		if expect, err = number(w.Expect); err != nil {
			return "", fmt.Errorf("%w: the version expected is none of this vault's", backends.ErrConflict)
		}
	}
	if current != expect {
		return "", fmt.Errorf("%w: current is version %d, not %d", backends.ErrConflict, current, expect)
	}
	sealed, err := d.seal(ctx, ref, newest+1, w.Value)
	if err != nil {
		return "", err
	}
	err = d.storage.Put(ctx, ref, expect, Version{Number: newest + 1, Sealed: sealed, CreatedAt: d.now().UTC()})
	if err != nil {
		return "", classified(err)
	}
	return versionID(newest + 1), nil
}

func (d *Driver) seal(ctx context.Context, ref backends.Ref, number int, value backends.Value) ([]byte, error) {
	plaintext := value.Encode()
	defer clear(plaintext)
	if len(plaintext) > MaxValueSize {
		return nil, fmt.Errorf("%w: the value has %d bytes, the limit is %d", backends.ErrInvalid, len(plaintext), MaxValueSize)
	}
	sealed, err := d.sealer.Seal(ctx, plaintext, backends.AssociatedData(ref, number, column))
	return sealed, classified(err)
}

// Retire implements backends.Driver. Nobody but the broker reads this vault, and
// it gives a retired version to nobody: there is nothing to mark.
func (d *Driver) Retire(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	n, err := number(id)
	if err != nil {
		return nil //nolint:nilerr // what was never a version is out of use
	}
	current, _, err := d.storage.Describe(ctx, ref)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return nil
	case err != nil:
		return classified(err)
	case current == n:
		return fmt.Errorf("%w: version %s is the current one", backends.ErrConflict, id)
	}
	return nil
}

// Destroy implements backends.Driver.
func (d *Driver) Destroy(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	n, err := number(id)
	if err != nil {
		return nil //nolint:nilerr // what was never a version is gone
	}
	return classified(d.storage.Destroy(ctx, ref, n, d.now().UTC()))
}

// List implements backends.Driver.
func (d *Driver) List(ctx context.Context, tenant, after string, limit int) ([]string, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("%w: the limit must be positive", backends.ErrInvalid)
	}
	names, err := d.storage.List(ctx, tenant, after, limit+1) // one more tells whether there is a next page
	if err != nil {
		return nil, "", classified(err)
	}
	if len(names) <= limit {
		return names, "", nil
	}
	return names[:limit], names[limit-1], nil
}

// Check implements backends.Driver: the storage answers and the seal's keys
// are at hand.
func (d *Driver) Check(ctx context.Context) error {
	if _, err := d.storage.List(ctx, backends.DefaultTenant, "", 1); err != nil {
		return classified(err)
	}
	ad := []byte("keybroker check")
	sealed, err := d.sealer.Seal(ctx, []byte("keybroker"), ad)
	if err == nil {
		_, err = d.sealer.Open(ctx, sealed, ad)
	}
	return classified(err)
}

// classified makes ErrUnavailable of an error without a class, such as a
// database's or a context's.
func classified(err error) error {
	if err != nil && backends.Class(err) == nil {
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	return err
}

// versionID is empty for 0, the number of no version.
func versionID(n int) backends.VersionID {
	if n == 0 {
		return ""
	}
	return backends.VersionID(strconv.Itoa(n))
}

// number is the inverse of versionID; ErrNotFound for what local never named a
// version.
func number(id backends.VersionID) (int, error) {
	n, err := strconv.Atoi(string(id))
	if err != nil || n < 1 || versionID(n) != id {
		return 0, fmt.Errorf("%w: %q is no version of a local backend", backends.ErrNotFound, string(id))
	}
	return n, nil
}
