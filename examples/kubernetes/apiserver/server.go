// Package apiserver starts an API server of Kubernetes for tests that knows ExternalSecrets
// by the schema of the operator's own CRD, and who may do what by the roles of manifests.
package apiserver

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/examples/kubernetes/externalsecrets"
)

// Server is one in a process of its own.
type Server struct {
	address string
	dir     string
	admin   string            // token that may do everything
	tokens  map[string]string // of service accounts, by "namespace/name"
	http    http.Client
}

// Start runs a server with the objects of files of YAML until the test ends. A field
// that Kubernetes does not know, in any of them, fails the test.
func Start(t testing.TB, manifests ...string) *Server {
	t.Helper()
	s, err := start(t, manifests)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Refuses returns what a server says of files that it does not start with.
func Refuses(t testing.TB, manifests ...string) error {
	t.Helper()
	_, err := start(t, manifests)
	return err
}

// start has Go build the core, which takes half a minute when nothing of it is in Go's
// cache, and none when all is. The core is in a module of its own, so that nothing that is
// shipped depends on Kubernetes.
func start(t testing.TB, manifests []string) (*Server, error) {
	_, file, _, _ := runtime.Caller(0)
	core := filepath.Join(filepath.Dir(file), "core")
	if _, err := os.Stat(core); err != nil {
		return nil, fmt.Errorf("run the tests in their checkout and without -trimpath: %w", err)
	}
	args := []string{"run", "-C", core, "-mod=readonly", "."}
	for _, m := range manifests {
		path, err := filepath.Abs(m)
		if err != nil {
			return nil, err
		}
		args = append(args, path)
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var said bytes.Buffer
	cmd.Stderr = &said
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
	var hello struct {
		Address, CA, Admin string
		Tokens             map[string]string
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if err != nil {
		_ = stdin.Close()
		return nil, errors.Join(cmd.Wait(), errors.New(said.String()))
	}
	t.Cleanup(func() { // the core ends with its input
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the API server ended with %v\n%s", err, &said)
		}
	})
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(hello.CA)) {
		return nil, errors.New("the API server has no certificate")
	}
	s := &Server{address: hello.Address, dir: t.TempDir(), admin: hello.Admin, tokens: hello.Tokens}
	s.http.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	t.Cleanup(s.http.CloseIdleConnections)
	return s, os.WriteFile(s.CAFile(), []byte(hello.CA), 0o600)
}

// CAFile holds the certificate of the server, which is its own authority.
func (s *Server) CAFile() string { return filepath.Join(s.dir, "ca.crt") }

// Access is that of a service account, "namespace/name".
func (s *Server) Access(t testing.TB, account string) externalsecrets.Access {
	t.Helper()
	token, ok := s.tokens[account]
	if !ok {
		t.Fatalf("there is no service account %s", account)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return externalsecrets.Access{Server: s.address, TokenFile: file, CAFile: s.CAFile()}
}

// Get returns an ExternalSecret as it is.
func (s *Server) Get(t testing.TB, namespace, name string) (e externalsecrets.ExternalSecret) {
	t.Helper()
	status, text := s.call(t, http.MethodGet, objects(namespace, name), "", "")
	if status != http.StatusOK || json.Unmarshal(text, &e) != nil {
		t.Fatalf("got %d %s", status, text)
	}
	return e
}

// Patch makes a patch as the admin, of a media type and with the query's parameters, and
// returns the status and what was said.
func (s *Server) Patch(t testing.TB, namespace, name, query, mediaType, patch string) (int, string) {
	t.Helper()
	status, text := s.call(t, http.MethodPatch, objects(namespace, name)+"?"+query, mediaType, patch)
	return status, string(text)
}

// Fail has the next request of a method, of any service account, answered with a status.
func (s *Server) Fail(t testing.TB, method string, status int) {
	t.Helper()
	s.order(t, "/test/faults", map[string]any{"method": method, "status": status})
}

// Interfere has somebody else change the object right before the next patch of it.
func (s *Server) Interfere(t testing.TB) {
	t.Helper()
	s.Fail(t, http.MethodPatch, 0)
}

// PauseOperator stops the operator, which otherwise refreshes at once what has changed.
func (s *Server) PauseOperator(t testing.TB, paused bool) {
	t.Helper()
	s.order(t, "/test/operator", map[string]any{"paused": paused})
}

// StripAnnotations makes all ExternalSecrets those of ClusterExternalSecrets, which take
// away what others annotate. The operator is paused or not as in PauseOperator.
func (s *Server) StripAnnotations(t testing.TB, paused bool) {
	t.Helper()
	s.order(t, "/test/operator", map[string]any{"paused": paused, "strips": true})
}

// FinishRefresh ends a refresh of an ExternalSecret that began before its last change.
func (s *Server) FinishRefresh(t testing.TB, namespace, name string) {
	t.Helper()
	s.order(t, "/test/refreshes", map[string]any{"namespace": namespace, "name": name})
}

// Patch is one that was tried.
type Patch struct {
	Path   string
	Body   string
	Status int
}

// Patches are those that reached an object or would have, in their order.
func (s *Server) Patches(t testing.TB) (all []Patch) {
	t.Helper()
	status, text := s.call(t, http.MethodGet, "/test/requests", "", "")
	if status != http.StatusOK || json.Unmarshal(text, &all) != nil {
		t.Fatalf("got %d %s", status, text)
	}
	return all
}

func objects(namespace, name string) string {
	return "/apis/external-secrets.io/v1/namespaces/" + namespace + "/externalsecrets/" + name
}

func (s *Server) order(t testing.TB, path string, body map[string]any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := s.call(t, http.MethodPost, path, "application/json", string(text)); status != http.StatusOK {
		t.Fatalf("got %d %s", status, answer)
	}
}

// call is the admin's.
func (s *Server) call(t testing.TB, method, path, mediaType, body string) (int, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.admin)
	request.Header.Set("Content-Type", mediaType)
	response, err := s.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, text
}
