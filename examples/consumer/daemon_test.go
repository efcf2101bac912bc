package main

import (
	"context"
	"crypto/elliptic"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/rotation"
)

// nodeConfig is a node with one secret, quickly rotated, whose old version is revoked
// when all its consumers use the new one.
const nodeConfig = `
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
    successes = 1
    interval  = "50ms"
  }
  confirm {
    rejections = 3
    window     = "2s"
  }
  acknowledgement {
    require    = "applied"
    timeout    = "1h"
    on_timeout = "hold"
  }
  limits {
    max_overlap = "1h"
  }
}
secret "app/key" {
  backend   = "embedded"
  probe     = "internal"
  consumers = [CONSUMERS]
  issuer "internal" {}
}
policy "app" {
  path "app/*" {
    capabilities = ["read"]
  }
}
`

const sealedTo = `
consumer "%s-called" {
  webhook {
    url                   = "%s/"
    allow_private_network = true
    payload               = "sealed"
    public_key_file       = "%s"
  }
}
`

const inboxOf = `
role "%[1]s" {
  tenant   = "default"
  policies = ["app"]
}
consumer "%[1]s-collecting" {
  role      = "%[1]s"
  instances = 2
  inbox {}
}
`

// daemonNode is a running daemon.
type daemonNode struct {
	*client.Client
	url string
}

func serveNode(t *testing.T, hcl, addr string) *daemonNode {
	t.Helper()
	dir := t.TempDir()
	load := func() (*config.Config, *config.Diagnostics) {
		return config.Parse(map[string][]byte{"config.hcl": []byte(hcl)}, daemon.Registry(), config.Options{Dir: dir})
	}
	cfg, diags := load()
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	d, err := daemon.Open(t.Context(), daemon.Options{Config: cfg, Load: load, Logger: hclog.New(&hclog.LoggerOptions{Output: io.Discard})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	root, err := os.ReadFile(filepath.Join(dir, "data", daemon.RootTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	n := &daemonNode{url: "http://" + addr}
	if n.Client, err = client.New(n.url, strings.TrimSpace(string(root)), client.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// tokenFile makes a token of a role.
func (n *daemonNode) tokenFile(t *testing.T, role string) string {
	t.Helper()
	token, err := n.CreateToken(t.Context(), client.CreateTokenRequest{Name: role, Role: role})
	if err != nil {
		t.Fatal(err)
	}
	return file(t, token.Token.Reveal())
}

// eventually waits until ok, as long as the test may take.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// rotate starts a rotation and returns its id.
func (n *daemonNode) rotate(t *testing.T) string {
	t.Helper()
	r, err := n.Rotate(t.Context(), "app/key", client.RotateRequest{Reason: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

func (n *daemonNode) rotation(t *testing.T, id string) client.Rotation {
	t.Helper()
	r, err := n.Rotation(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// applied tells which consumers use the version, and when the last of them said so.
func (n *daemonNode) applied(t *testing.T, version int) (names map[string]bool, last time.Time) {
	t.Helper()
	all, err := n.SecretConsumers(t.Context(), "app/key")
	if err != nil {
		t.Fatal(err)
	}
	names = map[string]bool{}
	for _, c := range all.Consumers {
		if c.Version == version && !c.AppliedAt.IsZero() {
			names[c.Consumer] = true
			if c.AppliedAt.After(last) {
				last = c.AppliedAt
			}
		}
	}
	return names, last
}

// delivered has a role find what was delivered to its consumer, as docs/consumers.md tells
// an instance to that no webhook has reached.
func (n *daemonNode) delivered(t *testing.T, role, tokenFile string) {
	t.Helper()
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(n.url, string(token), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	value, err := c.Value(t.Context(), "app/key", 0)
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Deliveries(t.Context(), client.DeliveryQuery{Secret: "app/key", Consumer: role + "-collecting"})
	if err != nil || !slices.ContainsFunc(list.Items, func(d client.Delivery) bool {
		return d.Event == string(rotation.EventRotated) && d.Generation == value.Generation && d.State == client.DeliveryApplied
	}) {
		t.Errorf("%s finds %+v: %v", role, list.Items, err)
	}
}

// TestOldKeyIsRevokedWhenAllOfThemUseTheNewOne has a real node tell all three programs,
// by webhook and through the inbox, there in two instances each. The last of them comes
// late.
func TestOldKeyIsRevokedWhenAllOfThemUseTheNewOne(t *testing.T) {
	t.Parallel()
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	var all []*running
	var names []string
	hcl := strings.ReplaceAll(nodeConfig, "ADDR", addr)
	for _, p := range programs() {
		key := newKey(t, "", elliptic.P256())
		c := p.run(t, "--consumer", p.name+"-called", "--broker", "http://"+addr, "--key-file", pemFile(t, key), "--key-interval", p.instant)
		hcl += fmt.Sprintf(sealedTo, p.name, c.url, jsonFile(t, key.Public())) + fmt.Sprintf(inboxOf, p.name)
		all, names = append(all, c), append(names, `"`+p.name+`-called", "`+p.name+`-collecting"`)
	}
	n := serveNode(t, strings.Replace(hcl, "CONSUMERS", strings.Join(names, ", "), 1), addr)
	tokens := map[string]string{}
	collect := func(p program) {
		tokens[p.name] = n.tokenFile(t, p.name)
		for _, instance := range []string{"0", "1"} {
			all = append(all, p.run(t, "--inbox", "--consumer", p.name+"-collecting", "--broker", n.url, "--token-file", tokens[p.name],
				"--key-interval", p.instant, "--instance", instance))
		}
	}
	late, inTime := programs()[1], []program{programs()[0], programs()[2]}
	for _, p := range inTime {
		collect(p)
	}

	n.rotate(t)
	eventually(t, "the first version to be in use", func() bool { names, _ := n.applied(t, 1); return len(names) == 5 })
	for _, p := range programs() { // from now on they meet keys that they do not know
		for _, kind := range []string{"-called", "-collecting"} {
			if _, err := n.RotateSigning(t.Context(), p.name+kind, client.RotateSigningRequest{Overlap: "0s"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	second := n.rotate(t)
	eventually(t, "the overlap to wait for the one that is late", func() bool {
		r := n.rotation(t, second)
		return r.State == "overlap" && r.WaitingFor == rotation.WaitAcknowledgment
	})
	eventually(t, "the second version to be in use", func() bool { names, _ := n.applied(t, 2); return len(names) == 5 })

	collect(late)
	eventually(t, "the end of the rotation", func() bool { return n.rotation(t, second).State == "done" })
	inUse, last := n.applied(t, 2)
	secret, err := n.Secret(t.Context(), "app/key")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range secret.Versions {
		if v.Number == 1 && (v.Retirement == nil || v.Retirement.ProvenAt.IsZero() || v.Retirement.RequestedAt.Before(last)) {
			t.Errorf("the last consumer used the new version at %s, and the old one's retirement is %+v", last, v.Retirement)
		}
	}
	value, err := n.Value(t.Context(), "app/key", 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(inUse) != 6 {
		t.Errorf("version 2 is in use by %v", inUse)
	}
	for role, token := range tokens {
		n.delivered(t, role, token)
	}
	for _, c := range all {
		lines := strings.Join(c.lines(), "\n")
		if !strings.Contains(lines, "using app/key version 2 generation 2 (key)") || strings.Contains(lines+c.log.String(), value.Fields["key"]) {
			t.Errorf("a consumer said:\n%s\n%s", lines, c.log)
		}
	}
}
