// Package memory is a vault in a map, which can do as much or as little as a test
// wants.
package memory

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// New makes an empty vault that can do what c says, and implements backends.Stager
// only if c has stages. A value's size is that of its names and texts together.
func New(c backends.Capabilities) backends.Driver {
	d := &Driver{can: c, secrets: map[backends.Ref]*secret{}, now: time.Now}
	if c.Stages {
		return &Staging{d}
	}
	return d
}

// Driver is a backends.Driver without stages.
type Driver struct {
	can backends.Capabilities
	now func() time.Time

	mu      sync.Mutex
	secrets map[backends.Ref]*secret
}

// Staging is a Driver with stages.
type Staging struct{ *Driver }

var (
	_ backends.Driver = (*Driver)(nil)
	_ backends.Stager = (*Staging)(nil)
)

type secret struct {
	current  int // 0: none
	versions []*version
	note     backends.Note
}

// version n is versions[n-1]. The vault has one place for a pending version.
type version struct {
	value   backends.Value
	token   string
	created time.Time
	gone    bool
	pending bool
}

// Capabilities says what New was given.
func (d *Driver) Capabilities() backends.Capabilities { return d.can }

// key is where a secret is kept: at its name alone where tenants share the vault.
func (d *Driver) key(ref backends.Ref) backends.Ref {
	if !d.can.Tenants {
		ref.Tenant = backends.DefaultTenant
	}
	return ref
}

// with runs f under the lock, with the secret or nil.
func (d *Driver) with(ctx context.Context, ref backends.Ref, f func(*secret) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return f(d.secrets[d.key(ref)])
}

// change is with for what writes, and makes the secret if there is none.
func (d *Driver) change(ctx context.Context, ref backends.Ref, f func(*secret) error) error {
	if d.can.ReadOnly {
		return fmt.Errorf("%w: the vault is read-only", backends.ErrUnsupported)
	}
	return d.with(ctx, ref, func(s *secret) error {
		if s == nil {
			s = &secret{}
			if err := f(s); err != nil {
				return err
			}
			d.secrets[d.key(ref)] = s
			return nil
		}
		return f(s)
	})
}

// Read implements backends.Driver.
func (d *Driver) Read(ctx context.Context, ref backends.Ref, id backends.VersionID) (value backends.Value, at backends.VersionID, err error) {
	err = d.with(ctx, ref, func(s *secret) error {
		if s == nil {
			return fmt.Errorf("%w: no such secret", backends.ErrNotFound)
		}
		n := s.current
		if id != "" {
			n = s.number(id)
		}
		if n == 0 || s.versions[n-1].gone || !d.can.Versions && n != s.current {
			return fmt.Errorf("%w: no such version", backends.ErrNotFound)
		}
		value, at = s.versions[n-1].value, versionID(n)
		return nil
	})
	return value, at, err
}

// Describe implements backends.Driver.
func (d *Driver) Describe(ctx context.Context, ref backends.Ref) (desc backends.Description, err error) {
	err = d.with(ctx, ref, func(s *secret) error {
		if s == nil {
			return fmt.Errorf("%w: no such secret", backends.ErrNotFound)
		}
		desc.Current, desc.Note = versionID(s.current), s.note
		for i, v := range s.versions {
			if !d.can.Versions && i+1 != s.current {
				continue
			}
			meta := backends.VersionMeta{ID: versionID(i + 1), CreatedAt: v.created, Gone: v.gone}
			if d.can.Stages && i+1 == s.current {
				meta.Stages = append(meta.Stages, "current")
			}
			if v.pending {
				meta.Stages = append(meta.Stages, "pending")
			}
			desc.Versions = append(desc.Versions, meta)
		}
		return nil
	})
	return desc, err
}

// Publish implements backends.Driver. Without compare-and-swap there is a moment
// between its look and its write.
func (d *Driver) Publish(ctx context.Context, ref backends.Ref, w backends.Write) (id backends.VersionID, err error) {
	if err := d.fits(w.Value); err != nil {
		return "", err
	}
	look := func(s *secret) error { return s.expect(w.Expect) }
	if !d.can.CompareSwap {
		if err := d.change(ctx, ref, look); err != nil {
			return "", err
		}
		look = func(*secret) error { return nil }
		runtime.Gosched()
	}
	err = d.change(ctx, ref, func(s *secret) error {
		if err := look(s); err != nil {
			return err
		}
		s.current = s.add(w, d.now())
		s.note = backends.Note{Of: versionID(s.current), Version: w.Version, Generation: w.Generation}
		id = s.note.Of
		return nil
	})
	return id, err
}

func (d *Driver) fits(v backends.Value) error {
	if d.can.MaxValueSize > 0 && Size(v) > d.can.MaxValueSize {
		return fmt.Errorf("%w: the value has %d bytes, the limit is %d", backends.ErrInvalid, Size(v), d.can.MaxValueSize)
	}
	return nil
}

// Size is how many bytes a value takes in this vault.
func Size(v backends.Value) int {
	size := 0
	for name, text := range v.Reveal() {
		size += len(name) + len(text)
	}
	return size
}

// Retire implements backends.Driver.
func (d *Driver) Retire(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	return d.end(ctx, ref, id, func(v *version) { v.pending = false })
}

// Destroy implements backends.Driver.
func (d *Driver) Destroy(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	if !d.can.Destroy {
		return fmt.Errorf("%w: versions are kept", backends.ErrUnsupported)
	}
	return d.end(ctx, ref, id, func(v *version) { *v = version{token: v.token, created: v.created, gone: true} })
}

// end does to a version what no current one may suffer.
func (d *Driver) end(ctx context.Context, ref backends.Ref, id backends.VersionID, do func(*version)) error {
	if d.can.ReadOnly {
		return fmt.Errorf("%w: the vault is read-only", backends.ErrUnsupported)
	}
	return d.with(ctx, ref, func(s *secret) error {
		if s == nil {
			return nil
		}
		switch n := s.number(id); n {
		case 0:
		case s.current:
			return fmt.Errorf("%w: version %s is the current one", backends.ErrConflict, id)
		default:
			do(s.versions[n-1])
		}
		return nil
	})
}

// List implements backends.Driver.
func (d *Driver) List(ctx context.Context, tenant, after string, limit int) (names []string, next string, err error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("%w: the limit must be positive", backends.ErrInvalid)
	}
	tenant = d.key(backends.Ref{Tenant: tenant}).Tenant
	err = d.with(ctx, backends.Ref{}, func(*secret) error {
		for ref := range maps.Keys(d.secrets) {
			if ref.Tenant == tenant && ref.Name > after {
				names = append(names, ref.Name)
			}
		}
		return nil
	})
	slices.Sort(names)
	if len(names) > limit {
		names, next = names[:limit], names[limit-1]
	}
	return names, next, err
}

// Check implements backends.Driver.
func (d *Driver) Check(ctx context.Context) error {
	return d.with(ctx, backends.Ref{}, func(*secret) error { return nil })
}

// Seed makes value current, whatever the driver may do and whoever expects what.
func (d *Driver) Seed(ref backends.Ref, value backends.Value) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := d.key(ref)
	if d.secrets[key] == nil {
		d.secrets[key] = &secret{}
	}
	s := d.secrets[key]
	s.current = s.add(backends.Write{Value: value}, d.now())
}

// Delete removes a secret, whatever the driver may do.
func (d *Driver) Delete(ref backends.Ref) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.secrets, d.key(ref))
}

// Stage implements backends.Stager.
func (d *Staging) Stage(ctx context.Context, ref backends.Ref, w backends.Write) (id backends.VersionID, err error) {
	if err := d.fits(w.Value); err != nil {
		return "", err
	}
	err = d.change(ctx, ref, func(s *secret) error {
		for i, v := range s.versions {
			if v.token != w.Token {
				continue
			}
			if !v.value.Equal(w.Value) {
				return fmt.Errorf("%w: the token has written another value", backends.ErrConflict)
			}
			id = versionID(i + 1)
			return nil
		}
		n := s.add(w, d.now())
		for i, v := range s.versions {
			v.pending = i+1 == n
		}
		id = versionID(n)
		return nil
	})
	return id, err
}

// Promote implements backends.Stager.
func (d *Staging) Promote(ctx context.Context, ref backends.Ref, id, expect backends.VersionID) error {
	return d.change(ctx, ref, func(s *secret) error {
		n := s.number(id)
		switch {
		case n == 0 || s.versions[n-1].gone:
			return fmt.Errorf("%w: no such version", backends.ErrNotFound)
		case n == s.current:
			return nil
		}
		if err := s.expect(expect); err != nil {
			return err
		}
		s.current, s.versions[n-1].pending = n, false
		return nil
	})
}

func (s *secret) expect(id backends.VersionID) error {
	if versionID(s.current) != id {
		return fmt.Errorf("%w: current is version %d", backends.ErrConflict, s.current)
	}
	return nil
}

func (s *secret) add(w backends.Write, at time.Time) int {
	s.versions = append(s.versions, &version{value: w.Value, token: w.Token, created: at})
	return len(s.versions)
}

// number is 0 for what is no version.
func (s *secret) number(id backends.VersionID) int {
	n, err := strconv.Atoi(string(id))
	if err != nil || n < 1 || n > len(s.versions) || versionID(n) != id {
		return 0
	}
	return n
}

func versionID(n int) backends.VersionID {
	if n == 0 {
		return ""
	}
	return backends.VersionID(strconv.Itoa(n))
}
