package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// The name of the field in which the test keeps its values.
const canaryField = "canary_field_7f3a"

const canaryConfig = `
listener "tcp" {
  address = "ADDR"
}
backend "local" "embedded" {}
issuer "http" "keys" {
  base_url              = "API"
  allow_private_network = true
  auth "bearer" {
    token = env("CANARY_ADMIN")
  }
  create {
    method = "POST"
    path   = "/v1/keys"
    body   = jsonencode({ name = rotation.tag })
    handle = { id = "$.id" }
    fields = { canary_field_7f3a = "$.secret" }
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
  revocation_budget = "1s"
}
probe "http" "keys" {
  method                = "GET"
  url                   = "API/v1/me"
  headers               = { Authorization = "Bearer ${field.canary_field_7f3a}" }
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
    url                   = "http://127.0.0.1:1/nobody"
    payload               = "plain"
    allow_private_network = true
  }
}
rotation_policy "quick" {
  match {
    paths = ["*"]
  }
  overlap = "1s"
  verify {
    successes = 1
  }
  confirm {
    rejections = 2
    window     = "1s"
  }
  limits {
    plain_payload = true
  }
}
secret "app/canary" {
  backend   = "embedded"
  issuer "keys" {}
  probe     = "keys"
  consumers = ["app"]
}
`

// TestDataShowsNeitherValuesNorFieldNames runs a real server that keeps everything
// itself, and looks through every byte of its data_dir after it was killed in the
// middle of its work, and after it was stopped.
func TestDataShowsNeitherValuesNorFieldNames(t *testing.T) {
	t.Parallel()
	api := keyserver.Start(t)
	d := newCanaryData(t, api)
	stop := d.start()
	for range 2 {
		d.rotate()
	}
	api.Override("GET /v1/me", 503, 1)
	api.Override("POST /v1/keys", 500, 1)
	d.rotate()
	if _, err := d.client.RotateSeal(t.Context(), client.SealRotateRequest{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.client.Emergency(t.Context(), "app/canary", client.EmergencyRequest{Reason: "leaked"}); err != nil {
		t.Fatal(err)
	}
	stop(syscall.SIGKILL)
	d.look("killed")

	stop = d.start()
	d.rotate()
	stop(os.Interrupt)
	d.look("stopped")
}

// canaryData is an installation whose values and field names are known.
type canaryData struct {
	*testing.T
	dir, addr string
	api       *keyserver.Server
	client    *client.Client
}

func newCanaryData(t *testing.T, api *keyserver.Server) *canaryData {
	t.Helper()
	addr, err := loopback.Address()
	must(t, err)
	d := &canaryData{T: t, dir: t.TempDir(), addr: addr, api: api}
	hcl := strings.NewReplacer("ADDR", d.addr, "API", api.URL).Replace(canaryConfig)
	must(t, os.WriteFile(filepath.Join(d.dir, "config.hcl"), []byte(hcl), 0o600))
	return d
}

// start runs the server as a process of its own, until stop sends it a signal and it
// has ended.
func (d *canaryData) start() (stop func(os.Signal)) {
	d.Helper()
	s := &liveServer{cmd: exec.Command("keybroker", "server", "--config", d.dir), ready: make(chan struct{}), ended: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), "CANARY_ADMIN="+d.api.AdminToken)
	stderr, err := s.cmd.StderrPipe()
	must(d.T, err)
	must(d.T, s.cmd.Start())
	go s.follow(stderr)
	stop = func(sig os.Signal) {
		_ = s.cmd.Process.Signal(sig)
		<-s.ended
		if text := s.log.String(); strings.Contains(text, canaryField) || d.shows(text, d.api.Secrets()) != "" {
			d.Error("the log shows a value, or the name of its field")
		}
	}
	d.Cleanup(func() { stop(os.Kill) })
	select {
	case <-s.ready:
	case <-s.ended:
		d.Fatalf("the server does not start:\n%s", &s.log)
	}
	token, err := os.ReadFile(filepath.Join(d.dir, "data", "root-token"))
	must(d.T, err)
	d.client, err = client.New("http://"+d.addr, strings.TrimSpace(string(token)), client.Options{})
	must(d.T, err)
	d.Cleanup(d.client.Close)
	return stop
}

// rotate rotates the secret, once whatever is under way has ended.
func (d *canaryData) rotate() {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), 2*time.Minute)
	defer cancel()
	under, err := d.client.Rotations(ctx, client.RotationQuery{Live: true})
	must(d.T, err)
	for _, r := range under.Items {
		d.follow(ctx, r.ID)
	}
	r, err := d.client.Rotate(ctx, "app/canary", client.RotateRequest{Reason: "test"})
	must(d.T, err)
	if r = d.follow(ctx, r.ID); r.State != client.RotationDone {
		d.Fatalf("the rotation is %s: %s", r.State, r.Error)
	}
}

func (d *canaryData) follow(ctx context.Context, id string) (r client.Rotation) {
	d.Helper()
	for ev, err := range d.client.WatchRotation(ctx, id) {
		must(d.T, err)
		if ev.Rotation != nil {
			r = *ev.Rotation
		}
	}
	return r
}

// look searches every file of data_dir, save the two that hold a secret by purpose.
func (d *canaryData) look(when string) {
	d.Helper()
	secrets := append(d.api.Secrets(), canaryField, d.api.AdminToken)
	if len(secrets) < 5 {
		d.Fatalf("%s: only %d secrets to look for", when, len(secrets))
	}
	files, bytesRead, names := 0, 0, 0
	data := filepath.Join(d.dir, "data")
	key, err := os.ReadFile(filepath.Join(data, "seal.key"))
	must(d.T, err)
	must(d.T, filepath.WalkDir(data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == "seal.key" || entry.Name() == "root-token" {
			return err
		}
		text, err := os.ReadFile(path)
		if what := d.shows(string(text), append(secrets, string(key))); what != "" {
			d.Errorf("%s: %s shows %s", when, entry.Name(), what)
		}
		files, bytesRead, names = files+1, bytesRead+len(text), names+bytes.Count(text, []byte("app/canary"))
		return err
	}))
	if files < 3 || names == 0 {
		d.Errorf("%s: only %d files, with the secret's name %d times", when, files, names)
	}
	d.Logf("%s: looked for %d secrets in %d bytes of %d files", when, len(secrets), bytesRead, files)
}

// shows tells whether text holds one of the secrets in any of the usual forms.
func (d *canaryData) shows(text string, secrets []string) string {
	for i, s := range secrets {
		for form, shape := range everyForm(s) {
			if strings.Contains(text, shape) {
				return fmt.Sprintf("secret %d as %s", i, form)
			}
		}
	}
	return ""
}

// everyForm gives a text as it may stand inside of others: as it is, in hexadecimal
// digits, and in base64 at each of the three places where it can begin.
func everyForm(s string) map[string]string {
	forms := map[string]string{"plain text": s, "hex": hex.EncodeToString([]byte(s)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(s)))}
	for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
		for skip := range 3 {
			// The first and last characters share bits with what stands around the text.
			whole := encoding.EncodeToString([]byte(strings.Repeat("x", skip) + s))
			first := (skip*8 + 5) / 6
			forms[fmt.Sprint(name, "+", skip)] = whole[first : (skip+len(s))*8/6]
		}
	}
	return forms
}

// TestEveryFormIsFound: what the search for secrets would miss, it would not report.
func TestEveryFormIsFound(t *testing.T) {
	var d canaryData
	for skip := range 5 {
		for _, encoded := range []string{
			base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\xff", skip) + canaryField + "tail")),
			hex.EncodeToString([]byte(strings.Repeat("y", skip) + canaryField)),
			strings.Repeat("y", skip) + canaryField,
		} {
			if d.shows(encoded, []string{canaryField}) == "" {
				t.Errorf("not found in %s", encoded)
			}
		}
	}
	if d.shows(base64.StdEncoding.EncodeToString([]byte("canary_fjeld_7f3a")), []string{canaryField}) != "" {
		t.Error("found where it is not")
	}
}
