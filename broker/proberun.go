package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/probe"
)

// byHandTimeout bounds one try, as those of proofs are.
const byHandTimeout = 20 * time.Second

// RunProbe tries one version of a secret with a probe, once, on a fresh connection. It
// sends the value to the probe's endpoint, so it takes rotate on the secret, as every
// try that somebody asks for. It proves nothing and changes no record but those that
// keep an account from being locked.
func (b *Broker) RunProbe(ctx context.Context, p authn.Principal, name string, r client.RunProbeRequest) (out client.ProbeRun, err error) {
	found, req, missing := b.resolve(ctx, p, r.Secret, request{action: "probe.run", path: pathOf(r.Secret), detail: map[string]string{"probe": name, "reason": r.Reason}})
	if r.Version > 0 {
		req.version, req.detail["version"] = r.Version, fmt.Sprint(r.Version)
	}
	err = b.do(ctx, p, policy.Rotate, req, func() error {
		switch {
		case r.Secret == "":
			return fmt.Errorf("%w: which secret is to be tried?", backends.ErrInvalid)
		case r.Version < 0:
			return fmt.Errorf("%w: versions are numbered from 1", backends.ErrInvalid)
		case missing != nil:
			return missing
		}
		var err error
		if out, err = b.tryOnce(ctx, p, found, r.Version, name); err != nil {
			return err
		}
		req.detail["version"], req.detail["verdict"], req.detail["address"] = fmt.Sprint(out.Version), out.Verdict, out.Address
		return nil
	})
	return out, err
}

// tryOnce tries a version of s with a probe, for p, who may: it is counted where an
// account bears few rejected tries.
func (b *Broker) tryOnce(ctx context.Context, p authn.Principal, s rotation.Secret, number int, name string) (out client.ProbeRun, err error) {
	c, err := component(b.Components.Probes(), p, "probe", name)
	if err != nil {
		return out, err
	}
	if !c.serves(s.Ref.Tenant) {
		return out, fmt.Errorf("%w: probe %q is for the tenant %q, and %s is of another one: its value is not sent there", backends.ErrDenied, name, c.Tenant, s.Ref)
	}
	v, value, err := b.sealedCopy(ctx, s, number)
	if err != nil {
		return out, err
	}
	if limit := c.Works.LockoutAfter(); limit > 0 {
		if err := b.countTry(ctx, s.ID, v, name, limit); err != nil {
			return out, err
		}
	}
	tried, cancel := context.WithTimeout(ctx, byHandTimeout)
	defer cancel()
	result := c.Works.Try(tried, probe.Try{Subject: probe.Subject{Ref: s.Ref, Labels: s.Definition.Labels}, Value: value})
	return client.ProbeRun{Probe: name, Endpoint: c.Works.Scope(), Secret: s.Ref.Name, Tenant: s.Ref.Tenant, Version: v.Number,
		Verdict: string(result.Verdict), Detail: result.Detail, Address: result.Address, LatencyMS: result.Latency.Milliseconds()}, nil
}

// sealedCopy opens the value of a version that the broker keeps; 0 is the current one.
func (b *Broker) sealedCopy(ctx context.Context, s rotation.Secret, number int) (v rotation.Version, value backends.Value, err error) {
	if number == 0 {
		number = s.Current
	}
	if number == 0 {
		return v, value, fmt.Errorf("%w: %s has no current version yet", backends.ErrNotFound, s.Ref)
	}
	err = b.Store.View(ctx, func(tx *store.Tx) (err error) {
		v, err = tx.Version(ctx, s.ID, number)
		return err
	})
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return v, value, fmt.Errorf("%w: %s has no version %d", backends.ErrNotFound, s.Ref, number)
	case err != nil:
		return v, value, err
	case v.Sealed == nil:
		return v, value, fmt.Errorf("%w: the value of version %d of %s is not kept (any more): it cannot be tried", backends.ErrConflict, number, s.Ref)
	}
	if value, err = b.Engine.Open(ctx, v); err != nil {
		b.Logger.Error("the sealed copy of a value cannot be opened", "secret", v.Ref, "version", v.Number, "error", err)
		return v, value, errUnreadable
	}
	return v, value, nil
}

// countTry commits that a version is going to be tried where its account is locked
// after limit rejected tries, or refuses it (ErrConflict). All rejected tries of the
// secret within the hour count, since several versions may be of one account, but those
// before an accepted one of this version.
func (b *Broker) countTry(ctx context.Context, secretID string, v rotation.Version, probe string, limit int) error {
	if v.Stage == rotation.StagePending {
		return fmt.Errorf("%w: version %d is pending: its rotation tries it, and more rejected tries beside those would lock the account (lockout_after = %d)", backends.ErrConflict, v.Number, limit)
	}
	return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
		now := b.Now()
		s, err := tx.Secret(ctx, secretID)
		if err != nil {
			return err
		}
		tries, err := tx.TriesSince(ctx, secretID, now.Add(-rotation.LockoutPeriod))
		if err != nil {
			return err
		}
		rejected := 0
		for _, t := range tries {
			switch {
			case t.Verdict == rotation.Accepted && t.Version == v.Number:
				rejected = 0
			case t.Verdict == rotation.Rejected || t.Purpose == rotation.PurposeByHand:
				rejected++
			}
		}
		t, err := tx.RetirementOf(ctx, secretID, v.Number)
		turning := err == nil
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		until, bears := time.Time{}, true
		if turning {
			until, bears = t.Bears(1, limit, now)
		}
		if rejected+1 >= limit || !bears {
			return lockout(v, limit, tries, until)
		}
		if turning { // its rounds count it, too
			t.Tried(1, now)
			if err := tx.SaveRetirement(ctx, &t); err != nil {
				return err
			}
		}
		if err := tx.SaveSecret(ctx, &s); err != nil { // nobody else has counted meanwhile
			return err
		}
		return tx.AddTry(ctx, secretID, rotation.Try{Purpose: rotation.PurposeByHand, Version: v.Number, At: now, Probe: probe, Verdict: rotation.Inconclusive, Detail: "begun by hand"})
	})
}

// lockout says until when another try is not made.
func lockout(v rotation.Version, limit int, tries []rotation.Try, until time.Time) error {
	if until.IsZero() && len(tries) > 0 {
		until = tries[len(tries)-1].At.Add(rotation.LockoutPeriod)
	}
	when := "lockout_after = 1 allows none by hand"
	if limit > 1 && !until.IsZero() {
		when = "the tries of before are forgiven at " + until.UTC().Format(time.RFC3339)
	}
	return fmt.Errorf("%w: another rejected try of version %d could lock the account (lockout_after = %d): %s", backends.ErrConflict, v.Number, limit, when)
}
