package apikeyprobe_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/keys"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/apikeyprobe"
	"github.com/keybroker/keybroker/rotation/probe/probetest"
)

// records are those of the keys that were issued.
type records struct {
	mu    sync.Mutex
	list  []keys.Record
	tries int
	fail  func(ctx context.Context, hash []byte) error // nil: it answers
}

func (r *records) FindByHash(ctx context.Context, hash []byte) (keys.Record, error) {
	r.mu.Lock()
	fail := r.fail
	r.tries++
	r.mu.Unlock()
	if fail != nil {
		return keys.Record{}, fail(ctx, hash)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.list {
		if bytes.Equal(k.Hash, hash) {
			return k, nil
		}
	}
	return keys.Record{}, backends.ErrNotFound
}

func (r *records) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// failing switches a failure on or off.
func (r *records) failing(with func(context.Context, []byte) error) func(on bool) {
	return func(on bool) {
		r.set(func() {
			if r.fail = nil; on {
				r.fail = with
			}
		})
	}
}

func hangs(ctx context.Context, _ []byte) error {
	<-ctx.Done()
	return fmt.Errorf("%w: %w", backends.ErrUnavailable, ctx.Err())
}

func value(key string) backends.Value { return backends.NewValue(map[string]string{"key": key}) }

// issued makes a probe with one live key and one that was revoked.
func issued(t *testing.T) (p *apikeyprobe.Probe, r *records, live, dead string, doubted *backends.Ref) {
	t.Helper()
	h, err := keys.NewHasher(keys.Pepper{Version: 1, Key: bytes.Repeat([]byte("p"), 32)})
	if err != nil {
		t.Fatal(err)
	}
	live, dead = keys.NewAPIKey("kb", keys.MinLength), keys.NewAPIKey("kb", keys.MinLength)
	r = &records{}
	for i, key := range []string{live, dead} {
		hash, pepper := h.Hash(key)
		r.list = append(r.list, keys.Record{ID: fmt.Sprint("key_", i), Tenant: "acme", Secret: "app/key", Version: i + 1, Hash: hash, PepperVersion: pepper})
	}
	r.list[1].RevokedAt = time.Unix(2000, 0)
	doubted = &backends.Ref{}
	return apikeyprobe.New(keys.NewChecker(r, h), func(ref backends.Ref, version int) bool { return ref == *doubted && version == 1 }), r, live, dead, doubted
}

func TestConformance(t *testing.T) {
	probetest.Run(t, func(t *testing.T) probetest.Harness {
		p, r, live, dead, _ := issued(t)
		return probetest.Harness{
			Probe: p,
			Good:  value(live),
			Bad:   value(dead),
			Rejected: map[string]backends.Value{
				"never issued": value(keys.NewAPIKey("kb", keys.MinLength)),
				"no key":       value("canary-not-a-key"),
				"cut off":      value(live[:len(live)-1]),
				"longer":       value(live + "0"),
			},
			Undecided: map[string]backends.Value{
				"empty":         value(""),
				"another field": backends.NewValue(map[string]string{"token": live}),
			},
			Revoke: func() { r.set(func() { r.list[0].RevokedAt = time.Unix(2000, 0) }) },
			Faults: map[string]func(bool){
				"disk": r.failing(func(context.Context, []byte) error { return fmt.Errorf("%w: disk", backends.ErrUnavailable) }),
			},
			Hang:      r.failing(hangs),
			Addresses: []string{apikeyprobe.Here},
			Attempts: func() int {
				r.mu.Lock()
				defer r.mu.Unlock()
				return r.tries
			},
		}
	})
}

// Whoever reads a proof sees that the broker is its own witness.
func TestScope(t *testing.T) {
	p, _, _, _, _ := issued(t)
	if !strings.Contains(p.Scope(), "self-attested") || p.LockoutAfter() != 0 {
		t.Errorf("the scope is %q, lockout after %d", p.Scope(), p.LockoutAfter())
	}
}

// What a restored store takes for live may have been revoked since.
func TestDoubtedKeys(t *testing.T) {
	p, _, live, dead, doubted := issued(t)
	*doubted = backends.Ref{Tenant: "acme", Name: "app/key"}
	for key, want := range map[string]probe.Verdict{live: probe.Inconclusive, dead: probe.Rejected} {
		if r := p.Try(t.Context(), probe.Try{Value: value(key)}); r.Verdict != want {
			t.Errorf("got %s (%s), want %s", r.Verdict, r.Detail, want)
		}
	}
}

func TestPinnedElsewhere(t *testing.T) {
	p, _, live, _, _ := issued(t)
	if r := p.Try(t.Context(), probe.Try{Value: value(live), Address: "10.0.0.7:443"}); r.Verdict != probe.Inconclusive {
		t.Errorf("got %+v", r)
	}
}
