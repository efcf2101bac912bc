// Command core serves a real Vault core over HTTP for tests, with the few plugins
// that keybroker meets, until its standard input is closed.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	log "github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// options are the command's flags.
type options struct {
	listen  string
	level   string
	data    string
	standby bool
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "loopback address to serve plain HTTP on")
	flag.StringVar(&o.level, "log-level", "error", "level of the log on standard error")
	flag.StringVar(&o.data, "data", "", "directory to keep everything in; empty: in memory")
	flag.BoolVar(&o.standby, "standby", false, "serve a second node of the same cluster, in memory only")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "core:", err)
		os.Exit(1)
	}
}

// run prints {"addresses":["http://…"]} once it listens, with one address per
// node. The cores are neither initialised nor unsealed then: the caller does both
// over HTTP.
func run(o options) error {
	logger := log.New(&log.LoggerOptions{Output: os.Stderr, Level: log.LevelFromString(o.level)})
	storage, err := newStorage(o, logger.Named("storage"))
	if err != nil {
		return fmt.Errorf("creating the storage: %w", err)
	}
	listens := []string{o.listen}
	if o.standby {
		listens = append(listens, "127.0.0.1:0")
	}
	failed := make(chan error, len(listens))
	var addresses []string
	for _, listen := range listens {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return err
		}
		address := "http://" + l.Addr().String()
		core, err := newCore(storage, address, logger)
		if err != nil {
			return fmt.Errorf("creating a core: %w", err)
		}
		server := newServer(core)
		defer func() { _ = server.Close() }()
		go func() { failed <- server.Serve(l) }()
		addresses = append(addresses, address)
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"addresses": addresses}); err != nil {
		return err
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		// The parent holds the other end: when it ends, however it ends, so do we.
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	select {
	case err := <-failed:
		return err
	case <-closed:
		return nil // nothing to shut down with care: it is in memory, or meant to survive this
	}
}

func newServer(core *vault.Core) *http.Server {
	return &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{},
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
}

// maxEntrySize is the default of Vault's integrated storage, in bytes.
const maxEntrySize = "1048576"

func newStorage(o options, logger log.Logger) (physical.Backend, error) {
	switch {
	case o.data != "":
		return file.NewFileBackend(map[string]string{"path": o.data}, logger)
	case o.standby:
		return inmem.NewInmemHA(nil, logger)
	}
	return inmem.NewInmem(map[string]string{"max_value_size": maxEntrySize}, logger)
}

// newCore makes a node at an address. Nodes have no cluster port, so that a
// standby redirects to the active node's address instead of asking it itself.
func newCore(storage physical.Backend, address string, logger log.Logger) (*vault.Core, error) {
	conf := &vault.CoreConfig{
		Physical:        storage,
		Logger:          logger,
		DisableMlock:    true,
		BuiltinRegistry: registry{},
		LogicalBackends: map[string]logical.Factory{
			"kv":       kv.Factory,
			"database": database.Factory,
			"transit":  transit.Factory,
		},
		CredentialBackends: map[string]logical.Factory{
			"approle":    approle.Factory,
			"jwt":        jwt.Factory,
			"kubernetes": kubernetes.Factory,
		},
	}
	if ha, ok := storage.(physical.HABackend); ok && ha.HAEnabled() {
		conf.HAPhysical, conf.RedirectAddr = ha, address
	}
	return vault.NewCore(conf)
}
