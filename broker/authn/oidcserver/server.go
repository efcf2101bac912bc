// Package oidcserver runs oidc-provider, a certified OpenID provider, in a process
// of its own for tests.
package oidcserver

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
)

//go:embed server.mjs
var script string

const (
	// ClientID is of the public client that people log in by: authorization code with
	// PKCE and any loopback port, and the device flow.
	ClientID = "keybroker"
	// Audience is that of the tokens that Workload gets unless it asks for another.
	Audience = "https://keybroker.example"
)

// Server is a provider on loopback.
type Server struct {
	Issuer string // "http://127.0.0.1:…", the same after another Start

	accounts map[string]map[string]any
	key      jose.JSONWebKey
	process  *process
}

// New returns a provider that runs until the test ends. Its accounts, with their
// claims beside sub, log in without a password. A provider that cannot be installed
// or started fails the test.
func New(t testing.TB, accounts map[string]map[string]any) *Server {
	t.Helper()
	s := &Server{accounts: accounts}
	s.newKey(t)
	s.Start(t)
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) newKey(t testing.TB) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s.key = jose.JSONWebKey{Key: key, KeyID: uuid.NewString(), Algorithm: string(jose.RS256), Use: "sig"}
}

// RotateKey gives the provider another signing key, and none of before.
func (s *Server) RotateKey(t testing.TB) {
	t.Helper()
	s.Stop()
	s.newKey(t)
	s.Start(t)
}

// Stop ends the process and waits for it; calling it again does nothing.
func (s *Server) Stop() { s.process.kill() }

// Start brings a stopped provider back at the same address, with the same key and
// without its sessions.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	built, err := Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	address := s.Issuer
	if address == "" {
		if address, err = loopback.Address(); err != nil {
			t.Fatal(err)
		}
	}
	port := address[strings.LastIndex(address, ":")+1:]
	config, err := json.Marshal(map[string]any{"modules": filepath.Join(built.Dir, "package.json"), "port": json.Number(port),
		"accounts": s.accounts, "keys": []jose.JSONWebKey{s.key}, "audiences": []string{Audience}})
	if err != nil {
		t.Fatal(err)
	}
	if s.process, s.Issuer, err = begin(built.Node, string(config)); err != nil {
		t.Fatalf("starting the OpenID provider: %v", err)
	}
}

// Keys are the provider's public keys, as it serves them.
func (s *Server) Keys() []byte {
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{s.key.Public()}})
	if err != nil {
		panic(err) // a key of our own making
	}
	return b
}

// Sign makes a JWT of the provider that it would not give itself. Standard claims
// that are not among claims are those of a good one.
func (s *Server) Sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	now := time.Now()
	all := map[string]any{"iss": s.Issuer, "sub": "alice", "aud": Audience, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	for name, value := range claims {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: s.key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Workload gets a JWT for a program that has no person, by its client credentials,
// for an audience that is an absolute URI; empty: Audience.
func (s *Server) Workload(t testing.TB, audience string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}}
	if audience != "" {
		form.Set("resource", audience)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("workload", "workload")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("asking the provider for a token: status %d: %v", resp.StatusCode, err)
	}
	return answer.AccessToken
}

// process is a running provider. It ends when its standard input is closed, by kill
// or by our own end.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ended sync.Once
}

func begin(node, config string) (*process, string, error) {
	cmd := exec.Command(node, "--input-type=module", "-e", script, config)
	cmd.Stderr = os.Stderr
	cmd.Env = environment()
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
		Issuer string `json:"issuer"`
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if err != nil {
		p.kill()
		return nil, "", fmt.Errorf("reading its address: %w", err)
	}
	return p, hello.Issuer, nil
}

// environment is ours without what would change how Node.js behaves.
func environment() []string {
	kept := []string{"NODE_NO_WARNINGS=1"}
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "NODE_") && !strings.HasPrefix(entry, "DEBUG") {
			kept = append(kept, entry)
		}
	}
	return kept
}

func (p *process) kill() {
	p.ended.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.stdin.Close()
		_ = p.cmd.Wait()
	})
}
