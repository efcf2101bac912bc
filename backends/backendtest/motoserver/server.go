// Package motoserver runs moto, the AWS emulator, in a process of its own for tests.
//
// What moto gets wrong, as far as it matters here: what is not found is answered
// with HTTP 404 (AWS: 400); quotas, sizes and lags are not modelled; Secrets
// Manager says of every version that it was created just now; inactive access keys
// (unless RefuseInactive was called) and expired sessions are still accepted; what
// GetSessionToken gives is accepted nowhere; IAM minds no resource but roles, no
// condition but StringEquals, and has no policy simulator.
package motoserver

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
)

//go:embed server.py
var script string

// Server is an empty AWS on loopback: Secrets Manager, Parameter Store, KMS, IAM,
// STS and SQS at least, all at one URL.
type Server struct {
	URL string // "http://127.0.0.1:…", the same after a Restart

	admin   Key
	journal string // of the requests that changed something; empty: it cannot be restarted
	process *process
	names   atomic.Int64
}

// Start runs a server of the test's own, which may Kill and Restart it. It takes
// any credentials, and ends with the test. A server that cannot be installed or
// started fails the test.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{admin: anybody, journal: filepath.Join(t.TempDir(), "journal")}
	if err := s.start(t.Context()); err != nil {
		t.Fatalf("starting moto: %v", err)
	}
	t.Cleanup(s.Stop)
	return s
}

// StartGuarded is Start for a server that checks signatures and IAM policies: of
// users made by User and of roles made by Role.
func StartGuarded(t testing.TB) *Server {
	t.Helper()
	s := Start(t)
	s.guard(t)
	return s
}

func (s *Server) guard(t testing.TB) {
	t.Helper()
	s.admin = s.User(t, Everything)
	s.post(t, "/moto-api/reset-auth", "0")
}

var shared = sync.OnceValues(func() (*Server, error) {
	s := &Server{admin: anybody}
	return s, s.start(context.Background())
})

// Shared returns the one server of this test binary, for tests that do not stop
// it; Region gives each of them a region of its own. It ends with the process.
func Shared(t testing.TB) *Server {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("starting the shared moto: %v", err)
	}
	return s
}

var sharedGuarded struct {
	sync.Mutex
	server *Server
}

// SharedGuarded is Shared for a server that checks signatures and IAM policies, as
// that of StartGuarded does.
func SharedGuarded(t testing.TB) *Server {
	t.Helper()
	sharedGuarded.Lock()
	defer sharedGuarded.Unlock()
	if sharedGuarded.server == nil {
		s := &Server{admin: anybody}
		if err := s.start(context.Background()); err != nil {
			t.Fatalf("starting the shared guarded moto: %v", err)
		}
		s.guard(t)
		sharedGuarded.server = s
	}
	return sharedGuarded.server
}

func (s *Server) start(ctx context.Context) error {
	python, err := Build(ctx)
	if err != nil {
		return err
	}
	address := s.URL
	if address == "" {
		if address, err = loopback.Address(); err != nil {
			return err
		}
	}
	port := address[strings.LastIndex(address, ":")+1:]
	args := []string{"-c", script, "--port", port}
	if s.journal != "" {
		args = append(args, "--journal", s.journal)
	}
	s.process, s.URL, err = begin(python, args)
	return err
}

// Kill ends the process at once, as a crash would: requests under way get no
// answer, and whether they had their effect is open.
func (s *Server) Kill() { s.process.kill() }

// Restart brings a killed server back at the same URL with all that it had
// answered to have done: secrets, parameters, keys, users, sessions. Only the
// times at which things were made are new.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if s.journal == "" {
		t.Fatal("the shared moto keeps no journal: use Start")
	}
	if err := s.start(t.Context()); err != nil {
		t.Fatalf("restarting moto: %v", err)
	}
}

// Stop ends the process and waits for it; calling it again does nothing.
func (s *Server) Stop() { s.process.kill() }

// process is a running server. It ends when its standard input is closed, by
// kill or by our own end.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ended sync.Once
}

// begin starts a server and returns the address that it listens on.
func begin(python string, args []string) (*process, string, error) {
	cmd := exec.Command(python, args...)
	cmd.Env = append(environment(), "MOTO_ALLOW_NONEXISTENT_REGION=true", "PYTHONUNBUFFERED=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, "", err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	p := &process{cmd: cmd, stdin: stdin}
	var hello struct {
		Address string `json:"address"`
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if err != nil {
		p.kill()
		return nil, "", fmt.Errorf("reading the server's address: %w", err)
	}
	return p, hello.Address, nil
}

// environment is ours without what would change how moto behaves.
func environment() []string {
	var kept []string
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "AWS_") && !strings.HasPrefix(entry, "MOTO_") && !strings.HasPrefix(entry, "PYTHON") {
			kept = append(kept, entry)
		}
	}
	return kept
}

// kill ends the process at once and waits for it; calling it again does nothing.
func (p *process) kill() {
	p.ended.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.stdin.Close()
		_ = p.cmd.Wait()
	})
}
