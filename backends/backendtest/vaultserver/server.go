// Package vaultserver runs a real Vault core in a process of its own for tests.
package vaultserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
)

// Server is an unsealed Vault with KV v2 mounted at secret/ and AppRole at
// auth/approle/.
type Server struct {
	Addr      string // "http://127.0.0.1:…"
	RootToken string

	data      string // directory of a durable server, else everything is in memory
	pair      bool   // there is a second node, at:
	standby   string
	unsealKey string
	process   *process
	names     counter
}

// Start runs a server of the test's own, which may seal or stop it. It ends
// with the test. A core that cannot be built or started fails the test.
func Start(t testing.TB) *Server {
	t.Helper()
	return started(t, &Server{})
}

// StartDurable is Start for a server that keeps its data in files, so that Kill
// and Restart may be called.
func StartDurable(t testing.TB) *Server {
	t.Helper()
	return started(t, &Server{data: t.TempDir()})
}

// StartPair is Start for a server with a second node, whose address is returned:
// a standby, which answers nothing itself and redirects to the first.
func StartPair(t testing.TB) (s *Server, standby string) {
	t.Helper()
	s = started(t, &Server{pair: true})
	return s, s.standby
}

func started(t testing.TB, s *Server) *Server {
	t.Helper()
	if err := s.start(t.Context()); err != nil {
		t.Fatalf("starting a Vault core: %v", err)
	}
	t.Cleanup(s.Stop)
	return s
}

var shared = sync.OnceValues(func() (*Server, error) {
	s := &Server{}
	return s, s.start(context.Background())
})

// Shared returns the one server of this test binary, for tests that neither
// seal nor stop it; KV gives each of them a mount of its own. It ends with the
// process.
func Shared(t testing.TB) *Server {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("starting the shared Vault core: %v", err)
	}
	return s
}

func (s *Server) start(ctx context.Context) error {
	if err := s.launch(ctx); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		s.Stop()
		return err
	}
	return nil
}

// launch starts the process and learns its addresses; a server that had one before
// gets the same again.
func (s *Server) launch(ctx context.Context) error {
	binary, err := Build(ctx)
	if err != nil {
		return err
	}
	address := strings.TrimPrefix(s.Addr, "http://")
	if address == "" {
		if address, err = loopback.Address(); err != nil {
			return err
		}
	}
	args := []string{"-log-level", "off", "-listen", address}
	if s.data != "" {
		args = append(args, "-data", s.data)
	}
	if s.pair {
		args = append(args, "-standby")
	}
	p, addresses, err := begin(binary, args)
	if err != nil {
		return err
	}
	s.process, s.Addr = p, addresses[0]
	if s.pair {
		s.standby = addresses[1]
	}
	return nil
}

// prepare initialises and unseals the core and mounts what Server promises.
func (s *Server) prepare(ctx context.Context) error {
	client, err := newClient(s.Addr)
	if err != nil {
		return err
	}
	keys, err := client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialising: %w", err)
	}
	s.RootToken, s.unsealKey = keys.RootToken, keys.Keys[0]
	client.SetToken(s.RootToken)
	if err := s.unseal(ctx); err != nil {
		return err
	}
	if err := client.Sys().EnableAuthWithOptionsWithContext(ctx, "approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		return fmt.Errorf("enabling approle: %w", err)
	}
	return mountKV(ctx, client, "secret")
}

// unseal unseals the node at Addr until it is the active one, then the standby.
func (s *Server) unseal(ctx context.Context) error {
	for _, address := range []string{s.Addr, s.standby} {
		if address == "" {
			continue
		}
		client, err := newClient(address)
		if err != nil {
			return err
		}
		status, err := client.Sys().UnsealWithContext(ctx, s.unsealKey)
		switch {
		case err != nil:
			return fmt.Errorf("unsealing: %w", err)
		case status.Sealed:
			return errors.New("unsealing: still sealed")
		case address != s.Addr:
			return nil // never active as long as the first is
		}
		if err := awaitActive(ctx, client); err != nil {
			return fmt.Errorf("unsealing: %w", err)
		}
	}
	return nil
}

// awaitActive waits for a node to serve: one in a cluster takes a moment to find
// itself the active one.
func awaitActive(ctx context.Context, client *api.Client) error {
	return eventually(ctx, func(ctx context.Context) error {
		health, err := client.Sys().HealthWithContext(ctx)
		if err == nil && (health.Sealed || health.Standby) {
			err = errors.New("the node is sealed or on standby")
		}
		return err
	})
}

// eventually repeats op until it succeeds, for up to half a minute.
func eventually(ctx context.Context, op func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := op(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// mountKV mounts KV v2 and waits until it has left its upgrade, during which
// every call is refused.
func mountKV(ctx context.Context, client *api.Client, path string) error {
	err := client.Sys().MountWithContext(ctx, path, &api.MountInput{
		Type:    "kv",
		Options: map[string]string{"version": "2"},
	})
	if err != nil {
		return fmt.Errorf("mounting KV v2 at %s: %w", path, err)
	}
	err = eventually(ctx, func(ctx context.Context) error {
		_, err := client.Logical().ReadWithContext(ctx, path+"/config")
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for KV v2 at %s: %w", path, err)
	}
	return nil
}

// Stop ends the process and waits for it; calling it again does nothing.
func (s *Server) Stop() { s.process.kill() }

// Kill ends the process of a durable server in the middle of what it does
// (SIGKILL) and waits for it. Its data stays for Restart.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.durable(t)
	s.process.kill()
}

// Restart starts a durable server that was killed or stopped again, at the address
// it had, and unseals it.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.durable(t)
	s.process.kill()
	// Somebody's outgoing connection may have taken the port for a moment.
	if err := eventually(t.Context(), s.launch); err != nil {
		t.Fatalf("restarting a Vault core: %v", err)
	}
	if err := s.unseal(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) durable(t testing.TB) {
	t.Helper()
	if s.data == "" {
		t.Fatal("the server keeps nothing: start it with StartDurable")
	}
}
