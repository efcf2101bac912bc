package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
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
	"github.com/keybroker/keybroker/examples/kubernetes/apiserver"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

const (
	account = "keybroker/keybroker-sync"
	secret  = "payments/stripe"
	canary  = "canary-c0de"
)

// output keeps what the command prints and shows it line by line.
type output struct {
	lines chan string
	mu    sync.Mutex
	text  strings.Builder
}

// await returns the first line, from where it was read last, that holds the text.
func (o *output) await(t *testing.T, text string) string {
	t.Helper()
	for {
		select {
		case line, more := <-o.lines:
			if strings.Contains(line, text) {
				return line
			}
			if !more {
				t.Fatalf("%q was not printed:\n%s", text, o)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q is not printed:\n%s", text, o)
		}
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// command runs until the test ends, with the rights of the manifests alone.
func command(t *testing.T, cluster *apiserver.Server, args ...string) *output {
	t.Helper()
	access := cluster.Access(t, account)
	args = append(args, "-server", access.Server, "-server-token-file", access.TokenFile, "-server-ca-file", access.CAFile)
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, args, write)
		_ = write.Close()
		done <- err
	}()
	o := &output{lines: make(chan string, 1000)}
	go func() {
		defer close(o.lines)
		for lines := bufio.NewScanner(read); lines.Scan(); {
			o.mu.Lock()
			o.text.WriteString(lines.Text() + "\n")
			o.mu.Unlock()
			o.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for range o.lines { // until all is read
		}
	})
	return o
}

func start(t *testing.T) *apiserver.Server {
	t.Helper()
	return apiserver.Start(t, "deploy/keybroker-sync.yaml", "deploy/externalsecret.yaml", "externalsecrets/testdata/objects.yaml")
}

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func mark(t *testing.T, cluster *apiserver.Server) string {
	t.Helper()
	return cluster.Get(t, "payments", "stripe").Metadata.Annotations["force-sync"]
}

// broker runs one with a consumer of the cluster's, and returns its client and address.
func broker(t *testing.T) (*client.Client, string) {
	t.Helper()
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(readme), "```hcl\n")
	block, _, _ = strings.Cut(block, "```")
	dir := t.TempDir()
	cfg, diags := config.Parse(map[string][]byte{"config.hcl": []byte(strings.ReplaceAll(around, "ADDR", addr)), "readme.hcl": []byte(block)},
		daemon.Registry(), config.Options{Dir: dir})
	if diags.HasErrors() {
		var text strings.Builder
		_ = diags.WriteText(&text, false)
		t.Fatal(text.String())
	}
	d, err := daemon.Open(t.Context(), daemon.Options{Config: cfg, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	token, err := os.ReadFile(filepath.Join(dir, "data", daemon.RootTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(d.Addr(), strings.TrimSpace(string(token)), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, d.Addr()
}

// around is what the configuration of the README stands in.
const around = `
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
secret "payments/stripe" {
  backend   = "embedded"
  probe     = "internal"
  consumers = ["kubernetes"]
  issuer "internal" {}
  rotation {
    overlap = "100ms"
    verify {
      interval = "10ms"
    }
    confirm {
      rejections = 2
      window     = "20ms"
    }
  }
}
`

// done waits for the end of a rotation.
func done(t *testing.T, c *client.Client, rotation string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var last client.Rotation
	for e, err := range c.WatchRotation(ctx, rotation) {
		if err != nil {
			t.Fatalf("%v: %+v", err, last)
		}
		if e.Rotation != nil {
			last = *e.Rotation
		}
	}
	if last.State != "done" {
		t.Errorf("got %+v", last)
	}
}

// TestRotationReachesTheCluster: the whole way, without a port that anybody could call.
// While the operator sleeps the old version stays; when it has refreshed, the version goes.
func TestRotationReachesTheCluster(t *testing.T) {
	cluster := start(t)
	c, addr := broker(t)
	token, err := c.CreateToken(t.Context(), client.CreateTokenRequest{Name: "cluster", Role: "kubernetes"})
	if err != nil {
		t.Fatal(err)
	}
	cluster.PauseOperator(t, true)
	out := command(t, cluster, "-consumer", "kubernetes", "-broker", addr, "-token-file", file(t, string(token.Token)), "-namespaces", "payments", "-wait", "2m")
	out.await(t, "the ExternalSecrets can be read")
	for generation := int64(1); generation <= 2; generation++ {
		cluster.PauseOperator(t, true)
		r, err := c.Rotate(t.Context(), secret, client.RotateRequest{Reason: "test"})
		if err != nil {
			t.Fatal(err)
		}
		out.await(t, "external_secret=payments/stripe")
		list, err := c.Deliveries(t.Context(), client.DeliveryQuery{Secret: secret, Event: "secret.rotated", State: client.DeliveryPending})
		if err != nil || len(list.Items) != 1 || list.Items[0].Generation != generation {
			t.Errorf("generation %d is not waited for: %+v, %v", generation, list.Items, err)
		}
		cluster.PauseOperator(t, false)
		done(t, c, r.ID)
		if got, want := mark(t, cluster), fmt.Sprintf("%s:%d:%s", secret, generation, list.Items[0].ID); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	value, err := c.Value(t.Context(), secret, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{string(token.Token), value.Fields["key"]} {
		if hidden == "" || strings.Contains(out.String(), hidden) {
			t.Error("something secret was printed, or there was none")
		}
	}
}

// TestWebhooks: each answer is what the broker makes of it.
func TestWebhooks(t *testing.T) {
	cluster := start(t)
	signing := webhook.GenerateSecret()
	out := command(t, cluster, "-consumer", "kubernetes", "-secret-file", file(t, signing.Reveal()+"\n"), "-listen", "127.0.0.1:0",
		"-namespaces", "payments", "-prefixes", "secret/,secret/data/")
	_, url, _ := strings.Cut(out.await(t, "msg=listening"), "address=")
	sender, err := webhook.NewSender(webhook.Endpoint{URL: url, AllowPrivate: true}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sender.Close)
	signer, err := webhook.NewSigner(signing)
	if err != nil {
		t.Fatal(err)
	}
	send := func(change func(*webhook.Message)) webhook.Outcome {
		t.Helper()
		m := message()
		change(&m)
		body, err := m.Body()
		if err != nil {
			t.Fatal(err)
		}
		return sender.Send(t.Context(), m.ID, body, signer)
	}
	if o := send(func(m *webhook.Message) { m.Audience = "another" }); o.Received || o.Status != http.StatusForbidden {
		t.Errorf("another's message: got %+v", o)
	}
	cluster.Fail(t, http.MethodPatch, http.StatusTooManyRequests)
	if o := send(func(*webhook.Message) {}); o.Received || o.Status != http.StatusServiceUnavailable {
		t.Errorf("refused by the API server: got %+v", o)
	}
	out.await(t, "the API server answers 429")
	// The value is not looked at, though it is sent.
	if o := send(func(*webhook.Message) {}); !o.Received || o.Claim == nil || o.Claim.Applied {
		t.Errorf("got %+v", o)
	}
	if got := mark(t, cluster); got != secret+":12:d-1" {
		t.Errorf("got %q", got)
	}
	for _, event := range []rotation.Event{rotation.EventRetired, rotation.EventEmergency, rotation.EventRolledBack} {
		o := send(func(m *webhook.Message) {
			m.ID, m.Event, m.Generation, m.Version = "d-"+string(event[len("secret."):]), event, 13, 4
			if !event.MakesCurrent() {
				m.Value = backends.Value{}
			}
		})
		if got := mark(t, cluster); !o.Received || (got == secret+":13:d-rolled_back") != (event == rotation.EventRolledBack) {
			t.Errorf("%s: got %+v, %q", event, o, got)
		}
	}
	if o := send(func(m *webhook.Message) { m.ID, m.Ref.Name = "d-2", "nobodys/key" }); o.Received || o.Status != http.StatusServiceUnavailable {
		t.Errorf("nothing to refresh: got %+v", o)
	}
	out.await(t, "no ExternalSecret refers to the secret nobodys/key")
	// A broker that was set up anew counts from the beginning.
	if o := send(func(m *webhook.Message) { m.ID, m.Generation = "d-3", 1 }); !o.Received || mark(t, cluster) != secret+":1:d-3" {
		t.Errorf("got %+v, %q", o, mark(t, cluster))
	}
	cluster.Fail(t, http.MethodGet, http.StatusForbidden)
	if o := send(func(m *webhook.Message) {
		*m = webhook.Message{ID: "t", Event: rotation.EventTest, Audience: m.Audience, Ref: backends.Ref{Tenant: "default"}, Time: m.Time, Payload: m.Payload}
	}); !o.Received {
		t.Errorf("a test: got %+v", o)
	}
	out.await(t, "the ExternalSecrets cannot be read")
	if strings.Contains(out.String(), canary) {
		t.Error("a value was printed")
	}
}

func message() webhook.Message {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	return webhook.Message{
		ID: "d-1", Event: rotation.EventRotated, Audience: "kubernetes", Ref: backends.Ref{Tenant: "default", Name: secret}, Version: 5, Generation: 12,
		Trigger: "schedule", Time: at, PublishedAt: at, Payload: webhook.Plain, Value: backends.NewValue(map[string]string{"key": canary}),
	}
}

func TestUsage(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	webhooks := []string{"-consumer", "k", "-listen", "127.0.0.1:0"}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no consumer":       {nil, "-consumer is missing"},
		"no way":            {[]string{"-consumer", "k", "-broker", "https://broker"}, "-token-file are needed for the inbox"},
		"nothing to search": {webhooks, "neither -namespaces nor -named"},
		"an empty name":     {append(webhooks, "-namespaces", "a,,b"), "an element is empty"},
		"a bad name":        {append(webhooks, "-named", "a/b"), "not SECRET=NAMESPACE/NAME"},
		"a bad object":      {append(webhooks, "-named", "a=b"), "not SECRET=NAMESPACE/NAME"},
		"a tenant":          {append(webhooks, "-named", "acme:a=b/c"), "without a tenant"},
		"a bad time":        {append(webhooks, "-namespaces", "a", "-wait", "-1s"), "-wait is negative"},
		"no pod":            {append(webhooks, "-named", "a=b=c/d"), "this is no pod"},
		"something else":    {append(webhooks, "-namespaces", "a", "b"), `"b" is not understood`},
	} {
		err := run(t.Context(), c.args, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := run(t.Context(), []string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v", err)
	}
	cluster := apiserver.Start(t, "deploy/keybroker-sync.yaml")
	access := cluster.Access(t, account)
	server := append(webhooks, "-namespaces", "a", "-server", access.Server, "-server-token-file", access.TokenFile, "-server-ca-file", access.CAFile)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no keys":          {server, "the broker's URL"},
		"a bad secret":     {append(server, "-secret-file", file(t, canary)), "the signing secret is not whsec_"},
		"no secret file":   {append(server, "-secret-file", filepath.Join(t.TempDir(), "none")), "reading the signing secret"},
		"no token file":    {append(server, "-token-file", filepath.Join(t.TempDir(), "none")), "reading the broker token"},
		"no authority":     {append(server, "-server-ca-file", filepath.Join(t.TempDir(), "none")), "reading the API server's authority"},
		"a taken address":  {append(server, "-secret-file", file(t, webhook.GenerateSecret().Reveal()), "-listen", "127.0.0.1:x"), "listen"},
		"an insecure link": {append(server, "-broker", "http://keybroker.example.com"), "is not https"},
	} {
		err := run(t.Context(), c.args, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
