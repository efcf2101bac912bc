// Package vault keeps secrets in the KV engine of a HashiCorp Vault.
//
// A secret is at <mount>/<path_prefix><name>, whoever its tenant is, so that
// applications that read Vault directly find it where they always did. Tenants
// therefore share a backend of this kind only as long as no two of them have a
// secret of the same name, which the broker's store makes sure of; List gives
// the names of all.
//
// KV v2 is written to, always with check-and-set. KV v1 has neither versions nor
// check-and-set and is only read.
package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// DefaultMount is where Vault's documentation mounts KV v2.
const DefaultMount = "secret"

// DefaultMaxValueSize fits Vault's smallest storage: Consul keeps entries of up to
// 512 KiB, integrated storage 1 MiB by default (Vault's "limits and maximums"). The
// engine adds a few hundred bytes of its own to a version.
const DefaultMaxValueSize = 511 << 10

// Config is the body of a `backend "vault"` block.
type Config struct {
	Mount        string           `hcl:"mount,optional"`          // of the KV engine; default "secret"
	PathPrefix   string           `hcl:"path_prefix,optional"`    // before every name, e.g. "keybroker/"
	KVVersion    int              `hcl:"kv_version,optional"`     // of the engine: 2, the default, or 1
	MaxValueSize int              `hcl:"max_value_size,optional"` // bytes of the fields as one JSON object; 0 = DefaultMaxValueSize
	Conn         vaultconn.Config `hcl:",remain"`
}

// Capabilities says what a driver of this configuration can do.
func (c Config) Capabilities() backends.Capabilities {
	if c.KVVersion == 1 {
		return backends.Capabilities{ReadOnly: true}
	}
	return backends.Capabilities{
		Versions: true, CompareSwap: true, Destroy: true, MaxValueSize: cmp.Or(c.MaxValueSize, DefaultMaxValueSize),
	}
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
	if c.KVVersion < 0 || c.KVVersion > 2 {
		mistakes = append(mistakes, fmt.Errorf("%w: kv_version must be 1 or 2, not %d", backends.ErrInvalid, c.KVVersion))
	}
	if c.MaxValueSize < 0 {
		mistakes = append(mistakes, fmt.Errorf("%w: max_value_size is a number of bytes, not %d", backends.ErrInvalid, c.MaxValueSize))
	}
	return errors.Join(append(mistakes, c.Conn.Validate())...)
}

func trim(path string) string { return strings.TrimSuffix(path, "/") }

// Driver is a backends.Driver on one KV mount.
type Driver struct {
	backends.Driver // v1 or v2
	engine          *engine
}

// Open makes a driver. The server need not be up: see vaultconn.Dial.
func Open(ctx context.Context, cfg Config, logger hclog.Logger) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := vaultconn.Dial(ctx, cfg.Conn, logger)
	if err != nil {
		return nil, err
	}
	e := &engine{
		conn:         conn,
		logger:       logger,
		now:          time.Now,
		mount:        cmp.Or(trim(cfg.Mount), DefaultMount),
		version:      "2",
		capabilities: cfg.Capabilities(),
	}
	if cfg.PathPrefix != "" {
		e.prefix = trim(cfg.PathPrefix) + "/"
	}
	if cfg.KVVersion == 1 {
		e.version = "1"
		return &Driver{&v1{e}, e}, nil
	}
	return &Driver{&v2{engine: e}, e}, nil
}

// Close ends the login and cuts off what is under way; see vaultconn.
func (d *Driver) Close() { d.engine.conn.Close() }
