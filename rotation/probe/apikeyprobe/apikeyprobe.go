// Package apikeyprobe is the probe that tries API keys which the broker itself issued
// at the broker's own check, without a network: the broker is its own witness.
package apikeyprobe

import (
	"context"
	"errors"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/keys"
	"github.com/keybroker/keybroker/rotation/probe"
)

// Field is the field of the value that holds the key.
const Field = "key"

// Here is the one address of the check: the process that tries.
const Here = "in-process"

// Probe asks the check that gateways ask, too. Every node reads the same records.
type Probe struct {
	check  *keys.Checker
	doubts func(ref backends.Ref, version int) bool
}

var _ probe.Probe = (*Probe)(nil)

// New returns a probe. Of a version that doubts names the check tells nobody whether
// it works: its records may be from before a revocation.
func New(check *keys.Checker, doubts func(ref backends.Ref, version int) bool) *Probe {
	return &Probe{check: check, doubts: doubts}
}

// Try implements probe.Probe.
func (p *Probe) Try(ctx context.Context, t probe.Try) probe.Result {
	start := time.Now()
	r := probe.Result{Address: Here}
	r.Verdict, r.Detail = p.judge(ctx, t)
	r.Latency = max(time.Since(start), 1) // the clock may be too coarse to tell
	return r
}

func (p *Probe) judge(ctx context.Context, t probe.Try) (probe.Verdict, string) {
	if err := ctx.Err(); err != nil {
		return probe.Inconclusive, err.Error()
	}
	if t.Address != "" && t.Address != Here {
		return probe.Inconclusive, "the broker's own check has no address but " + Here
	}
	key := t.Value.Reveal()[Field]
	if key == "" {
		return probe.Inconclusive, "the value has no field " + Field
	}
	rec, err := p.check.Check(ctx, key)
	switch {
	case err == nil && p.doubts(backends.Ref{Tenant: rec.Tenant, Name: rec.Secret}, rec.Version):
		return probe.Inconclusive, "the store was restored, and " + rec.ID + " may have been revoked since"
	case err == nil:
		return probe.Accepted, rec.ID + " is live"
	case errors.Is(err, backends.ErrDenied):
		return probe.Rejected, rec.ID + " was revoked"
	case errors.Is(err, backends.ErrNotFound):
		return probe.Rejected, "no such key was issued"
	}
	return probe.Inconclusive, err.Error()
}

// Addresses implements probe.Probe.
func (p *Probe) Addresses(context.Context) ([]string, error) { return []string{Here}, nil }

// Scope implements probe.Probe.
func (p *Probe) Scope() string { return "this broker's own check of API keys (self-attested)" }

// LockoutAfter implements probe.Probe: the check locks nobody out.
func (p *Probe) LockoutAfter() int { return 0 }
