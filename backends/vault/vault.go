// Package vault keeps secrets in the KV v2 engine of a HashiCorp Vault.
//
// A secret is at <mount>/<path_prefix><name>, whoever its tenant is, so that
// applications that read Vault directly find it where they always did. Tenants
// therefore share a backend of this kind only as long as no two of them have a
// secret of the same name, which the broker's store makes sure of; List gives
// the names of all.
//
// Every value is written with check-and-set. The broker's version number and
// the generation cannot be part of that write: KV v2 keeps custom metadata per
// secret, not per version, and changes it by a request of its own. They are
// patched in afterwards, for people to look at and never for us to decide by,
// beside the number of the version that they describe: where
// "keybroker_vault_version" is not the current one, the rest is out of date (a
// crash or a refusal came between). A failure there does not fail the write,
// which has happened. The patch leaves foreign keys alone; it needs the
// capability "patch" on <mount>/metadata/, and is left out without it.
package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// DefaultMount is where Vault's documentation mounts KV v2.
const DefaultMount = "secret"

// Config is the body of a `backend "vault"` block.
type Config struct {
	Mount      string           `hcl:"mount,optional"`       // of the KV v2 engine; default "secret"
	PathPrefix string           `hcl:"path_prefix,optional"` // before every name, e.g. "keybroker/"
	Conn       vaultconn.Config `hcl:",remain"`
}

// Validate reports every mistake in c, joined, each an ErrInvalid. It reads no
// file and asks no server.
func (c Config) Validate() error {
	var mistakes []error
	if c.Mount != "" && backends.ParseName(trim(c.Mount)) != nil {
		mistakes = append(mistakes, fmt.Errorf("%w: mount %q is no path like secret or team/kv", backends.ErrInvalid, c.Mount))
	}
	if c.PathPrefix != "" && backends.ParseName(trim(c.PathPrefix)) != nil {
		mistakes = append(mistakes, fmt.Errorf("%w: path_prefix %q is no path like keybroker/", backends.ErrInvalid, c.PathPrefix))
	}
	return errors.Join(append(mistakes, c.Conn.Validate())...)
}

func trim(path string) string { return strings.TrimSuffix(path, "/") }

// Driver is a backends.Driver on one KV v2 mount.
type Driver struct {
	conn   *vaultconn.Conn
	logger hclog.Logger
	mount  string // without a slash at its end
	prefix string // empty or with one
	now    func() time.Time

	unannotated atomic.Bool // custom metadata was refused once: leave it out
}

var _ backends.Driver = (*Driver)(nil)

// Open makes a driver. The server need not be up: see vaultconn.Dial.
func Open(ctx context.Context, cfg Config, logger hclog.Logger) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := vaultconn.Dial(ctx, cfg.Conn, logger)
	if err != nil {
		return nil, err
	}
	d := &Driver{conn: conn, logger: logger, mount: trim(cfg.Mount), now: time.Now}
	if d.mount == "" {
		d.mount = DefaultMount
	}
	if cfg.PathPrefix != "" {
		d.prefix = trim(cfg.PathPrefix) + "/"
	}
	return d, nil
}

// Close logs out of nothing but stops renewing the login; see vaultconn.
func (d *Driver) Close() { d.conn.Close() }

// Capabilities says what KV v2 can do.
func (d *Driver) Capabilities() backends.Capabilities {
	return backends.Capabilities{Versions: true, CompareSwap: true, Destroy: true}
}

// path of a secret in one of the engine's trees: data, metadata, delete, destroy.
func (d *Driver) path(tree string, ref backends.Ref) string {
	return d.mount + "/" + tree + "/" + d.prefix + ref.Name
}

// Read implements backends.Driver. A field that is no string, which only others
// write, is given as its JSON text.
func (d *Driver) Read(ctx context.Context, ref backends.Ref, id backends.VersionID) (backends.Value, backends.VersionID, error) {
	none := backends.Value{}
	query := map[string][]string{}
	if id != "" {
		if _, err := number(id); err != nil {
			return none, "", err
		}
		query["version"] = []string{string(id)}
	}
	secret, err := d.conn.Read(ctx, d.path("data", ref), query)
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
func (d *Driver) Describe(ctx context.Context, ref backends.Ref) (backends.Description, error) {
	desc, _, err := d.describe(ctx, ref)
	return desc, err
}

// describe also returns the newest version's number, current or gone.
func (d *Driver) describe(ctx context.Context, ref backends.Ref) (backends.Description, int, error) {
	secret, err := d.conn.Read(ctx, d.path("metadata", ref), nil)
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
func (d *Driver) Publish(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	cas := 0
	if w.Expect != "" {
		n, err := number(w.Expect)
		if err != nil {
			return "", fmt.Errorf("%w: the version expected is none of this vault's", backends.ErrConflict)
		}
		cas = n
	}
	id, err := d.write(ctx, ref, w, cas)
	if errors.Is(err, backends.ErrConflict) && cas == 0 {
		return d.writeOverGone(ctx, ref, w, err)
	}
	return id, err
}

// writeOverGone publishes where nothing is current though versions exist,
// because the newest was deleted: its number then stands for "none".
func (d *Driver) writeOverGone(ctx context.Context, ref backends.Ref, w backends.Write, conflict error) (backends.VersionID, error) {
	desc, newest, err := d.describe(ctx, ref)
	if err != nil || desc.Current != "" {
		return "", conflict // what it was at the time of the write
	}
	return d.write(ctx, ref, w, newest)
}

func (d *Driver) write(ctx context.Context, ref backends.Ref, w backends.Write, cas int) (backends.VersionID, error) {
	secret, err := d.conn.Write(ctx, d.path("data", ref), map[string]any{
		"data":    w.Value.Reveal(),
		"options": map[string]any{"cas": cas},
	})
	if err != nil {
		return "", err
	}
	var answer struct {
		Version int `json:"version"`
	}
	if secret != nil {
		err = decode(secret.Data, &answer)
	}
	if err != nil || answer.Version == 0 {
		return "", fmt.Errorf("%w: vault answered a write without a version", backends.ErrUnavailable)
	}
	d.annotate(ctx, ref, answer.Version, w)
	return versionID(answer.Version), nil
}

// annotate notes in the custom metadata what the new version is to keybroker;
// see the package comment for why it may fail.
func (d *Driver) annotate(ctx context.Context, ref backends.Ref, version int, w backends.Write) {
	if d.unannotated.Load() {
		return
	}
	err := d.conn.Patch(ctx, d.path("metadata", ref), map[string]any{
		"custom_metadata": map[string]any{
			"keybroker_vault_version": strconv.Itoa(version),
			"keybroker_version":       strconv.Itoa(w.Version),
			"keybroker_generation":    strconv.FormatInt(w.Generation, 10),
		},
	})
	switch {
	case err == nil:
	case backends.Retryable(err):
		d.logger.Debug("custom metadata not written", "secret", ref.String(), "error", err)
	case d.unannotated.CompareAndSwap(false, true):
		d.logger.Info("custom metadata is left out from now on; to have it, grant patch on the metadata path",
			"path", d.mount+"/metadata/"+d.prefix, "error", err)
	}
}

// Retire implements backends.Driver: the version is deleted, which Vault can undo.
func (d *Driver) Retire(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	return d.end(ctx, "delete", ref, id)
}

// Destroy implements backends.Driver. It also destroys what was only deleted.
func (d *Driver) Destroy(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	return d.end(ctx, "destroy", ref, id)
}

// end posts a version that is not current to one of the engine's trees that take
// versions away.
func (d *Driver) end(ctx context.Context, tree string, ref backends.Ref, id backends.VersionID) error {
	n, err := number(id)
	if err != nil {
		return err
	}
	desc, err := d.Describe(ctx, ref)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return nil // with all its versions
	case err != nil:
		return err
	case desc.Current == id:
		return fmt.Errorf("%w: version %s is the current one", backends.ErrConflict, id)
	}
	// Numbers only grow, so that id cannot become current again meanwhile.
	_, err = d.conn.Write(ctx, d.path(tree, ref), map[string]any{"versions": []int{n}})
	return err
}

// Check implements backends.Driver: it also makes sure that the mount is KV v2,
// since without versions there is no check-and-set.
func (d *Driver) Check(ctx context.Context) error {
	if err := d.conn.Check(ctx); err != nil {
		return err
	}
	secret, err := d.conn.Read(ctx, "sys/internal/ui/mounts/"+d.mount, nil)
	if err != nil {
		return fmt.Errorf("looking at mount %s/: %w", d.mount, err)
	}
	var mount struct {
		Type    string            `json:"type"`
		Options map[string]string `json:"options"`
	}
	if err := decode(secret.Data, &mount); err != nil {
		return err
	}
	if mount.Type != "kv" || mount.Options["version"] != "2" {
		return fmt.Errorf("%w: mount %s/ is not a KV engine of version 2", backends.ErrInvalid, d.mount)
	}
	return nil
}
