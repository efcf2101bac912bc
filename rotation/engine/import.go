package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// maxImported is how many versions of a vault are taken over: the newest ones.
const maxImported = 100

// ImportRequest asks for a secret to be adopted that is in its vault already.
type ImportRequest struct {
	Asked
	// Handles are what the issuer calls the credentials, by the vault's own ids of
	// their versions; "" is the current one. A version without a handle is never
	// revoked by the broker (rule 6).
	Handles map[backends.VersionID]issuer.Handle
	DryRun  bool // only say what would be imported
}

// Imported is one version that was, or would be, taken over.
type Imported struct {
	Number    int                   `json:"version"` // 0 in a dry run
	ID        backends.VersionID    `json:"backend_version"`
	Stage     rotation.VersionStage `json:"stage"`
	CreatedAt time.Time             `json:"created_at,omitzero"`
	Fields    []string              `json:"fields"` // names
	Handle    bool                  `json:"handle"` // is known
}

// Import records the versions that a vault holds of a secret which the broker has
// no version of, and writes nothing to that vault: the first rotation does. A
// rotation that has begun nothing gives way to it; the next one is due by the
// secret's schedule. ErrConflict if the broker has versions of it already,
// ErrNotFound if the vault holds nothing.
func (e *Engine) Import(ctx context.Context, secretID string, req ImportRequest) ([]Imported, error) {
	x, _, err := e.look(ctx, secretID)
	if err != nil {
		return nil, err
	}
	if err := importable(x.secret); err != nil {
		return nil, err
	}
	for _, h := range req.Handles {
		if err := e.checkHandle(x.secret.Definition.Issuer, x.secret.Definition.Settings, h); err != nil {
			return nil, err
		}
	}
	versions, note, err := e.readVault(ctx, x.secret, req)
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", x.secret.Ref, err)
	}
	out := imported(versions)
	err = e.Store.View(ctx, func(tx Tx) error {
		for _, in := range versions {
			if err := handleIsFree(ctx, tx, in.v.Issuer, in.v.Handle); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || req.DryRun {
		return out, err
	}
	if err := e.sealIncoming(ctx, x.secret, versions, note); err != nil {
		return nil, err
	}
	err = e.Store.Update(ctx, func(tx Tx) error {
		return e.takeIn(ctx, tx, x.secret, slices.Clone(versions), note, req) // Update may run this again
	})
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", x.secret.Ref, err)
	}
	e.Logger.Info("a secret was imported", "secret", x.secret.Ref, "backend", x.secret.Definition.Backend, "versions", len(versions))
	return imported(versions), nil
}

func importable(s rotation.Secret) error {
	switch {
	case s.State == rotation.SecretUnmanaged:
		return fmt.Errorf("%w: %s is unmanaged: its block was taken out of the configuration", backends.ErrConflict, s.Ref)
	case s.Current > 0:
		return fmt.Errorf("%w: the broker has version %d of %s as its current one; what somebody else wrote to its vault since is adopted with `keybroker drift adopt %s`",
			backends.ErrConflict, s.Current, s.Ref, qualified(s.Ref))
	}
	return nil
}

// incoming is a version of the vault that is being taken over.
type incoming struct {
	v      rotation.Version
	fields []string
	value  backends.Value
}

func imported(versions []incoming) []Imported {
	var out []Imported
	for _, in := range versions {
		out = append(out, Imported{Number: in.v.Number, ID: in.v.BackendVersion, Stage: in.v.Stage, CreatedAt: in.v.CreatedAt,
			Fields: in.fields, Handle: in.v.Handle != nil})
	}
	return out
}

// readVault reads every version that the vault still gives, the oldest first; the
// last one is the current one.
func (e *Engine) readVault(ctx context.Context, s rotation.Secret, req ImportRequest) ([]incoming, backends.Note, error) {
	var note backends.Note
	m, err := e.backend(s.Definition.Backend)
	if err != nil {
		return nil, note, err
	}
	desc, err := m.Describe(ctx, s.Ref)
	if err != nil && !notFound(err) {
		return nil, note, err
	}
	if desc.Current == "" {
		return nil, note, fmt.Errorf("%w: %q holds no current version of it", backends.ErrNotFound, m.Name())
	}
	ids := []backends.VersionMeta{}
	for _, meta := range desc.Versions {
		if !meta.Gone && meta.ID != desc.Current && m.Capabilities().Versions {
			ids = append(ids, meta)
		}
	}
	ids = ids[max(len(ids)-maxImported+1, 0):]
	current := slices.IndexFunc(desc.Versions, func(v backends.VersionMeta) bool { return v.ID == desc.Current })
	last := backends.VersionMeta{ID: desc.Current}
	if current >= 0 {
		last = desc.Versions[current]
	}
	for id := range req.Handles {
		if id != "" && id != desc.Current && !slices.ContainsFunc(ids, func(v backends.VersionMeta) bool { return v.ID == id }) {
			return nil, note, fmt.Errorf("%w: a handle was given for version %q, which %q does not hold", backends.ErrInvalid, string(id), m.Name())
		}
	}
	var out []incoming
	for _, meta := range append(ids, last) {
		in, err := e.readIncoming(ctx, m, s, meta, meta.ID == desc.Current, req)
		if meta.ID != desc.Current && (notFound(err) || errors.Is(err, backends.ErrInvalid)) { // it went meanwhile, or has another layout
			e.Logger.Warn("a version that is not current was left out of an import", "secret", s.Ref, "backend", m.Name(), "version", meta.ID, "why", err)
			continue
		}
		if err != nil {
			return nil, note, err
		}
		switch ours, err := e.recognise(ctx, s, in.value); {
		case err != nil && !notFound(err):
			return nil, note, err
		case err == nil && meta.ID == desc.Current:
			return nil, note, fmt.Errorf("%w: %q holds version %d of the secret, which is turned off: remove it there, the first rotation writes anew", backends.ErrConflict, m.Name(), ours.Number)
		case err == nil: // an older one of ours, of which there is a record
		default:
			out = append(out, in)
		}
	}
	if desc.Note.Generation < 0 || desc.Note.Generation > maxNoted || desc.Note.Version < 0 || desc.Note.Version > maxNoted {
		return nil, note, fmt.Errorf("%w: the note in %q is not the broker's: generation %d, version %d", backends.ErrInvalid, m.Name(), desc.Note.Generation, desc.Note.Version)
	}
	return distinct(out, desc.Note, req)
}

// maxNoted bounds what is believed of a note, which others than the broker may write.
const maxNoted = 1 << 40

// distinct leaves out older versions with the value of a newer one: they are one
// credential, and revoking the old would revoke the new.
func distinct(versions []incoming, note backends.Note, req ImportRequest) ([]incoming, backends.Note, error) {
	var out []incoming
	for i, in := range versions {
		newer := slices.IndexFunc(versions[i+1:], func(o incoming) bool { return o.value.Equal(in.value) })
		if newer < 0 {
			out = append(out, in)
			continue
		}
		if _, given := req.Handles[in.v.BackendVersion]; given {
			return nil, note, fmt.Errorf("%w: version %s of the vault has the value of its version %s: give the handle for that one", backends.ErrInvalid,
				in.v.BackendVersion, versions[i+1+newer].v.BackendVersion)
		}
	}
	return out, note, nil
}

func (e *Engine) readIncoming(ctx context.Context, m *backends.Mount, s rotation.Secret, meta backends.VersionMeta, current bool, req ImportRequest) (incoming, error) {
	value, id, err := m.Read(ctx, s.Ref, meta.ID)
	if err != nil {
		return incoming{}, err
	}
	def := s.Definition
	v := rotation.Version{SecretID: s.ID, Ref: s.Ref, Stage: rotation.StageRetired, Environment: def.Environment(), Backend: def.Backend, Issuer: def.Issuer, Probe: def.Probe,
		Settings: def.Settings, BackendVersion: id, Handle: req.Handles[meta.ID], CreatedAt: meta.CreatedAt, PublishedAt: meta.CreatedAt}
	if v.CreatedAt.IsZero() {
		v.CreatedAt, v.PublishedAt = e.Now(), e.Now()
	}
	if current {
		v.Stage = rotation.StageCurrent
		if h, ok := req.Handles[""]; ok {
			v.Handle = h
		}
	}
	return incoming{v: v, fields: value.FieldNames(), value: value}, nil
}

// takeIn adds the versions, sealed under the numbers that they were given.
func (e *Engine) takeIn(ctx context.Context, tx Tx, seen rotation.Secret, versions []incoming, note backends.Note, req ImportRequest) error {
	s, err := tx.Secret(ctx, seen.ID)
	if err != nil {
		return err
	}
	if s.Revision != seen.Revision || s.LastVersion != seen.LastVersion {
		return fmt.Errorf("%w: the secret was changed meanwhile: ask again", backends.ErrConflict)
	}
	if err := e.giveWay(ctx, tx, s, req.Asked); err != nil {
		return err
	}
	if err := tx.SkipVersions(ctx, s.ID, note.Version); err != nil {
		return err
	}
	for i := range versions {
		if err := handleIsFree(ctx, tx, versions[i].v.Issuer, versions[i].v.Handle); err != nil {
			return err
		}
		want := versions[i].v.Number
		if err := tx.AddVersion(ctx, &versions[i].v); err != nil {
			return err
		}
		if versions[i].v.Number != want {
			return fmt.Errorf("%w: another version was added meanwhile: ask again", backends.ErrConflict)
		}
	}
	now, current := e.Now(), versions[len(versions)-1].v
	s.Current, s.Generation, s.UpdatedAt = current.Number, max(s.Generation, note.Generation)+1, now
	if err := e.setDue(&s, current, false); err != nil {
		return err
	}
	if err := tx.SaveSecret(ctx, &s); err != nil {
		return err
	}
	if err := e.Place(ctx, tx, &s, now); err != nil {
		return err
	}
	if err := e.Schedule(ctx, tx, s); err != nil {
		return err
	}
	return tx.AddAudit(ctx, rotation.AuditEvent{At: now, Tenant: s.Ref.Tenant, Actor: req.By, Action: "secret.import", Path: s.Ref.Name, Secret: s.Ref.String(), Outcome: "ok",
		Detail: map[string]string{"backend": current.Backend, "version": fmt.Sprint(current.Number), "versions": fmt.Sprint(len(versions)), "reason": req.Reason}})
}

// handleIsFree refuses a handle that the broker knows as another version's: who may
// import one secret could have another one revoked by it.
func handleIsFree(ctx context.Context, tx Tx, issuerName string, h issuer.Handle) error {
	if h == nil {
		return nil
	}
	_, err := tx.VersionByHandle(ctx, issuerName, h)
	switch {
	case notFound(err):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: issuer %q has another version of the broker's under this handle", backends.ErrConflict, issuerName)
}

// giveWay ends a rotation that waits in the queue: what it would replace was not
// known when it was asked for.
func (e *Engine) giveWay(ctx context.Context, tx Tx, s rotation.Secret, asked Asked) error {
	at, err := tx.Occupying(ctx, s.ID)
	switch {
	case notFound(err):
		return nil
	case err != nil:
		return err
	case at.State != rotation.Queued:
		return fmt.Errorf("%w: %s", backends.ErrConflict, occupied(at, s.Ref))
	}
	_, _, err = e.Cancel(ctx, tx, at.ID, Asked{By: asked.By, Reason: "the secret was imported"})
	return err
}

// sealIncoming numbers and seals the versions, as they are going to be added.
func (e *Engine) sealIncoming(ctx context.Context, s rotation.Secret, versions []incoming, note backends.Note) error {
	for i := range versions {
		versions[i].v.Number = max(s.LastVersion, note.Version) + 1 + i
		if err := e.seal(ctx, &versions[i].v, versions[i].value); err != nil {
			return err
		}
	}
	return nil
}

// GiveHandle says what the issuer calls the credential of a version that was
// imported or adopted without that, so that the broker can revoke it. A retirement
// that waits for it goes on at once. ErrConflict if the handle is known.
func (e *Engine) GiveHandle(ctx context.Context, tx Tx, secretID string, version int, h issuer.Handle, asked Asked) error {
	v, err := tx.Version(ctx, secretID, version)
	if notFound(err) {
		return fmt.Errorf("%w: it has no version %d", backends.ErrNotFound, version)
	}
	if err != nil {
		return err
	}
	if !v.Foreign() || v.Handle != nil {
		return fmt.Errorf("%w: the handle of version %d is known", backends.ErrConflict, version)
	}
	if err := e.checkHandle(v.Issuer, v.Settings, h); err != nil {
		return err
	}
	if err := handleIsFree(ctx, tx, v.Issuer, h); err != nil {
		return err
	}
	v.Handle = h
	if err := tx.SaveVersion(ctx, &v); err != nil {
		return err
	}
	err = tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: v.Ref.Tenant, Actor: asked.By, Action: "secret.handle", Path: v.Ref.Name, Secret: v.Ref.String(), Outcome: "ok",
		Detail: map[string]string{"version": fmt.Sprint(version), "handle": handleText(h), "reason": asked.Reason}})
	if err != nil {
		return err
	}
	t, err := tx.RetirementOf(ctx, secretID, version)
	if notFound(err) || err == nil && !missesHandle(t) {
		return nil
	}
	if err != nil {
		return err
	}
	t.HandleGiven(e.Now())
	if err := tx.SaveRetirement(ctx, &t); err != nil {
		return err
	}
	return tx.Enqueue(ctx, wakeUp(retirementJob{t.ID}, zeroTime, true))
}

// missesHandle tells whether the retirement of a version without a handle was
// found not to be possible at its issuer; its rounds go on all the same.
func missesHandle(t rotation.Retirement) bool {
	return t.WaitingFor == rotation.WaitHandle || t.State == rotation.Unconfirmed || t.State == rotation.Unprovable
}

// checkHandle tells whether h is what the issuer's handles look like, and is in one of
// the accounts that the settings name, where there are any: by another one the issuer
// would revoke nothing. ErrInvalid names what is wrong.
func (e *Engine) checkHandle(issuerName string, settings json.RawMessage, h issuer.Handle) error {
	is, err := e.issuer(issuerName)
	if err != nil {
		return err
	}
	traits := issuer.TraitsOf(is, settings)
	want, have := slices.Sorted(slices.Values(traits.Handle)), slices.Sorted(maps.Keys(h))
	if len(h) == 0 || len(want) > 0 && !slices.Equal(want, have) {
		return fmt.Errorf("%w: a handle of issuer %q has %s, not %s", backends.ErrInvalid, issuerName, strings.Join(want, ", "), strings.Join(have, ", "))
	}
	if setter, ok := is.(issuer.Setter); ok && !slices.Contains(traits.Slots, setter.SlotOf(h)) {
		return fmt.Errorf("%w: the secret's settings for issuer %q name %s, not %q: name that one, too, or leave the handle out and turn the credential off by hand once it is replaced",
			backends.ErrInvalid, issuerName, strings.Join(traits.Slots, ", "), setter.SlotOf(h))
	}
	return nil
}
