package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
)

// v2 is a driver on KV v2.
//
// The broker's version number and the generation cannot be part of the guarded
// write: KV v2 keeps custom metadata per secret, not per version, and changes it by
// a request of its own. They are patched in afterwards, for people to look at and
// never for us to write by, beside the number of the version that they describe:
// where "keybroker_vault_version" is not the current one, the rest is out of date
// (a crash or a refusal came between). A failure there does not fail the write,
// which has happened. The patch leaves foreign keys alone; it needs the capability
// "patch" on <mount>/metadata/, and is left out for an hour where that is missing.
//
// What the mount or the secret is set to changes nothing of this: cas_required asks
// for what we do anyway; versions beyond max_versions, and those older than
// delete_version_after, are gone like any that somebody else deleted.
type v2 struct {
	*engine
	notes notes
}

var _ backends.Driver = (*v2)(nil)

// path of a secret in one of the engine's trees: data, metadata, delete, destroy.
func (d *v2) path(tree string, ref backends.Ref) string {
	return d.mount + "/" + tree + "/" + d.prefix + ref.Name
}

// Read implements backends.Driver. A field that is no string, which only others
// write, is given as its JSON text.
func (d *v2) Read(ctx context.Context, ref backends.Ref, id backends.VersionID) (backends.Value, backends.VersionID, error) {
	none := backends.Value{}
	query := map[string][]string{}
	if id != "" {
		if _, err := number(id); err != nil {
			return none, "", err
		}
		query["version"] = []string{string(id)}
	}
	secret, err := d.read(ctx, d.path("data", ref), query)
	if err != nil {
		return none, "", err
	}
	var answer struct {
		Data     map[string]json.RawMessage `json:"data"`
		Metadata struct {
			Version int `json:"version"`
		} `json:"metadata"`
	}
	if err := decode(secret.Data, &answer); err != nil {
		return none, "", err
	}
	if answer.Data == nil {
		return none, "", fmt.Errorf("%w: the version was deleted or destroyed", backends.ErrNotFound)
	}
	return valueOf(answer.Data), versionID(answer.Metadata.Version), nil
}

// Describe implements backends.Driver. Versions beyond the engine's
// max_versions are forgotten by Vault.
func (d *v2) Describe(ctx context.Context, ref backends.Ref) (backends.Description, error) {
	desc, _, err := d.describe(ctx, ref)
	return desc, err
}

// describe also returns the newest version's number, current or gone.
func (d *v2) describe(ctx context.Context, ref backends.Ref) (backends.Description, int, error) {
	secret, err := d.read(ctx, d.path("metadata", ref), nil)
	if err != nil {
		return backends.Description{}, 0, err
	}
	var meta metadata
	if err := decode(secret.Data, &meta); err != nil {
		return backends.Description{}, 0, err
	}
	desc, err := meta.description(d.now())
	return desc, meta.CurrentVersion, err
}

// Publish implements backends.Driver.
func (d *v2) Publish(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	cas := 0
	if w.Expect != "" {
		n, err := number(w.Expect)
		if err != nil {
			return "", fmt.Errorf("%w: the version expected is none of this vault's", backends.ErrConflict)
		}
		cas = n
	}
	if err := d.guards(ctx, ref); err != nil {
		return "", err
	}
	id, err := d.write(ctx, ref, w, cas)
	if errors.Is(err, backends.ErrConflict) && cas == 0 {
		return d.writeOverGone(ctx, ref, w, err)
	}
	return id, err
}

// guards makes sure that a write is one with check-and-set: KV v1 would take it for a
// secret of its own and keep the value under another path. Where the mount is denied
// to us, what becomes of a read tells whether it is only away.
func (d *v2) guards(ctx context.Context, ref backends.Ref) error {
	err := d.glance(ctx)
	if errors.Is(err, backends.ErrDenied) {
		if _, away := d.Describe(ctx, ref); backends.Retryable(away) {
			return away
		}
	}
	return err
}

// writeOverGone publishes where nothing is current though versions exist,
// because the newest was deleted: its number then stands for "none".
func (d *v2) writeOverGone(ctx context.Context, ref backends.Ref, w backends.Write, conflict error) (backends.VersionID, error) {
	desc, newest, err := d.describe(ctx, ref)
	switch {
	case backends.Retryable(err):
		return "", fmt.Errorf("after a conflict, looking for what is current: %w", err)
	case err != nil || desc.Current != "":
		return "", conflict // what it was at the time of the write
	}
	return d.write(ctx, ref, w, newest)
}

func (d *v2) write(ctx context.Context, ref backends.Ref, w backends.Write, cas int) (backends.VersionID, error) {
	fields := w.Value.Reveal()
	if n, limit := stored(fields), d.capabilities.MaxValueSize; n > limit {
		return "", fmt.Errorf("%w: the value has %d bytes as JSON, the limit is %d (see max_value_size)", backends.ErrInvalid, n, limit)
	}
	secret, err := d.conn.Write(ctx, d.path("data", ref), map[string]any{
		"data":    fields,
		"options": map[string]any{"cas": cas},
	})
	if err != nil {
		return "", err
	}
	var answer struct {
		Version      int    `json:"version"`
		DeletionTime string `json:"deletion_time"`
	}
	if secret != nil {
		err = decode(secret.Data, &answer)
	}
	if err != nil || answer.Version == 0 {
		return "", fmt.Errorf("%w: vault answered a write without a version", backends.ErrUnavailable)
	}
	if answer.DeletionTime != "" {
		d.logger.Warn("the vault will delete the current version by itself: see delete_version_after of the mount and the secret",
			"secret", ref.String(), "version", answer.Version, "at", answer.DeletionTime)
	}
	d.annotate(ctx, ref, answer.Version, w)
	return versionID(answer.Version), nil
}

// Retire implements backends.Driver: the version is deleted, which Vault can undo.
func (d *v2) Retire(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	return d.end(ctx, "delete", ref, id)
}

// Destroy implements backends.Driver. It also destroys what was only deleted.
func (d *v2) Destroy(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	return d.end(ctx, "destroy", ref, id)
}

// end posts a version that is not current to one of the engine's trees that take
// versions away.
func (d *v2) end(ctx context.Context, tree string, ref backends.Ref, id backends.VersionID) error {
	n, err := number(id)
	if err != nil {
		return nil //nolint:nilerr // what was never here is gone already
	}
	desc, err := d.Describe(ctx, ref)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		err = d.believed(ctx, err, d.look) // not by what was seen before: this is final
		if errors.Is(err, backends.ErrNotFound) {
			return nil // with all its versions
		}
		return err
	case err != nil:
		return err
	case desc.Current == id:
		return fmt.Errorf("%w: version %s is the current one", backends.ErrConflict, id)
	}
	// The number is all that KV v2 goes by. Of a secret that was deleted with its
	// metadata and made anew, which counts from 1 again, it names another version than
	// it did: whoever holds ids has to drop them then, as its creation times tell.
	_, err = d.conn.Write(ctx, d.path(tree, ref), map[string]any{"versions": []int{n}})
	return err
}

// List implements backends.Driver: the names of all tenants, those included
// whose versions were all deleted. What is below the prefix under a name that
// keybroker would refuse is left out.
func (d *v2) List(ctx context.Context, _, after string, limit int) ([]string, string, error) {
	return d.list(ctx, d.mount+"/metadata/"+d.prefix, after, limit)
}
