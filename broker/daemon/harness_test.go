package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/examples/consumer/receiver"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// logBuffer keeps what a node logs, to be looked through.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// site is the directory and address of a node that may be started more than once.
type site struct {
	t    testing.TB
	dir  string
	addr string
	hcl  string
	log  *logBuffer
	env  map[string]string
	// token is the root token of the installation, if another node had it first.
	token string
	// newRoot starts the node with NewRootToken.
	newRoot bool
	// adjust changes what the node is started with; nil: nothing.
	adjust func(*daemon.Options)
	// opened is given the node before it runs; nil: nobody is.
	opened func(*daemon.Daemon)
}

// newSite makes a site with a configuration in which ADDR stands for its address.
func newSite(t testing.TB, hcl string) *site {
	t.Helper()
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: t.TempDir(), addr: addr, log: &logBuffer{}, env: map[string]string{}}
	s.hcl = strings.ReplaceAll(hcl, "ADDR", addr)
	return s
}

func (s *site) config() *config.Config {
	s.t.Helper()
	cfg, diags := s.load()
	if diags.HasErrors() {
		var text strings.Builder
		_ = diags.WriteText(&text, false)
		s.t.Fatalf("the configuration is not valid:\n%s", text.String())
	}
	return cfg
}

// load reads what the configuration is now.
func (s *site) load() (*config.Config, *config.Diagnostics) {
	return config.Parse(map[string][]byte{"config.hcl": []byte(s.hcl)}, daemon.Registry(), config.Options{Dir: s.dir,
		LookupEnv: func(name string) (string, bool) { v, ok := s.env[name]; return v, ok }})
}

// node is one run of a site.
type node struct {
	*client.Client
	addr string
	stop func() // waits for the end
}

func (s *site) start() *node {
	s.t.Helper()
	logger := hclog.New(&hclog.LoggerOptions{Output: s.log, Level: hclog.Trace})
	opts := daemon.Options{Config: s.config(), Load: s.load, Logger: logger, NewRootToken: s.newRoot}
	if s.adjust != nil {
		s.adjust(&opts)
	}
	d, err := daemon.Open(context.Background(), opts)
	if err != nil {
		s.t.Fatalf("opening: %v", err)
	}
	if s.opened != nil {
		s.opened(d)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	var once sync.Once
	n := &node{stop: func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				s.t.Errorf("stopping: %v", err)
			}
		})
	}}
	s.t.Cleanup(n.stop)
	n.addr = d.Addr()
	n.Client = s.client(s.rootToken(), d.Addr())
	return n
}

func (s *site) client(token, addr string) *client.Client {
	s.t.Helper()
	c, err := client.New(addr, token, client.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

func (s *site) rootToken() string {
	s.t.Helper()
	if s.token != "" {
		return s.token
	}
	b, err := os.ReadFile(filepath.Join(s.dir, "data", daemon.RootTokenFile))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// consumer is a real HTTP receiver on loopback.
type consumer struct {
	*receiver.Receiver
	url string
}

func newConsumer(t testing.TB, secret backends.SecretString) *consumer {
	t.Helper()
	r, err := receiver.New(secret, receiver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(r.ServeHTTP))
	t.Cleanup(srv.Close)
	return &consumer{r, srv.URL}
}

func (c *consumer) key(secret string) (string, int64) {
	v, generation := c.Current(secret)
	return v.Reveal()["key"], generation
}

// eventually waits until ok, as long as the test may take.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// follow watches a rotation to its end and returns it with its retirements.
func (n *node) follow(t testing.TB, id string) (client.Rotation, map[int]client.Retirement) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var rot client.Rotation
	retirements := map[int]client.Retirement{}
	for ev, err := range n.WatchRotation(ctx, id) {
		if err != nil {
			t.Fatalf("watching: %v (last seen %s, waiting for %q, error %q)", err, rot.State, rot.WaitingFor, rot.Error)
		}
		if ev.Rotation != nil {
			rot = *ev.Rotation
		}
		if ev.Retirement != nil {
			retirements[ev.Retirement.Version] = *ev.Retirement
		}
	}
	return rot, retirements
}

// rotate starts a rotation and follows it to its end.
func (n *node) rotate(t testing.TB, secret string) (client.Rotation, map[int]client.Retirement) {
	t.Helper()
	r, err := n.Rotate(t.Context(), secret, client.RotateRequest{Reason: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return n.follow(t, r.ID)
}

func (n *node) value(t testing.TB, secret string) client.Value {
	t.Helper()
	v, err := n.Value(t.Context(), secret, 0)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func stepsOf(r client.Rotation) string {
	var b strings.Builder
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "%s=%s ", s.Step, s.Outcome)
	}
	return b.String()
}

// embedded is the configuration with no other system: quick rotations of a key
// that the broker issues itself.
const embedded = `
listener "tcp" {
  address = "ADDR"
}
backend "local" "embedded" {}
issuer "api_key" "internal" {}
probe "http" "internal" {
  method                = "POST"
  url                   = "http://ADDR/api/v1/keys/check"
  headers               = { Authorization = "Bearer ${field.key}" }
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
rotation_policy "quick" {
  match {
    paths = ["*"]
  }
  overlap = "2s"
  verify {
    successes = 2
    interval  = "50ms"
  }
  confirm {
    rejections = 3
    window     = "2s"
  }
}
rotation_policy "told-plainly" { # beside those that say how secrets rotate
  limits {
    plain_payload = true
  }
}
policy "reader" {
  path "app/*" {
    capabilities = ["read"]
  }
}
trigger "api" "scanner" {
  action  = "emergency"
  secrets = ["app/*"]
}
trigger "api" "ci" {
  action  = "rotate"
  secrets = ["app/*"]
}
secret "app/key" {
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
CONSUMERS}
`

func withConsumer(hcl string, c *consumer) string {
	if c == nil {
		return strings.ReplaceAll(hcl, "CONSUMERS", "")
	}
	return strings.ReplaceAll(hcl, "CONSUMERS", "  consumers = [\"app\"]\n") + `
consumer "app" {
  webhook {
    url                   = "` + c.url + `"
    payload               = "plain"
    allow_private_network = true
    signing_secret        = env("SIGNING_SECRET")
  }
}
`
}

// applied is what a consumer says of a delivery whose version it uses.
func (n *node) applied(t testing.TB, d client.Delivery) client.AcknowledgeRequest {
	t.Helper()
	v, err := n.Value(t.Context(), d.Secret, d.Version)
	if err != nil {
		t.Fatal(err)
	}
	return client.AcknowledgeRequest{Status: client.AckApplied, Generation: d.Generation,
		Fingerprint: rotation.Fingerprint(d.ID, backends.NewValue(v.Fields))}
}

func newSigningSecret() backends.SecretString { return webhook.GenerateSecret() }

func (s *site) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}
