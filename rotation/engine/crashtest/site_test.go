package crashtest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
)

const configuration = `
listener "tcp" {
  address = "ADDR"
}
backend "local" "embedded" {}
BACKEND
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
issuer "http" "keys" {
  base_url              = "API"
  allow_private_network = true
  auth "bearer" {
    token = env("CRASH_ADMIN")
  }
  create {
    method = "POST"
    path   = "/v1/keys"
    body   = jsonencode({ name = rotation.tag, scopes = secret.issuer.scopes })
    handle = { id = "$.id" }
    fields = { key = "$.secret" }
  }
  find {
    method = "GET"
    path   = "/v1/keys?name=${rotation.tag}"
    items  = "$.data"
    tag    = "$.name"
    handle = { id = "$.id" }
  }
  revoke {
    method = "DELETE"
    path   = "/v1/keys/${handle.id}"
  }
  show_once         = true
  revocation_budget = "500ms"
}
probe "http" "keys" {
  method                = "GET"
  url                   = "API/v1/me"
  headers               = { Authorization = "Bearer ${field.key}" }
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
consumer "app" {
  webhook {
    url                   = "HOOK"
    payload               = "sealed"
    public_key_file       = "app.jwk"
    allow_private_network = true
  }
}
policy "collector" {
  path "careful/*" {
    capabilities = ["read"]
  }
}
role "collector" {
  tenant   = "default"
  policies = ["collector"]
}
consumer "collector" {
  role = "collector"
  inbox {}
}
rotation_policy "quick" {
  match {
    paths = ["*"]
  }
  overlap = "0s"
  verify {
    successes = 2
    interval  = "5ms"
    timeout   = "500ms"
  }
  confirm {
    rejections = 2
    window     = "500ms"
    recheck    = ["300ms"]
  }
}
rotation_policy "careful" {
  match {
    paths = ["careful/*"]
  }
  overlap = "CAREFUL_OVERLAP"
  acknowledgement {
    require    = "applied"
    timeout    = "1s"
    on_timeout = "proceed"
  }
}
secret "quick/internal" {
  backend   = "embedded"
  probe     = "internal"
  consumers = ["app"]
  issuer "internal" {}
}
secret "quick/keys" {
  backend = "MAIN"
  probe   = "keys"
  issuer "keys" {
    scopes = ["quick/keys"]
  }
}
secret "careful/keys" {
  backend   = "MAIN"
  probe     = "keys"
  consumers = ["app", "collector"]
  issuer "keys" {
    scopes = ["careful/keys"]
  }
}
`

const vaultBackend = `
backend "vault" "main" {
  address     = "VAULT"
  mount       = "KV"
  path_prefix = "keybroker/"
  auth "approle" {
    role_id   = env("CRASH_ROLE_ID")
    secret_id = env("CRASH_SECRET_ID")
  }
}
`

const (
	internalSecret = "quick/internal"
	quickSecret    = "quick/keys"
	carefulSecret  = "careful/keys"

	hookConsumer  = "app"
	inboxConsumer = "collector"
)

var secrets = []string{internalSecret, quickSecret, carefulSecret}

// overlaps are how long what was replaced stays valid, at least.
var overlaps = map[string]time.Duration{carefulSecret: 400 * time.Millisecond}

// binary builds the daemon with its crash points, once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "keybroker-crash-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "keybroker")
	out, err := exec.Command("go", "build", "-tags", "crashpoints", "-o", path, "github.com/keybroker/keybroker/cmd/keybroker").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building keybroker with crash points: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// site is one installation and all that stands around it.
type site struct {
	t       *testing.T
	name    string
	bin     string
	dir     string
	addr    string
	env     []string
	keys    *witness
	hook    *hook
	kv      *api.KVv2 // nil: the embedded backend
	rng     *rand.Rand
	sum     *summary
	subject map[string]*subject

	collector *poller

	transport *http.Transport
	client    *client.Client
	proc      *process
	auditRead int64 // bytes of the audit log that were looked at
	published map[string]map[int64]publication
	restored  map[string]publication // by the rotation that was rolled back
	states    map[string]int         // retirements, when they were last listed
	held      atomic.Bool            // something may be frozen or paused
	broken    atomic.Bool
}

// subject is one secret as it was seen from outside.
type subject struct {
	name     string
	internal bool // its keys are the broker's own

	mu       sync.Mutex         // guards what follows
	seen     map[int64]sighting // by generation
	newest   int64              // generation that was read
	checked  int                // keys of the journal that are known to be dead
	sure     map[string]bool    // keys that were found dead by several checks
	dead     map[string]time.Time
	keyOf    map[int]string    // by version
	readAt   map[int]time.Time // when the last read began that gave a version
	lastDone string            // the newest rotation that was looked at
	proven   map[int]bool      // versions whose proof was compared with the witness
	undone   []client.Rotation // rolled back since the last check

	lastDelivery string       // the newest that was looked at
	told         int64        // up to this generation everybody was told
	noticed      map[int]bool // versions whose end everybody was told of
}

func newSubject(name string, internal bool) *subject {
	return &subject{name: name, internal: internal, seen: map[int64]sighting{}, sure: map[string]bool{}, dead: map[string]time.Time{},
		keyOf: map[int]string{}, readAt: map[int]time.Time{}, proven: map[int]bool{}, noticed: map[int]bool{}}
}

type sighting struct {
	version int
	key     string
}

func newSite(t *testing.T, name string, seed uint64, sum *summary, vault *vaultserver.Server) *site {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "keybroker-crash-site-")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, name: name, bin: bin, dir: dir, addr: addr, keys: newWitness(t, seed),
		rng: rand.New(rand.NewPCG(seed, 3)), sum: sum, subject: map[string]*subject{}, published: map[string]map[int64]publication{}, restored: map[string]publication{},
		transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	s.hook, s.collector = newHook(s, seed), newPoller(s)
	for _, a := range []*application{s.hook.application, s.collector.application} {
		a.arrived = func(secret string, h holding) { s.subject[secret].observe(s, h.generation, h.version, h.key, a.name) }
	}
	for _, name := range secrets {
		s.subject[name] = newSubject(name, name == internalSecret)
		s.published[name] = map[int64]publication{}
	}
	s.env = append(os.Environ(), "CRASH_ADMIN="+s.keys.AdminToken)
	replace := []string{"CAREFUL_OVERLAP", overlaps[carefulSecret].String(), "ADDR", addr, "API", s.keys.url, "HOOK", s.hook.url}
	if vault == nil {
		replace = append(replace, "BACKEND", "", "MAIN", "embedded")
	} else {
		mount := vault.KV(t)
		s.kv = vault.Client(t).KVv2(mount)
		roleID, secretID := vault.AppRole(t, vaultserver.AppRole{Policy: fmt.Sprintf(`
path "%[1]s/data/keybroker/*" { capabilities = ["create", "read", "update"] }
path "%[1]s/metadata/keybroker/*" { capabilities = ["read", "list", "create", "update"] }
path "%[1]s/destroy/keybroker/*" { capabilities = ["update"] }`, mount)})
		s.env = append(s.env, "CRASH_ROLE_ID="+roleID, "CRASH_SECRET_ID="+secretID)
		replace = append(replace, "BACKEND", strings.NewReplacer("VAULT", vault.Addr, "KV", mount).Replace(vaultBackend), "MAIN", "main")
	}
	if err := os.WriteFile(filepath.Join(dir, "config.hcl"), []byte(strings.NewReplacer(replace...).Replace(configuration)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.jwk"), []byte(s.hook.publicKey), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	s.collector.start()
	return s
}

func (s *site) close() {
	s.collector.end()
	if s.proc != nil {
		s.proc.kill()
	}
	s.transport.CloseIdleConnections()
	if s.broken.Load() {
		return
	}
	_ = os.RemoveAll(s.dir)
}

// violation reports a promise that did not hold, and keeps the site.
func (s *site) violation(format string, args ...any) {
	s.sum.violations.Add(1)
	first := s.broken.CompareAndSwap(false, true)
	s.t.Errorf("VIOLATION at %s (seed %d, kept in %s): %s", s.name, s.sum.seed, s.dir, fmt.Sprintf(format, args...))
	if first {
		s.t.Logf("last lines of %s:\n%s", s.dir, s.tail("keybroker.log", 6000))
	}
}

func (s *site) tail(name string, n int64) string {
	b, _ := os.ReadFile(filepath.Join(s.dir, name))
	return string(b[max(0, int64(len(b))-n):])
}

// process is one run of the daemon.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// alive tells whether the process has not ended by itself.
func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the process without a word and waits until it is gone; false: it
// had ended otherwise before.
func (p *process) kill() bool {
	_ = p.cmd.Process.Kill()
	<-p.ended
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// dead waits until the process has killed itself, at most for d.
func (p *process) dead(d time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(d):
		return false
	}
}

// launch starts the daemon and does not wait for it; false: it could not.
func (s *site) launch(crashAt, crashLog string) bool {
	log, err := os.OpenFile(filepath.Join(s.dir, "keybroker.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		s.violation("opening the log of the daemon: %v", err)
		return false
	}
	defer log.Close()
	fmt.Fprintf(log, "---- started with %q\n", crashAt)
	p := &process{cmd: exec.Command(s.bin, "server", "--config", "config.hcl"), ended: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = s.dir, log, log
	p.cmd.Env = append(s.env[:len(s.env):len(s.env)], "KEYBROKER_CRASH_AT="+crashAt, "KEYBROKER_CRASH_LOG="+crashLog)
	if err := p.cmd.Start(); err != nil {
		s.violation("starting the daemon: %v", err)
		return false
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	s.proc = p
	s.sum.starts.Add(1)
	s.transport.CloseIdleConnections()
	return true
}

// ready waits until the daemon serves; false: it ended before.
func (s *site) ready() bool {
	began := time.Now()
	for time.Since(began) < 20*time.Second {
		if !s.proc.alive() {
			return false
		}
		resp, err := (&http.Client{Transport: s.transport, Timeout: 5 * time.Second}).Get("http://" + s.addr + "/healthz")
		if err == nil {
			_ = resp.Body.Close()
			if s.client == nil && !s.login() {
				continue
			}
			s.sum.started(time.Since(began))
			s.collector.logIn()
			return true
		}
		time.Sleep(3 * time.Millisecond)
	}
	s.violation("the daemon did not serve within 20 s of its start")
	return false
}

func (s *site) login() bool {
	token, err := os.ReadFile(filepath.Join(s.dir, "data", "root-token"))
	if err == nil {
		s.client, err = s.caller(strings.TrimSpace(string(token)))
	}
	return err == nil
}

func (s *site) caller(token string) (*client.Client, error) {
	return client.New("http://"+s.addr, token, client.Options{Transport: s.transport, Timeout: 10 * time.Second})
}

// start starts the daemon, which must serve, unless it is to die before; false: it
// did not, which is reported.
func (s *site) start(crashAt, crashLog string) bool {
	if !s.launch(crashAt, crashLog) {
		return false
	}
	if !s.ready() && crashAt == "" {
		s.violation("the daemon did not start")
	}
	return !s.broken.Load()
}

// restart is a kill and a start without crash points.
func (s *site) restart() bool {
	s.proc.kill()
	return s.start("", "")
}

// ask calls the daemon, which may die meanwhile.
func (s *site) ask(call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	err := call(ctx)
	if p := (*client.Problem)(nil); errors.As(err, &p) && p.Status >= 500 {
		s.sum.problem(p)
	}
	return err
}

func (s *site) rotate(name string) error {
	return s.ask(func(ctx context.Context) error {
		_, err := s.client.Rotate(ctx, name, client.RotateRequest{Reason: interfering})
		return err
	})
}

func (s *site) emergency(name, contain string) error {
	return s.ask(func(ctx context.Context) error {
		_, err := s.client.Emergency(ctx, name, client.EmergencyRequest{Reason: interfering, Contain: contain})
		return s.sum.asked("emergency", err)
	})
}

// emergencyNow declares the current version compromised by its number: also if
// another emergency has just brought it.
func (s *site) emergencyNow(name, contain string) error {
	return s.ask(func(ctx context.Context) error {
		secret, err := s.client.Secret(ctx, name)
		if err != nil {
			return err
		}
		_, err = s.client.Emergency(ctx, name, client.EmergencyRequest{Reason: interfering, Contain: contain, Versions: []int{secret.Current()}})
		return s.sum.asked("emergency", err)
	})
}
