package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/probe"
)

// Catalog is what the names in definitions stand for, as configured now. It is
// never changed once the engine has it.
type Catalog struct {
	Backends  map[string]*backends.Mount
	Issuers   map[string]issuer.Issuer
	Probes    map[string]probe.Probe
	Consumers map[string]Deliverer
	// ProbeDigests tell configurations of a probe apart: rounds made by two of them
	// are no series. They hold no secret.
	ProbeDigests map[string]string
	// DriftEvery is how often what a backend holds is compared with what it was given;
	// 0: only when somebody asks.
	DriftEvery map[string]time.Duration
	// Waiting says of what is configured and not made yet what it waits for, by Part.
	Waiting map[Part]string
}

// Part names a component of a catalog, such as issuer "mailer".
type Part struct{ Kind, Name string }

// lookUp gives a component, or the error of who has to wait for it.
func lookUp[T any](c *Catalog, m map[string]T, kind, name string) (T, error) {
	t, ok := m[name]
	if ok {
		return t, nil
	}
	if why, waits := c.Waiting[Part{kind, name}]; waits {
		return t, fmt.Errorf("%w: %s %q %s", backends.ErrUnavailable, kind, name, why)
	}
	return t, fmt.Errorf("%w: no %s %q in the configuration", backends.ErrUnavailable, kind, name)
}

func (e *Engine) backend(name string) (*backends.Mount, error) {
	c := e.catalog.Load()
	return lookUp(c, c.Backends, "backend", name)
}

func (e *Engine) issuer(name string) (issuer.Issuer, error) {
	c := e.catalog.Load()
	return lookUp(c, c.Issuers, "issuer", name)
}

func (e *Engine) probe(name string) (probe.Probe, error) {
	c := e.catalog.Load()
	return lookUp(c, c.Probes, "probe", name)
}

func (e *Engine) consumer(name string) (Deliverer, error) {
	c := e.catalog.Load()
	return lookUp(c, c.Consumers, "consumer", name)
}

const columnSealed = "versions.sealed"

// seal encrypts a version's value for our own store, and fingerprints its fields.
func (e *Engine) seal(ctx context.Context, v *rotation.Version, value backends.Value) error {
	plain := value.Encode()
	defer clear(plain)
	sealed, err := e.Sealer.Seal(ctx, plain, backends.AssociatedData(v.Ref, v.Number, columnSealed))
	if err != nil {
		return fmt.Errorf("sealing version %d of %s: %w", v.Number, v.Ref, err)
	}
	v.Sealed = sealed
	v.Fingerprints = e.fingerprints(v.Ref.Tenant, value.Reveal())
	return nil
}

// fingerprints are the keyed fingerprints of a value's fields. The names of the fields
// are keyed as well: they say what a value is good for.
func (e *Engine) fingerprints(tenant string, fields map[string]string) map[string]string {
	out := make(map[string]string, len(fields))
	for name, text := range fields {
		out[e.Fingerprint(tenant, "field "+name)] = e.Fingerprint(tenant, text)
	}
	return out
}

// Open decrypts a version's sealed value.
func (e *Engine) Open(ctx context.Context, v rotation.Version) (backends.Value, error) {
	if v.Sealed == nil {
		return backends.Value{}, fmt.Errorf("%w: version %d of %s is not kept (any more)", backends.ErrNotFound, v.Number, v.Ref)
	}
	plain, err := e.Sealer.Open(ctx, v.Sealed, backends.AssociatedData(v.Ref, v.Number, columnSealed))
	if err != nil {
		return backends.Value{}, fmt.Errorf("unsealing version %d of %s: %w", v.Number, v.Ref, err)
	}
	defer clear(plain)
	value, err := backends.DecodeValue(plain)
	if err != nil {
		return backends.Value{}, fmt.Errorf("decoding version %d of %s: %w", v.Number, v.Ref, err)
	}
	return value, nil
}
