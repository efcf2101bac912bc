package broker

import (
	"context"
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// onVault authorises p to put right what a vault holds of the secret called name,
// then runs fn with it. It changes what is in use, as a rotation does, so it takes
// that capability, or while an emergency goes on that of an emergency; and more.
func (b *Broker) onVault(ctx context.Context, p authn.Principal, action, name string, detail map[string]string, more []policy.Capability, fn func(rotation.Secret) error) error {
	found, req, missing := b.resolve(ctx, p, name, request{action: action, path: pathOf(name), detail: detail})
	takes := append([]policy.Capability{policy.Rotate}, more...)
	emergency := false
	if missing == nil {
		emergency, missing = b.inEmergency(ctx, found.ID)
	}
	if emergency {
		takes[0] = policy.Emergency
	}
	if d, err := b.decide(p, req, takes...); emergency && err == nil {
		return b.containing(ctx, p, req, d, func() error { return fn(found) })
	}
	return b.doAll(ctx, p, takes, req, func() error {
		if missing != nil {
			return missing
		}
		return fn(found)
	})
}

// Placements lists what backends hold of secrets: those out of step, or all.
func (b *Broker) Placements(ctx context.Context, p authn.Principal, q client.DriftQuery) (client.List[client.Placement], error) {
	return listOf(ctx, b, p, "drift.list", q.Secret, q.Page,
		func(tx *store.Tx, id string, at store.Page) ([]rotation.Placement, string, error) {
			f := store.PlacementFilter{Tenant: p.Tenant, SecretID: id, Backend: q.Backend, OutOfStep: !q.All}
			return tx.PlacementsPage(ctx, f, at)
		},
		bySecret(b, p, func(p rotation.Placement) backends.Ref { return p.Ref }),
		func(_ *store.Tx, p rotation.Placement) (client.Placement, error) { return viewPlacement(p), nil })
}

// CheckDrift asks for every backend of a secret to be compared now. It writes to
// none of them.
func (b *Broker) CheckDrift(ctx context.Context, p authn.Principal, name string, r client.CheckDriftRequest) (client.List[client.Placement], error) {
	out := client.List[client.Placement]{Items: []client.Placement{}}
	err := b.onVault(ctx, p, "drift.check", name, map[string]string{"reason": r.Reason}, nil, func(s rotation.Secret) error {
		return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
			n, err := b.Engine.CheckDrift(ctx, tx, s.ID)
			if err != nil {
				return err
			}
			if n == 0 {
				return fmt.Errorf("%w: the broker has no version of %s yet: there is nothing to compare; `keybroker secret import %s` takes over what is in its vault", backends.ErrConflict, name, name)
			}
			all, err := tx.Placements(ctx, s.ID)
			out.Items = viewPlacements(all)
			return err
		})
	})
	return out, err
}

// RestoreDrift writes the current version of a secret over what a backend holds:
// what `repair` with overwrite does, so it takes what that takes.
func (b *Broker) RestoreDrift(ctx context.Context, p authn.Principal, name string, r client.DriftRequest) (out client.Restoration, err error) {
	detail := interventionDetail(r.Reason, r.DryRun, "backend", r.Backend)
	err = b.onVault(ctx, p, "drift.restore", name, detail, []policy.Capability{policy.Update}, func(s rotation.Secret) error {
		if r.Backend == "" {
			return fmt.Errorf("%w: which backend is to be restored?", backends.ErrInvalid)
		}
		will, err := b.Engine.ForeseeRestore(ctx, s.ID, r.Backend)
		if err != nil {
			return err
		}
		if out.Foretold, err = foretold(r.InterventionRequest, will); err != nil {
			return err
		}
		if !r.DryRun {
			if err := b.Engine.RestoreDrift(ctx, s.ID, r.Backend, asked(p, r.Reason)); err != nil {
				return err
			}
		}
		return b.Store.View(ctx, func(tx *store.Tx) error {
			all, err := tx.Placements(ctx, s.ID)
			for _, held := range all {
				if held.Backend == r.Backend {
					out.Placement = viewPlacement(held)
				}
			}
			return err
		})
	})
	return out, err
}

// AdoptDrift asks for the value that somebody else wrote to a backend to become
// the current version, by a rotation that waits for an approval.
func (b *Broker) AdoptDrift(ctx context.Context, p authn.Principal, name string, r client.DriftRequest) (out client.RotationIntervention, err error) {
	detail := interventionDetail(r.Reason, r.DryRun, "backend", r.Backend)
	err = b.onVault(ctx, p, "drift.adopt", name, detail, nil, func(s rotation.Secret) error {
		return b.change(ctx, r.DryRun, func(tx *store.Tx) error {
			rot, will, err := b.Engine.Adopt(ctx, tx, s.ID, engine.AdoptRequest{Asked: asked(p, r.Reason), Backend: r.Backend})
			if err != nil {
				return err
			}
			if out.Foretold, err = foretold(r.InterventionRequest, will); err != nil {
				return err
			}
			if r.DryRun {
				rot.ID = "" // of a rotation that will not be
			}
			out.Rotation = viewRotation(store.RotationOf{Rotation: rot, Ref: s.Ref}, nil)
			return nil
		})
	})
	return out, err
}

func viewPlacements(all []rotation.Placement) []client.Placement {
	out := []client.Placement{}
	for _, p := range all {
		out = append(out, viewPlacement(p))
	}
	return out
}

func viewPlacement(p rotation.Placement) client.Placement {
	out := client.Placement{Secret: p.Ref.Name, Tenant: p.Ref.Tenant, Backend: p.Backend, Role: string(p.Role), State: string(p.State()),
		WantedVersion: p.Want, HeldVersion: p.Have, Error: p.Error, Asked: p.Asked, SyncedAt: utc(p.SyncedAt), ComparedAt: utc(p.CheckedAt), NextAt: utc(p.NextAt)}
	if p.Drift != nil {
		d := viewDrift(p)
		d.Backend = "" // it is said already
		out.Drift = &d
	}
	return out
}

// viewDrift is of a placement that has drifted.
func viewDrift(p rotation.Placement) client.Drift {
	d, detail := p.Drift, p.Drift.Detail
	if d.Verdict != "" {
		detail += fmt.Sprintf("; its probe says %s", strings.TrimSuffix(string(d.Verdict)+": "+d.Said, ": "))
	}
	return client.Drift{Backend: p.Backend, Kind: string(d.Kind), Detail: detail, Version: d.Version, BackendVersion: string(d.ID), FoundAt: utc(d.FoundAt),
		Verdict: string(d.Verdict), RotationID: d.RotationID}
}

// viewMirrors says how each mirror stands, and what has drifted anywhere. A mirror
// of which nothing is recorded was given nothing yet: nobody has looked into it.
func viewMirrors(s rotation.Secret, placements []rotation.Placement) ([]client.Mirror, []client.Drift) {
	mirrors, drift := []client.Mirror{}, []client.Drift{}
	for _, name := range s.Definition.Mirrors {
		m := client.Mirror{Backend: name, State: client.StateUnknown}
		for _, p := range placements {
			if p.Backend == name {
				m.State, m.Version = string(p.State()), p.Have
			}
		}
		mirrors = append(mirrors, m)
	}
	for _, p := range placements {
		if p.Drift != nil {
			drift = append(drift, viewDrift(p))
		}
	}
	return mirrors, drift
}
