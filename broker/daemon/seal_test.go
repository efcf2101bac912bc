package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/broker/store"
)

// hasty is the embedded configuration with several secrets, whose rotations take no
// longer than they have to.
func hasty(secrets int) string {
	hcl := strings.NewReplacer(`overlap = "2s"`, `overlap = "0s"`, `window     = "2s"`, `window     = "100ms"`, "successes = 2", "successes = 1").
		Replace(withConsumer(embedded, nil))
	for i := 1; i < secrets; i++ {
		hcl += fmt.Sprintf("secret \"app/key%d\" {\n  backend = \"embedded\"\n  probe = \"internal\"\n  issuer \"internal\" {}\n}\n", i)
	}
	return hcl
}

// grown is a site with values in every place where something is sealed, and what the
// secret's value is.
func grown(t *testing.T) (*site, string) {
	t.Helper()
	s := newSite(t, hasty(1))
	n := s.start()
	for range 2 {
		if r, _ := n.rotate(t, "app/key"); r.State != client.RotationDone {
			t.Fatalf("rotation: %s: %s", r.State, r.Error)
		}
	}
	value := n.value(t, "app/key").Fields["key"]
	n.stop()
	return s, value
}

// wantSealed waits until one key seals everything, and wants all of it to open.
func (n *node) wantSealed(t *testing.T, seals int) client.SealStatus {
	t.Helper()
	var status client.SealStatus
	eventually(t, "one key that seals everything", func() bool {
		var err error
		if status, err = n.SealStatus(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(status.Keys) == 1 && len(status.Keys[0].WrappedBy) == seals
	})
	v, err := n.VerifyWholeSeal(t.Context(), func(client.SealVerification) {})
	if err != nil || len(v.Failed) > 0 || v.Opened == 0 {
		t.Errorf("verified %+v: %v", v, err)
	}
	return status
}

// killedAt names the step of a rotation of the seal at which the process kills itself,
// killedIn the directory of its site.
const killedAt, killedIn = "KEYBROKER_TEST_KILLED_AT", "KEYBROKER_TEST_KILLED_IN"

// TestSealRotationSurvivesItsEndAnywhere kills a process of its own, which is this test
// again, at every step of a rotation of the seal, and starts the node again.
func TestSealRotationSurvivesItsEndAnywhere(t *testing.T) {
	if step := os.Getenv(killedAt); step != "" {
		rotateSealAndDie(t, step)
		return
	}
	t.Parallel()
	for _, step := range []string{"made", "stored", "batch", "rewrapped", "removing", "removed"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s, value := grown(t)
			before := s.sealKeys()
			if err := os.WriteFile(filepath.Join(s.dir, "killed.hcl"), []byte(s.hcl), 0o600); err != nil {
				t.Fatal(err)
			}
			child := osexec.Command(os.Args[0], "-test.run=^TestSealRotationSurvivesItsEndAnywhere$")
			child.Env = append(os.Environ(), killedAt+"="+step, killedIn+"="+s.dir)
			out, err := child.CombinedOutput()
			if ended, ok := errors.AsType[*osexec.ExitError](err); !ok || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the process was not killed: %v\n%s", err, out)
			}

			s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
			n := s.start()
			after := n.wantSealed(t, 1)
			if kept := after.Keys[0].ID == before[0].ID; len(before) != 1 || kept != (step == "made") {
				t.Errorf("the old key is the one that seals: %t", kept)
			}
			if got := n.value(t, "app/key").Fields["key"]; got != value {
				t.Error("the value is another afterwards")
			}
			if r, _ := n.rotate(t, "app/key"); r.State != client.RotationDone {
				t.Errorf("a rotation afterwards: %s: %s", r.State, r.Error)
			}
			n.wantSealed(t, 1)
			if strings.Contains(s.log.String()+string(out), value) {
				t.Error("the log has the value")
			}
		})
	}
}

// rotateSealAndDie is the process that is killed.
func rotateSealAndDie(t *testing.T, at string) {
	dir := os.Getenv(killedIn)
	hcl, err := os.ReadFile(filepath.Join(dir, "killed.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, hcl: string(hcl), log: &logBuffer{}, env: map[string]string{}}
	s.adjust = func(o *daemon.Options) {
		o.QuickSeal(0, func(step string) error {
			if step == at {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // no step follows
			}
			return nil
		})
	}
	n := s.start()
	_, _ = n.RotateSeal(t.Context(), client.SealRotateRequest{Reason: "test"})
	<-t.Context().Done()
}

// sealKeys are the keys in the database of a site that does not run.
func (s *site) sealKeys() (keys []store.SealKey) {
	s.t.Helper()
	db, err := store.Open(s.t.Context(), store.Config{SQLitePath: filepath.Join(s.dir, "data", "keybroker.db")})
	if err != nil {
		s.t.Fatal(err)
	}
	err = db.View(s.t.Context(), func(tx *store.Tx) error {
		keys, err = tx.SealKeys(s.t.Context())
		return err
	})
	if err := errors.Join(err, db.Close(s.t.Context())); err != nil {
		s.t.Fatal(err)
	}
	return keys
}

// TestSealRotatesUnderTheWritersOfTwoNodes on one database: each learns of the other's
// keys, and no value is lost, refused or misread.
func TestSealRotatesUnderTheWritersOfTwoNodes(t *testing.T) {
	t.Parallel()
	const secrets = 4
	url, shared := postgresserver.Start(t).URL, filepath.Join(t.TempDir(), "seal.key")
	var nodes []*node
	var token string
	for range 2 {
		s := newSite(t, onPostgres(hasty(secrets), shared))
		s.env, s.token = map[string]string{"DATABASE_URL": url}, token
		s.adjust = func(o *daemon.Options) { o.QuickSeal(2*time.Second, nil) }
		nodes = append(nodes, s.start())
		token = s.rootToken()
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work sync.WaitGroup
	var rotated, read atomic.Int64
	for i := range secrets {
		name := "app/key"
		if i > 0 {
			name += fmt.Sprint(i)
		}
		work.Go(func() {
			for ctx.Err() == nil {
				if r, _ := nodes[i%2].rotate(t, name); r.State != client.RotationDone {
					t.Errorf("rotating %s: %s: %s", name, r.State, r.Error)
					return
				}
				rotated.Add(1)
			}
		})
		work.Go(func() {
			for ctx.Err() == nil {
				for _, n := range nodes {
					_, err := n.Value(t.Context(), name, 0)
					if err != nil && client.Status(err) != 404 && client.Status(err) != 429 { // none yet
						t.Errorf("reading %s: %v", name, err)
						return
					}
					if err == nil {
						read.Add(1)
					}
				}
			}
		})
	}
	keys := map[string]bool{}
	for i := range 3 {
		done := rotated.Load()
		eventually(t, "writers at work", func() bool { return rotated.Load() >= done+2 || t.Failed() })
		r, err := nodes[i%2].RotateSeal(t.Context(), client.SealRotateRequest{Reason: "test"})
		if err != nil {
			t.Fatal(err)
		}
		keys[r.Key] = true
		eventually(t, "the old key to go while they work", func() bool {
			status, err := nodes[(i+1)%2].SealStatus(t.Context())
			return t.Failed() || err == nil && len(status.Keys) == 1 && status.Keys[0].ID == r.Key
		})
	}
	stop()
	work.Wait()
	for _, n := range nodes {
		n.wantSealed(t, 1)
	}
	if len(keys) != 3 || read.Load() == 0 {
		t.Errorf("%d keys, %d reads", len(keys), read.Load())
	}
	t.Logf("%d rotations and %d reads under 3 rotations of the seal", rotated.Load(), read.Load())
}

// TestSealsStandInForEachOther: a file, AWS KMS and Vault's transit engine wrap the
// same key. Each of them alone is enough to start, one that was away when the key was
// made follows, and none has to be there while the node runs.
func TestSealsStandInForEachOther(t *testing.T) {
	t.Parallel()
	aws, vault := motoserver.Start(t), vaultserver.Start(t)
	mount := vault.Transit(t)
	if _, err := vault.Client(t).Logical().WriteWithContext(t.Context(), mount+"/keys/broker", nil); err != nil {
		t.Fatal(err)
	}
	file := "seal \"file\" {\n  path = \"seal.key\"\n}\n"
	kms := fmt.Sprintf("seal \"awskms\" {\n  kms_key_id = %q\n  region = \"eu-central-1\"\n  endpoint = %q\n"+
		"  access_key_id = env(\"AWS_ID\")\n  secret_access_key = env(\"AWS_SECRET\")\n}\n", aws.KMSKey(t, "eu-central-1"), aws.URL)
	transit := fmt.Sprintf("seal \"vault_transit\" {\n  key = \"broker\"\n  mount = %q\n  address = %q\n  auth \"token\" {\n    token = env(\"TRANSIT_TOKEN\")\n  }\n}\n", mount, vault.Addr)
	s := newSite(t, "")
	s.env = map[string]string{"AWS_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET": "aws-secret-91c2", "TRANSIT_TOKEN": vault.RootToken}
	s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
	plain := strings.ReplaceAll(hasty(1), "ADDR", s.addr)

	vault.Seal(t)
	s.hcl = plain + file + kms + transit
	n := s.start()
	if r, _ := n.rotate(t, "app/key"); r.State != client.RotationDone {
		t.Fatalf("rotation: %s: %s", r.State, r.Error)
	}
	value := n.value(t, "app/key").Fields["key"]
	eventually(t, "the transit seal to be away", func() bool { return n.sealState(t, "vault_transit") == client.SealAway })
	vault.Unseal(t)
	eventually(t, "the transit seal to follow", func() bool { return n.sealState(t, "vault_transit") == client.SealReady })
	n.wantSealed(t, 3)
	n.stop()

	for name, hcl := range map[string]string{"kms": kms, "transit": transit, "file": file} {
		s.hcl = plain + hcl
		n := s.start()
		if got := n.value(t, "app/key").Fields["key"]; got != value {
			t.Errorf("by %s alone the value is another", name)
		}
		n.stop()
	}

	// A rotation of the seal while one is away is refused; a forced one names it, and goes
	// on without it.
	s.hcl = plain + kms + transit
	n = s.start()
	vault.Seal(t)
	if _, err := n.RotateSeal(t.Context(), client.SealRotateRequest{}); client.Status(err) != http.StatusConflict || !strings.Contains(err.Error(), "--force") {
		t.Errorf("rotating while a seal is away that opens the present key: %v", err)
	}
	r, err := n.RotateSeal(t.Context(), client.SealRotateRequest{Force: true})
	if err != nil || len(r.Away) != 1 || !strings.HasPrefix(r.Away[0].Seal, "vault_transit:") {
		t.Fatalf("rotating while the transit seal is away: %+v, %v", r.Away, err)
	}
	vault.Unseal(t)
	if status := n.wantSealed(t, 2); status.Keys[0].ID != r.Key {
		t.Error("it is another key that seals")
	}

	// What a seal cannot open any more, since its own key was replaced, it wraps anew.
	logical := vault.Client(t).Logical()
	_, err = logical.WriteWithContext(t.Context(), mount+"/keys/broker/rotate", nil)
	if err == nil {
		_, err = logical.WriteWithContext(t.Context(), mount+"/keys/broker/config", map[string]any{"min_decryption_version": 2})
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the transit seal to open the key again", func() bool {
		v, err := n.VerifySeal(t.Context(), "")
		return err == nil && !slices.ContainsFunc(v.Seals, func(s client.Seal) bool { return s.State != client.SealReady })
	})
	n.stop()

	// Neither the file, which is not configured any more, nor a seal that is away opens
	// the new key.
	s.hcl = plain + file
	s.wantNoStart("the seal key is not the one that this data was sealed with")
	vault.Seal(t)
	s.hcl = plain + transit
	s.wantNoStart("no seal that opens it can be used now")
	vault.Unseal(t)
	n = s.start()
	if got := n.value(t, "app/key").Fields["key"]; got != value {
		t.Error("in the end the value is another")
	}
	n.stop()
	for secret, what := range map[string]string{value: "value", "aws-secret-91c2": "AWS secret", vault.RootToken: "Vault token"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log has the %s", what)
		}
	}
}

// sealState is how the seal of a type is.
func (n *node) sealState(t *testing.T, kind string) string {
	t.Helper()
	status, err := n.SealStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range status.Seals {
		if strings.HasPrefix(s.ID, kind+":") {
			return s.State
		}
	}
	return ""
}

func (s *site) wantNoStart(says string) {
	s.t.Helper()
	_, err := daemon.Open(s.t.Context(), daemon.Options{Config: s.config(), Logger: hclog.NewNullLogger()})
	if err == nil || !strings.Contains(err.Error(), says) {
		s.t.Errorf("it starts, or does not say %q: %v", says, err)
	}
}

// TestSealIsOfAllTenants: who is bound to one neither sees nor moves it, and moving it
// takes more than seeing it.
func TestSealIsOfAllTenants(t *testing.T) {
	t.Parallel()
	s := newSite(t, hasty(1)+"policy \"auditor\" {\n  path \"sys/seal\" {\n    capabilities = [\"read\"]\n  }\n}\n")
	n := s.start()
	for _, test := range []struct {
		token          client.CreateTokenRequest
		sees, verifies bool
	}{
		{client.CreateTokenRequest{Name: "auditor", Policies: []string{"auditor"}}, true, true},
		{client.CreateTokenRequest{Name: "reader", Policies: []string{"reader"}}, false, false},
		{client.CreateTokenRequest{Name: "tenant", Tenant: "acme", Policies: []string{"root"}}, false, false},
	} {
		token, err := n.CreateToken(t.Context(), test.token)
		if err != nil {
			t.Fatal(err)
		}
		c := s.client(token.Token.Reveal(), n.addr)
		if _, err := c.SealStatus(t.Context()); (err == nil) != test.sees || err != nil && client.Status(err) != http.StatusForbidden {
			t.Errorf("%s sees it: %v", test.token.Name, err)
		}
		if _, err := c.VerifySeal(t.Context(), ""); (err == nil) != test.verifies || err != nil && client.Status(err) != http.StatusForbidden {
			t.Errorf("%s verifies it: %v", test.token.Name, err)
		}
		if _, err := c.RotateSeal(t.Context(), client.SealRotateRequest{}); client.Status(err) != http.StatusForbidden {
			t.Errorf("%s rotates it: %v", test.token.Name, err)
		}
	}
	if status, err := n.SealStatus(t.Context()); err != nil || len(status.Keys) != 1 {
		t.Errorf("%+v, %v", status, err)
	}
}

// TestEscrowCopyOpensDataWhoseSealsAreLost, and nothing else does.
func TestEscrowCopyOpensDataWhoseSealsAreLost(t *testing.T) {
	t.Parallel()
	s, value := grown(t)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var copied bytes.Buffer
	keys, err := daemon.Escrow(t.Context(), s.config(), []string{identity.Recipient().String()}, &copied, hclog.NewNullLogger())
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys in the copy, %v", len(keys), err)
	}
	recover := func(copied string) (daemon.Recovery, error) {
		return daemon.Recover(t.Context(), s.config(), strings.NewReader(copied), strings.NewReader(identity.String()), hclog.NewNullLogger())
	}
	if err := os.Remove(s.config().Seals[0].File.Path); err != nil {
		t.Fatal(err)
	}
	s.wantNoStart("is missing: put the key back")
	r, err := recover(copied.String())
	if err != nil || len(r.Recovered) != 1 || len(r.Missing)+len(r.Away) > 0 {
		t.Fatalf("recovered %+v, %v", r, err)
	}
	s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
	n := s.start()
	if got := n.value(t, "app/key").Fields["key"]; got != value {
		t.Error("the value is another")
	}
	if _, err := n.RotateSeal(t.Context(), client.SealRotateRequest{}); err != nil {
		t.Fatal(err)
	}
	n.wantSealed(t, 1)
	n.stop()
	if _, err := recover(copied.String()); !errors.Is(err, backends.ErrNotFound) || !strings.Contains(err.Error(), "before the seal was rotated") {
		t.Errorf("recovering by a copy from before: %v", err)
	}
	if !strings.Contains(s.read("data/audit.jsonl"), "seal.recover") || !strings.Contains(s.read("data/audit.jsonl"), "seal.escrow") {
		t.Error("the audit log does not tell of it")
	}
	empty := newSite(t, hasty(1))
	if _, err := daemon.Escrow(t.Context(), empty.config(), []string{identity.Recipient().String()}, &copied, hclog.NewNullLogger()); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("a copy of nothing: %v", err)
	}
}
