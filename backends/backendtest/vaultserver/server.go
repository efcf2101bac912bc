// Package vaultserver runs a real Vault core in a process of its own for tests.
package vaultserver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Server is an unsealed Vault with KV v2 mounted at secret/ and AppRole at
// auth/approle/, all in memory.
type Server struct {
	Addr      string // "http://127.0.0.1:…"
	RootToken string

	unsealKey string
	process   *exec.Cmd
	stdin     io.Closer
	stop      sync.Once
	names     counter
}

// Start runs a server of the test's own, which may seal or stop it. It ends
// with the test. A core that cannot be built or started fails the test.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := start(t.Context())
	if err != nil {
		t.Fatalf("starting a Vault core: %v", err)
	}
	t.Cleanup(s.Stop)
	return s
}

var shared = sync.OnceValues(func() (*Server, error) { return start(context.Background()) })

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

func start(ctx context.Context) (*Server, error) {
	binary, err := Build(ctx)
	if err != nil {
		return nil, err
	}
	s, err := launch(binary)
	if err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// launch starts the process and learns its address. The process ends when its
// standard input is closed, by Stop or by our own end.
func launch(binary string) (*Server, error) {
	cmd := exec.Command(binary, "-listen", "127.0.0.1:0", "-log-level", "off")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &Server{process: cmd, stdin: stdin}
	var hello struct {
		Address string `json:"address"`
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if err != nil {
		s.Stop()
		return nil, fmt.Errorf("reading the core's address: %w", err)
	}
	s.Addr = hello.Address
	return s, nil
}

// prepare initialises and unseals the core and mounts what Server promises.
func (s *Server) prepare(ctx context.Context) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	keys, err := client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialising: %w", err)
	}
	s.RootToken, s.unsealKey = keys.RootToken, keys.Keys[0]
	client.SetToken(s.RootToken)
	if err := s.unseal(ctx, client); err != nil {
		return err
	}
	if err := client.Sys().EnableAuthWithOptionsWithContext(ctx, "approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		return fmt.Errorf("enabling approle: %w", err)
	}
	return mountKV(ctx, client, "secret")
}

func (s *Server) unseal(ctx context.Context, client *api.Client) error {
	status, err := client.Sys().UnsealWithContext(ctx, s.unsealKey)
	if err != nil {
		return fmt.Errorf("unsealing: %w", err)
	}
	if status.Sealed {
		return fmt.Errorf("unsealing: still sealed")
	}
	return nil
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
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := client.Logical().ReadWithContext(ctx, path+"/config")
		if err == nil {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for KV v2 at %s: %w", path, err)
		}
	}
}

// Stop ends the process and waits for it; calling it again does nothing.
func (s *Server) Stop() {
	s.stop.Do(func() {
		_ = s.stdin.Close()
		// In memory and ours alone: nothing is lost by not waiting for a quiet end.
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
	})
}
