package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// killable rotates one key quickly and needs no other system.
const killable = `
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
  overlap = "1s"
  verify {
    successes = 2
    interval  = "100ms"
  }
  confirm {
    rejections = 2
    window     = "1s"
  }
}
secret "app/key" {
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
}
`

const killedSecret = "app/key"

// buildProgram builds the real thing.
func buildProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keybroker")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("building keybroker: %v\n%s", err, out)
	}
	return path
}

// process is one run of the real daemon.
type process struct {
	*client.Client
	cmd    *exec.Cmd
	output *bytes.Buffer
	ended  chan struct{}
}

// host is the directory and address that processes follow each other on.
type host struct {
	t    *testing.T
	bin  string
	dir  string
	addr string
}

func newHost(t *testing.T, hcl string) *host {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, bin: buildProgram(t), dir: t.TempDir(), addr: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "config.hcl"), []byte(strings.ReplaceAll(hcl, "ADDR", h.addr)), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// start starts the daemon and waits until it serves.
func (h *host) start() *process {
	h.t.Helper()
	p := &process{cmd: exec.Command(h.bin, "server", "--config", "config.hcl", "--log-level", "debug"), output: &bytes.Buffer{}, ended: make(chan struct{})}
	p.cmd.Dir = h.dir
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	h.t.Cleanup(p.kill)
	h.until("the daemon to serve", p, func() bool {
		resp, err := http.Get("http://" + h.addr + "/healthz")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	token, err := os.ReadFile(filepath.Join(h.dir, "data", "root-token"))
	if err != nil {
		h.t.Fatal(err)
	}
	if p.Client, err = client.New("http://"+h.addr, strings.TrimSpace(string(token)), client.Options{}); err != nil {
		h.t.Fatal(err)
	}
	return p
}

// kill ends the process without a word and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

func (h *host) until(what string, p *process, ok func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		select {
		case <-p.ended:
			h.t.Fatalf("waiting for %s: the daemon has ended:\n%s", what, p.output)
		default:
		}
		if time.Now().After(deadline) {
			p.kill()
			h.t.Fatalf("waited in vain for %s:\n%s", what, p.output)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// record is what was seen of a secret from outside.
type record struct {
	keys map[int]string // version → key
}

// see reads every version that can be read; a daemon that is killed meanwhile
// answers nothing, which is no matter.
func (r *record) see(ctx context.Context, p *process) {
	s, err := p.Secret(ctx, killedSecret)
	if err != nil {
		return
	}
	for _, v := range s.Versions {
		if value, err := p.Value(ctx, killedSecret, v.Number); err == nil {
			r.keys[v.Number] = value.Fields["key"]
		}
	}
}

// rotation starts one and returns its id.
func (h *host) rotation(p *process) string {
	h.t.Helper()
	var id string
	h.until("a rotation to begin", p, func() bool {
		r, err := p.Rotate(h.t.Context(), killedSecret, client.RotateRequest{Reason: "kill test"})
		id = r.ID
		if err != nil && client.Status(err) != http.StatusConflict {
			h.t.Fatal(err)
		}
		return err == nil
	})
	return id
}

// finish waits for the end of a rotation and for its proof.
func (h *host) finish(p *process, r *record, id string) {
	h.t.Helper()
	ctx := h.t.Context()
	var last client.Rotation
	h.until("rotation "+id, p, func() bool {
		r.see(ctx, p)
		var err error
		last, err = p.Rotation(ctx, id)
		return err == nil && !last.EndedAt.IsZero()
	})
	if last.State != client.RotationDone {
		h.t.Errorf("rotation %s ended %s: %s\n%s", id, last.State, last.Error, p.output)
	}
	if last.FromVersion == 0 {
		return
	}
	s, err := p.Secret(ctx, killedSecret)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, v := range s.Versions {
		if v.Number == last.FromVersion && (v.Retirement == nil || v.Retirement.State != client.ProvenDead || v.Retirement.ContainedAt.IsZero()) {
			h.t.Errorf("rotation %s is done without the proof that version %d is dead: %+v", id, v.Number, v.Retirement)
		}
	}
}

// check looks from outside whether the secret is as it must be when nothing is
// under way.
func (h *host) check(p *process, r *record) {
	h.t.Helper()
	ctx := h.t.Context()
	live, err := p.Rotations(ctx, client.RotationQuery{Live: true})
	if err != nil || len(live.Items) != 0 {
		h.t.Errorf("%d rotations are still under way (%v)", len(live.Items), err)
	}
	all, err := p.Rotations(ctx, client.RotationQuery{Page: client.Page{Limit: 1000}})
	if err != nil {
		h.t.Fatal(err)
	}
	published := int64(0)
	for _, rot := range all.Items {
		if !rot.PublishedAt.IsZero() {
			published++
		}
	}
	s, err := p.Secret(ctx, killedSecret)
	if err != nil {
		h.t.Fatal(err)
	}
	if s.Generation != published || s.State != client.SecretActive {
		h.t.Errorf("%s in generation %d after %d published rotations", s.State, s.Generation, published)
	}
	current := 0
	for _, v := range s.Versions {
		if v.Stage == client.StageCurrent {
			current++
		} else if v.Stage != client.StageRetired {
			h.t.Errorf("version %d is %s although nothing is under way", v.Number, v.Stage)
		}
	}
	if current != 1 {
		h.t.Errorf("%d versions are current", current)
	}
	for number, key := range r.keys {
		got, err := p.CheckKey(ctx, client.SecretText(key))
		if want := number == s.Current(); err != nil || got.Active != want {
			h.t.Errorf("the key of version %d works: %v (%v), want %v; version %d is current", number, got.Active, err, want, s.Current())
		}
	}
	if r.keys[s.Current()] == "" || len(r.keys) < int(published) {
		h.t.Errorf("%d keys were seen of %d published versions", len(r.keys), published)
	}
}

// TestSIGKILLInTheOverlap kills the real daemon in the overlap, and then in
// every other state that can be caught from outside. Whatever it was at, the
// next start finishes it with the proof.
func TestSIGKILLInTheOverlap(t *testing.T) {
	h := newHost(t, killable)
	r := &record{keys: map[int]string{}}
	p := h.start()
	h.finish(p, r, h.rotation(p))
	for _, state := range []string{"overlap", "minting", "verifying", "publishing", "retiring", "queued", "overlap"} {
		id := h.rotation(p)
		var seen client.Rotation
		h.until("the state "+state, p, func() bool {
			now, err := p.Rotation(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			seen = now
			if state == "overlap" || state == "retiring" {
				r.see(t.Context(), p)
			}
			return now.State == state || later(now.State, state) // short states may be missed
		})
		p.kill()
		p = h.start()
		h.finish(p, r, id)
		h.check(p, r)
		t.Logf("killed in %s", seen.State)
		if t.Failed() {
			t.Fatalf("after a kill in %s:\n%s", seen.State, p.output)
		}
	}
	for n := range 6 { // and at odd moments of whatever a rotation does
		id := h.rotation(p)
		time.Sleep(time.Duration(n*n) * 3 * time.Millisecond)
		p.kill()
		p = h.start()
		h.finish(p, r, id)
		h.check(p, r)
	}
}

// later tells whether state a comes after b; an end comes after all.
func later(a, b string) bool {
	order := []string{"queued", "minting", "staging", "verifying", "publishing", "overlap", "retiring"}
	i := slices.Index(order, a)
	return i < 0 || i > slices.Index(order, b)
}
