package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// held is what a read of a value needs, from one snapshot: the open versions.
type held struct {
	secret      rotation.Secret
	versions    []rotation.Version
	retirements []rotation.Retirement
	replacing   *rotation.Rotation // what occupies it, while its current version is being turned off
}

func (h *held) version(n int) *rotation.Version {
	for i := range h.versions {
		if h.versions[i].Number == n {
			return &h.versions[i]
		}
	}
	return nil
}

// revoked tells whether version n is being turned off already: a key that may be
// dead is handed to nobody.
func (h *held) revoked(n int) bool {
	for _, t := range h.retirements {
		if t.Version == n {
			return !t.RevokeBegunAt.IsZero()
		}
	}
	return false
}

// withoutCurrent is that the current version is being turned off and nothing is in its
// place yet, with what that waits for: it may be a person, for days.
type withoutCurrent struct {
	error
	hint string
}

func (e withoutCurrent) Unwrap() error { return e.error }
func (e withoutCurrent) Hint() string  { return e.hint }

func (h *held) withoutCurrent(name string) error {
	why, hint := "nothing is replacing it", fmt.Sprintf("`keybroker secret plan %s` tells what comes next; `keybroker rotation list --secret %s` what came to nothing", name, name)
	switch r := h.replacing; {
	case r == nil:
	case r.AwaitsValue():
		why = "a person is to make its replacement by " + utc(r.ValueBy).Format(time.RFC3339)
		hint = "once somebody has, `keybroker rotation supply " + r.ID + "` hands it in"
	case r.WaitingFor != "":
		why, hint = "its replacement waits for: "+r.WaitingFor, "`keybroker rotation show "+r.ID+"` tells what ends that"
	default:
		why, hint = "its replacement is being made", ""
	}
	return withoutCurrent{fmt.Errorf("%w: version %d of %s is being revoked, and %s", backends.ErrUnavailable, h.secret.Current, name, why), hint}
}

var capabilityOf = map[rotation.VersionStage]policy.Capability{
	rotation.StageCurrent:  policy.Read,
	rotation.StagePrevious: policy.ReadPrevious,
	rotation.StagePending:  policy.ReadPending,
}

// Value returns the value of a version; 0 is the current one, and with it comes
// the previous one while it is valid, where p may read that.
func (b *Broker) Value(ctx context.Context, p authn.Principal, name string, number int) (client.Value, error) {
	h, err := b.hold(ctx, p, name, number)
	v, c, missing := wanted(h, err, name, number)
	if missing == nil && b.Doubts(h.secret.Ref, v.Number) {
		missing = fmt.Errorf("%w: the store was restored from a backup, and version %d of %s may have been replaced and revoked since: `keybroker storage status` tells more", backends.ErrUnavailable, v.Number, name)
	}
	r := request{action: "secret.read", path: pathOf(name)}.about(name, h.secret)
	if v != nil {
		r.version = v.Number
		r.detail["version"] = fmt.Sprint(v.Number)
	}
	d, denied := b.decide(p, r, c)
	b.count(b.rulesOf(p), h.secret, denied != nil)
	if denied != nil {
		return client.Value{}, b.refuse(ctx, p, r, d, denied)
	}
	var out client.Value
	err = b.serve(ctx, p, r, d, func() (map[string]string, error) {
		if missing != nil {
			return nil, missing
		}
		out, err = b.value(ctx, p, h, *v)
		return handedOut(out), err
	})
	if err != nil {
		return client.Value{}, err
	}
	b.noteRead(ctx, p, h.secret, v.Number, true)
	if out.Previous != nil {
		b.noteRead(ctx, p, h.secret, out.Previous.Version, false)
	}
	return out, nil
}

// handedOut are the strings of a value, for the audit log to hash. They are numbered
// in the order of the fields' names, which themselves say too much.
func handedOut(v client.Value) map[string]string {
	all := map[string]string{}
	add := func(what string, fields client.Fields) {
		for i, name := range slices.Sorted(maps.Keys(fields)) {
			all[what+strconv.Itoa(i+1)] = fields[name]
		}
	}
	if add("field.", v.Fields); v.Previous != nil {
		add("previous.", v.Previous.Fields)
	}
	return all
}

func (b *Broker) value(ctx context.Context, p authn.Principal, h *held, v rotation.Version) (client.Value, error) {
	value, err := b.read(ctx, p, v)
	if err != nil {
		return client.Value{}, err
	}
	out := client.Value{Name: h.secret.Ref.Name, Version: v.Number, Generation: h.secret.Generation,
		Fields: client.Fields(value.Reveal()), PublishedAt: utc(v.PublishedAt)}
	if h.secret.State == rotation.SecretActive {
		out.NextRotationAt = utc(h.secret.NextDueAt)
	}
	if v.Stage == rotation.StageCurrent {
		out.Previous, err = b.previous(ctx, p, h)
	}
	return out, err
}

// hold reads the open versions of a secret, and version number if it is none of them.
func (b *Broker) hold(ctx context.Context, p authn.Principal, name string, number int) (*held, error) {
	h := &held{}
	err := b.Store.View(ctx, func(tx *store.Tx) (err error) {
		if h.secret, err = b.find(ctx, tx, p, name); err != nil {
			return err
		}
		if h.versions, err = tx.Versions(ctx, h.secret.ID); err != nil {
			return err
		}
		if h.retirements, err = tx.Retirements(ctx, h.secret.ID); err != nil {
			return err
		}
		if h.revoked(h.secret.Current) {
			if h.replacing, err = occupyingOf(ctx, tx, h.secret.ID); err != nil {
				return err
			}
		}
		if number == 0 || h.version(number) != nil {
			return nil
		}
		closed, err := tx.Version(ctx, h.secret.ID, number)
		if err == nil {
			h.versions = append(h.versions, closed)
		} else if errors.Is(err, backends.ErrNotFound) {
			err = nil // wanted says so, once the caller was authorised
		}
		return err
	})
	return h, err
}

// wanted picks the version that is asked for and the capability that reading it
// takes. Where there is none to give, missing says why; the caller is told only
// after it was authorised.
func wanted(h *held, notThere error, name string, number int) (v *rotation.Version, c policy.Capability, missing error) {
	if notThere != nil {
		return nil, policy.Read, notThere
	}
	n := number
	if n == 0 {
		n = h.secret.Current
	}
	v = h.version(n)
	switch {
	case v == nil && number == 0:
		return nil, policy.Read, fmt.Errorf("%w: %s has no current version yet; `keybroker secret rotate %s` makes one", backends.ErrNotFound, name, name)
	case v == nil:
		return nil, policy.Read, fmt.Errorf("%w: %s has no version %d", backends.ErrNotFound, name, number)
	}
	c, readable := capabilityOf[v.Stage]
	switch {
	case !readable:
		return v, policy.Read, fmt.Errorf("%w: version %d of %s is retired", backends.ErrNotFound, n, name)
	case h.revoked(n) && n == h.secret.Current:
		return v, c, h.withoutCurrent(name)
	case h.revoked(n):
		return v, c, fmt.Errorf("%w: version %d of %s is being revoked", backends.ErrUnavailable, n, name)
	}
	return v, c, nil
}

func (b *Broker) previous(ctx context.Context, p authn.Principal, h *held) (*client.PreviousValue, error) {
	for i := len(h.versions) - 1; i >= 0; i-- {
		v := h.versions[i]
		if v.Stage != rotation.StagePrevious || h.revoked(v.Number) || b.Doubts(h.secret.Ref, v.Number) {
			continue // also after OverlapUntil, while consumers that have not acknowledged hold it
		}
		if !b.allows(p, h.secret.Ref.Name, h.secret, policy.ReadPrevious) {
			return nil, nil
		}
		value, err := b.read(ctx, p, v)
		if err != nil {
			return nil, err
		}
		return &client.PreviousValue{Version: v.Number, Fields: client.Fields(value.Reveal()), Until: utc(v.OverlapUntil)}, nil
	}
	return nil, nil
}

// errUnreadable is all that a caller is told: whatever a vault said to us, its
// refusals too, is not about the caller.
var errUnreadable = fmt.Errorf("%w: the value cannot be read now", backends.ErrUnavailable)

// read takes a published value from its vault. While that cannot be used, or has
// lost the version, the sealed copy serves that the broker keeps for the proof:
// an outage of the vault is none of the applications' (rule 20), and once it is
// known, nobody waits for the vault either.
func (b *Broker) read(ctx context.Context, p authn.Principal, v rotation.Version) (backends.Value, error) {
	rules := b.rulesOf(p)
	if m := rules.Backends[v.Backend]; v.BackendVersion != "" && m != nil && !rules.Down(v.Backend) {
		value, _, err := m.Read(ctx, v.Ref, v.BackendVersion)
		if err == nil {
			return value, nil
		}
		b.Logger.Warn("reading from the vault failed; the sealed copy serves", "backend", v.Backend, "secret", v.Ref, "version", v.Number, "error", err)
	}
	value, err := b.Engine.Open(ctx, v)
	if err != nil {
		b.Logger.Error("the sealed copy of a value cannot be opened", "secret", v.Ref, "version", v.Number, "error", err)
		return backends.Value{}, errUnreadable
	}
	return value, nil
}

// errUncheckable is all that somebody whom we do not know is told of our state.
var errUncheckable = fmt.Errorf("%w: the key cannot be checked now", backends.ErrUnavailable)

// CheckKey tells whether a key that the broker issued works. It is not audited:
// gateways ask for every request of theirs.
func (b *Broker) CheckKey(ctx context.Context, _ netip.Addr, key backends.SecretString) (client.KeyCheck, error) {
	rec, err := b.Keys.Check(ctx, key.Reveal())
	switch {
	case err == nil && b.Doubts(backends.Ref{Tenant: rec.Tenant, Name: rec.Secret}, rec.Version):
		return client.KeyCheck{}, errUncheckable // it may have been revoked in the time that a restored store has lost
	case err == nil:
		return client.KeyCheck{Active: true, Secret: rec.Secret, Tenant: rec.Tenant, Version: rec.Version}, nil
	case errors.Is(err, backends.ErrNotFound) || errors.Is(err, backends.ErrDenied):
		return client.KeyCheck{}, nil
	}
	if ctx.Err() == nil {
		b.Logger.Error("a key cannot be checked", "error", err)
	}
	return client.KeyCheck{}, errUncheckable
}
