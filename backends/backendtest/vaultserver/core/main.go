// Command core serves a real Vault core over HTTP for tests: in memory, with
// the few plugins that keybroker meets, until its standard input is closed.
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
	"github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/database"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback address to serve plain HTTP on")
	level := flag.String("log-level", "error", "level of the log on standard error")
	flag.Parse()
	if err := run(*listen, *level); err != nil {
		fmt.Fprintln(os.Stderr, "core:", err)
		os.Exit(1)
	}
}

// run prints {"address":"http://…"} once it listens. The core is neither
// initialised nor unsealed then: the caller does both over HTTP.
func run(listen, level string) error {
	core, err := newCore(log.New(&log.LoggerOptions{Output: os.Stderr, Level: log.LevelFromString(level)}))
	if err != nil {
		return fmt.Errorf("creating the core: %w", err)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{},
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"address": "http://" + l.Addr().String()}); err != nil {
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
		return server.Close() // everything is in memory: nothing to shut down with care
	}
}

func newCore(logger log.Logger) (*vault.Core, error) {
	storage, err := inmem.NewInmem(nil, logger.Named("storage"))
	if err != nil {
		return nil, err
	}
	return vault.NewCore(&vault.CoreConfig{
		Physical:        storage,
		Logger:          logger,
		DisableMlock:    true,
		BuiltinRegistry: registry{},
		LogicalBackends: map[string]logical.Factory{
			"kv":       kv.Factory,
			"database": database.Factory,
		},
		CredentialBackends: map[string]logical.Factory{
			"approle": approle.Factory,
		},
	})
}
