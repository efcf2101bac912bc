package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Import takes over a secret that is in its backend already, or the handle of a
// version that was taken over without one. It makes a version current, as a
// rotation does; whoever gives a handle says what the broker may have revoked, and
// has to be allowed that, too.
func (b *Broker) Import(ctx context.Context, p authn.Principal, name string, r client.ImportRequest) (out client.Import, err error) {
	detail := interventionDetail(r.Reason, r.DryRun)
	if r.Version > 0 {
		detail["version"] = fmt.Sprint(r.Version)
	}
	takes := []policy.Capability{policy.Update}
	if len(r.Handle) > 0 || len(r.VersionHandles) > 0 {
		takes = append(takes, policy.Revoke)
	}
	err = b.onVault(ctx, p, "secret.import", name, detail, takes, func(s rotation.Secret) error {
		handles, err := importHandles(r)
		if err != nil {
			return err
		}
		out = client.Import{Backend: s.Definition.Backend, Versions: []client.ImportedVersion{}}
		if r.Version != 0 {
			return b.giveHandle(ctx, p, s, r, &out)
		}
		req := engine.ImportRequest{Asked: asked(p, r.Reason), Handles: handles, DryRun: true}
		found, err := b.Engine.Import(ctx, s.ID, req)
		if err != nil {
			return err
		}
		if out.Foretold, err = foretold(r.InterventionRequest, importWill(s, found)); err != nil {
			return err
		}
		if req.DryRun = r.DryRun; !r.DryRun {
			if found, err = b.Engine.Import(ctx, s.ID, req); err != nil {
				return err
			}
		}
		out.Versions = viewImported(s, found)
		return nil
	})
	return out, err
}

// importHandles are the handles by the backend's ids; that of the current version
// is under the empty one.
func importHandles(r client.ImportRequest) (map[backends.VersionID]issuer.Handle, error) {
	switch {
	case r.Version < 0:
		return nil, fmt.Errorf("%w: versions are numbered from 1", backends.ErrInvalid)
	case r.Version > 0 && len(r.VersionHandles) > 0:
		return nil, fmt.Errorf("%w: the handle of one version that was taken over, or those of versions to be taken over, not both", backends.ErrInvalid)
	case r.Version > 0 && len(r.Handle) == 0:
		return nil, fmt.Errorf("%w: what does its issuer call version %d? its handle is missing", backends.ErrInvalid, r.Version)
	}
	handles := map[backends.VersionID]issuer.Handle{}
	if len(r.Handle) > 0 {
		handles[""] = issuer.Handle(r.Handle)
	}
	for id, h := range r.VersionHandles {
		if id == "" || len(h) == 0 {
			return nil, fmt.Errorf("%w: a handle of an older version needs that version's id in the backend, and at least one part", backends.ErrInvalid)
		}
		handles[backends.VersionID(id)] = issuer.Handle(h)
	}
	return handles, nil
}

// giveHandle takes over the handle of a version, and nothing else.
func (b *Broker) giveHandle(ctx context.Context, p authn.Principal, s rotation.Secret, r client.ImportRequest, out *client.Import) error {
	return b.change(ctx, r.DryRun, func(tx *store.Tx) (err error) {
		will := []string{fmt.Sprintf("version %d is revoked by its handle %s when it is its turn", r.Version, handleText(r.Handle))}
		if _, err := tx.RetirementOf(ctx, s.ID, r.Version); err == nil {
			will = []string{fmt.Sprintf("version %d, which is being turned off, is revoked by its handle %s, unless it is known to be dead already", r.Version, handleText(r.Handle))}
		}
		if out.Foretold, err = foretold(r.InterventionRequest, will); err != nil {
			return err
		}
		return b.Engine.GiveHandle(ctx, tx, s.ID, r.Version, issuer.Handle(r.Handle), asked(p, r.Reason))
	})
}

func handleText(h map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		parts = append(parts, name+"="+h[name])
	}
	return strings.Join(parts, ", ")
}

// importWill says what follows from taking these versions over.
func importWill(s rotation.Secret, found []engine.Imported) []string {
	current, backend := found[len(found)-1], s.Definition.Backend
	will := []string{fmt.Sprintf("what %s holds as its version %s becomes the current version; its fields: %s", backend, current.ID, strings.Join(current.Fields, ", "))}
	switch older := len(found) - 1; {
	case older == 1:
		will = append(will, "one older version is recorded as a retired one")
	case older > 1:
		will = append(will, fmt.Sprintf("%d older versions are recorded as retired ones", older))
	}
	will = append(will, fmt.Sprintf("nothing is written to %s before the first rotation", backend))
	if !current.Handle && s.Definition.Issuer != "" {
		will = append(will, fmt.Sprintf("nobody says what issuer %s calls the current credential: until somebody does, the broker cannot have it revoked", s.Definition.Issuer))
	}
	return will
}

func viewImported(s rotation.Secret, found []engine.Imported) []client.ImportedVersion {
	out := []client.ImportedVersion{}
	for _, v := range found {
		out = append(out, client.ImportedVersion{Number: v.Number, BackendVersion: string(v.ID), Stage: string(v.Stage), CreatedAt: utc(v.CreatedAt),
			FieldNames: v.Fields, HandleMissing: !v.Handle && s.Definition.Issuer != ""})
	}
	return out
}
