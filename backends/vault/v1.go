package vault

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/keybroker/keybroker/backends"
)

// onlyVersion is the id of what KV v1 holds. It names the place and not the
// value, so that it stays the same when somebody changes the value: a hash of the
// value would tell it to whoever can guess it, and a keyed one would change with
// every restart. Whether the value is another is found by reading it.
const onlyVersion backends.VersionID = "only"

// v1 is a driver on KV v1, which it only reads.
type v1 struct{ *engine }

var _ backends.Driver = (*v1)(nil)

// Read implements backends.Driver. A field that is no string is given as its JSON
// text.
func (d *v1) Read(ctx context.Context, ref backends.Ref, id backends.VersionID) (backends.Value, backends.VersionID, error) {
	if id != "" && id != onlyVersion {
		return backends.Value{}, "", fmt.Errorf("%w: %q is no version of KV v1", backends.ErrNotFound, string(id))
	}
	secret, err := d.read(ctx, d.mount+"/"+d.prefix+ref.Name, nil)
	if err != nil {
		return backends.Value{}, "", err
	}
	if secret.Data == nil { // a 404 with a warning, which is how v2 answers here
		return backends.Value{}, "", fmt.Errorf("%w: mount %s/ is no KV engine of version 1 (see kv_version)", backends.ErrInvalid, d.mount)
	}
	var fields map[string]json.RawMessage
	if err := decode(secret.Data, &fields); err != nil {
		return backends.Value{}, "", err
	}
	return valueOf(fields), onlyVersion, nil
}

// Describe implements backends.Driver. KV v1 knows nothing of a secret but its
// value, so the value is read, and not looked at.
func (d *v1) Describe(ctx context.Context, ref backends.Ref) (backends.Description, error) {
	if _, _, err := d.Read(ctx, ref, ""); err != nil {
		return backends.Description{}, err
	}
	return backends.Description{Current: onlyVersion, Versions: []backends.VersionMeta{{ID: onlyVersion}}}, nil
}

var errReadOnly = fmt.Errorf("%w: KV v1 has no check-and-set, so it is only read", backends.ErrUnsupported)

// Publish implements backends.Driver.
func (d *v1) Publish(context.Context, backends.Ref, backends.Write) (backends.VersionID, error) {
	return "", errReadOnly
}

// Retire implements backends.Driver.
func (d *v1) Retire(context.Context, backends.Ref, backends.VersionID) error { return errReadOnly }

// Destroy implements backends.Driver.
func (d *v1) Destroy(context.Context, backends.Ref, backends.VersionID) error { return errReadOnly }

// List implements backends.Driver, as of v2.
func (d *v1) List(ctx context.Context, _, after string, limit int) ([]string, string, error) {
	return d.list(ctx, d.mount+"/"+d.prefix, after, limit)
}
