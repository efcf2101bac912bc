package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// seenFor is how long a mount that was there is taken to be there still, where a
// mistake about it mends itself.
const seenFor = time.Minute

// engine is what both versions of KV have in common.
type engine struct {
	conn         *vaultconn.Conn
	logger       hclog.Logger
	now          func() time.Time
	mount        string // without a slash at its end
	prefix       string // empty or with one
	version      string // "1" or "2"
	capabilities backends.Capabilities

	seen atomic.Pointer[time.Time] // when the mount was last found to be what it should be
}

// Capabilities implements backends.Driver.
func (e *engine) Capabilities() backends.Capabilities { return e.capabilities }

// Check implements backends.Driver. It also makes sure of the mount and its version:
// in version 1 there is no check-and-set, and the paths are others.
func (e *engine) Check(ctx context.Context) error {
	if err := e.conn.Check(ctx); err != nil {
		return err
	}
	return e.look(ctx)
}

// look makes sure that the mount is a KV engine of the right version. Who may do
// anything in a mount may ask this; ErrDenied also where nothing is mounted, since
// Vault does not say which of the two.
func (e *engine) look(ctx context.Context) error {
	secret, err := e.conn.Read(ctx, "sys/internal/ui/mounts/"+e.mount, nil)
	if err != nil {
		return fmt.Errorf("looking at mount %s/: %w", e.mount, err)
	}
	var mount struct {
		Type    string            `json:"type"`
		Options map[string]string `json:"options"`
	}
	if err := decode(secret.Data, &mount); err != nil {
		return err
	}
	found := cmp.Or(mount.Options["version"], "1") // none is how Vault mounts version 1
	switch {
	case mount.Type != "kv":
		return fmt.Errorf("%w: mount %s/ is an engine of type %q, not kv", backends.ErrInvalid, e.mount, mount.Type)
	case found != e.version:
		return fmt.Errorf("%w: mount %s/ is a KV engine of version %s, not %s (see kv_version)", backends.ErrInvalid, e.mount, found, e.version)
	}
	now := e.now()
	e.seen.Store(&now)
	return nil
}

// glance is look, unless that was done within seenFor.
func (e *engine) glance(ctx context.Context) error {
	if at := e.seen.Load(); at != nil && e.now().Sub(*at) < seenFor {
		return nil
	}
	return e.look(ctx)
}

// read is Read of the connection, but believes that nothing is there only of an
// engine that is what it should be.
func (e *engine) read(ctx context.Context, path string, query map[string][]string) (*api.Secret, error) {
	secret, err := e.conn.Read(ctx, path, query)
	return secret, e.believed(ctx, err, e.glance)
}

// believed returns err, or instead of an ErrNotFound why the mount is not there to
// say so: what it holds comes back with it.
func (e *engine) believed(ctx context.Context, err error, look func(context.Context) error) error {
	if !errors.Is(err, backends.ErrNotFound) {
		return err
	}
	switch why := look(ctx); {
	case why == nil:
		return err
	case errors.Is(why, backends.ErrDenied): // though we may read in it
		return fmt.Errorf("%w: nothing is mounted at %s/", backends.ErrUnavailable, e.mount)
	default:
		return why
	}
}
