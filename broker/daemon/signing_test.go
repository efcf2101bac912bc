package daemon_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// verifier is a consumer's end of its webhook, which keeps the messages as they came.
type verifier struct {
	url string

	mu       sync.Mutex
	messages map[string]message // by the delivery's id
}

type message struct {
	header http.Header
	body   []byte
}

func newVerifier(t *testing.T) *verifier {
	t.Helper()
	v := &verifier{messages: map[string]message{}}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.messages[r.Header.Get(webhook.HeaderID)] = message{r.Header, body}
	}))
	t.Cleanup(srv.Close)
	v.url = srv.URL
	return v
}

// told has the consumer called app told something, and returns the message.
func (v *verifier) told(t *testing.T, n *node) (m message) {
	t.Helper()
	d := must(n.TestConsumer(t.Context(), "app", client.ConsumerRequest{Reason: "test"}))(t)
	eventually(t, "the message to come", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		m = v.messages[d.ID]
		return m.header != nil
	})
	return m
}

// verifiedBy tells whether a receiver takes the message that knows one key only, "whpk_…"
// or "whsec_…".
func (m message) verifiedBy(key string) bool {
	return webhook.Verify([]backends.SecretString{backends.SecretString(key)}, m.header, m.body, time.Now(), webhook.Tolerance) == nil
}

// signatures is how many the message has.
func (m message) signatures() int { return len(strings.Fields(m.header.Get(webhook.HeaderSignature))) }

// signed is a configuration with one consumer, of which more says how its messages are
// signed.
func signed(url, more string) string {
	return withConsumer(embedded, nil) + fmt.Sprintf("consumer \"app\" {\n  webhook {\n    url                   = %q\n    allow_private_network = true\n%s\n  }\n}\n", url, more)
}

const byHMAC = `    signature = "hmac"`

// published are the keys of the consumer called app at its well-known URL, asked for
// without a token; the newest first.
func (n *node) published(t *testing.T) (keys []string) {
	t.Helper()
	resp, err := http.Get(n.addr + "/.well-known/keybroker/webhook-keys/app") //nolint:noctx // it ends with the test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d: %v", resp.StatusCode, err)
	}
	for _, k := range set.Keys {
		x, err := base64.RawURLEncoding.DecodeString(k["x"])
		if err != nil || len(x) != ed25519.PublicKeySize || k["kty"] != "OKP" || k["crv"] != "Ed25519" || k["use"] != "sig" || k["alg"] != "EdDSA" || k["kid"] == "" ||
			k["standard_webhooks"] != "whpk_"+base64.StdEncoding.EncodeToString(x) {
			t.Fatalf("the key is %v", k)
		}
		keys = append(keys, k["standard_webhooks"])
	}
	return keys
}

func (n *node) rotateSigning(t *testing.T, overlap string) client.SigningRotation {
	t.Helper()
	return must(n.RotateSigning(t.Context(), "app", client.RotateSigningRequest{Overlap: overlap, Reason: "test"}))(t)
}

// storedSigningKeys are those in the database of a site that does not run.
func (s *site) storedSigningKeys() (keys []store.SigningKey) {
	s.t.Helper()
	db, err := store.Open(s.t.Context(), store.Config{SQLitePath: filepath.Join(s.dir, "data", "keybroker.db")})
	if err != nil {
		s.t.Fatal(err)
	}
	err = db.View(s.t.Context(), func(tx *store.Tx) error {
		keys, err = tx.SigningKeys(s.t.Context())
		return err
	})
	if err := errors.Join(err, db.Close(s.t.Context())); err != nil {
		s.t.Fatal(err)
	}
	return keys
}

// TestASigningKeyIsRotatedUnderAReceiver that knows one key alone, whichever that is of
// those whose overlap is not over; after it the old ones are gone from everywhere.
func TestASigningKeyIsRotatedUnderAReceiver(t *testing.T) {
	t.Parallel()
	app := newVerifier(t)
	s := newSite(t, signed(app.url, ""))
	n := s.start()
	keys := n.published(t)
	if len(keys) != 1 {
		t.Fatalf("%d keys are published", len(keys))
	}
	if m := app.told(t, n); m.signatures() != 1 || !m.verifiedBy(keys[0]) {
		t.Errorf("the first message has %d signatures", m.signatures())
	}
	for want := 2; want <= 3; want++ {
		r := n.rotateSigning(t, "1h")
		now := n.published(t)
		if len(now) != want || !slices.Equal(now[1:], keys) || r.Secret != "" || len(r.Keys) != want || r.Keys[0].Public != now[0] || !r.Keys[0].Until.IsZero() || r.Keys[1].Until.IsZero() {
			t.Fatalf("published %v after %v; answered %+v", now, keys, r)
		}
		keys = now
		m := app.told(t, n)
		for _, key := range keys {
			if !m.verifiedBy(key) {
				t.Errorf("with %d keys, who knows %s alone does not take the message", want, key)
			}
		}
		if m.signatures() != want {
			t.Errorf("%d signatures, want %d", m.signatures(), want)
		}
	}
	n.rotateSigning(t, "1s")
	newest := n.published(t)[0]
	eventually(t, "the overlap to be over", func() bool { return slices.Equal(n.published(t), []string{newest}) })
	if m := app.told(t, n); m.signatures() != 1 || !m.verifiedBy(newest) || m.verifiedBy(keys[0]) {
		t.Errorf("after the overlap a message has %d signatures", m.signatures())
	}
	n.rotateSigning(t, "0s")
	if keys := n.published(t); len(keys) != 1 || keys[0] == newest {
		t.Errorf("without an overlap %v are published", keys)
	}
	eventually(t, "the removed keys to be in the audit log", func() bool {
		return strings.Count(s.read("data/audit.jsonl"), `"consumer.signing_key_removed"`) == 4
	})
	n.stop()
	if left := s.storedSigningKeys(); len(left) != 1 {
		t.Errorf("%d keys are in the store", len(left))
	}
}

// TestNodesAgreeOnSigningKeys that start together, and on those that one of them makes.
func TestNodesAgreeOnSigningKeys(t *testing.T) {
	t.Parallel()
	app := newVerifier(t)
	url, shared := postgresserver.Start(t).URL, filepath.Join(t.TempDir(), "seal.key")
	var nodes []*node
	var token string
	for range 2 {
		s := newSite(t, onPostgres(signed(app.url, ""), shared))
		s.env, s.token = map[string]string{"DATABASE_URL": url}, token
		nodes = append(nodes, s.start())
		token = s.rootToken()
	}
	first := nodes[0].published(t)
	if len(first) != 1 || !slices.Equal(nodes[1].published(t), first) {
		t.Fatalf("one publishes %v, the other %v", first, nodes[1].published(t))
	}
	for i, n := range nodes {
		before := nodes[0].published(t)
		n.rotateSigning(t, "1h")
		for range 3 { // whichever node signs
			if !app.told(t, n).verifiedBy(first[0]) {
				t.Errorf("rotated by node %d: who knows the oldest key alone does not take the message", i)
			}
		}
		now := n.published(t)
		if !slices.Equal(now[1:], before) {
			t.Errorf("node %d publishes %v after %v", i, now, before)
		}
		eventually(t, "the other node to publish the new key", func() bool { return slices.Equal(nodes[1-i].published(t), now) })
		for range 3 {
			if !app.told(t, nodes[1-i]).verifiedBy(now[0]) {
				t.Errorf("rotated by node %d: who knows the newest key alone does not take the message", i)
			}
		}
	}
	nodes[1].rotateSigning(t, "0s")
	newest := nodes[1].published(t)
	eventually(t, "the other node to have the newest key alone", func() bool { return slices.Equal(nodes[0].published(t), newest) })
	for range 3 {
		if m := app.told(t, nodes[0]); m.signatures() != 1 || !m.verifiedBy(newest[0]) {
			t.Errorf("%d signatures", m.signatures())
		}
	}
}

// TestFewKeysSignAtOnce, or the header becomes longer than receivers take; that is no
// hindrance to dropping them.
func TestFewKeysSignAtOnce(t *testing.T) {
	t.Parallel()
	n := newSite(t, signed("http://127.0.0.1:9", "")).start()
	first := n.rotateSigning(t, "2h").Keys
	for range 3 {
		n.rotateSigning(t, "30d")
	}
	refused(t, "a sixth key", second(n.RotateSigning(t.Context(), "app", client.RotateSigningRequest{Overlap: "1d"})), http.StatusConflict, "5 keys sign already")
	refused(t, "it says until when", second(n.RotateSigning(t.Context(), "app", client.RotateSigningRequest{})), http.StatusConflict, first[1].Until.UTC().Format(time.RFC3339))
	refused(t, "too long an overlap", second(n.RotateSigning(t.Context(), "app", client.RotateSigningRequest{Overlap: "31d"})), http.StatusBadRequest, "to 30 days")
	if keys := n.published(t); len(keys) != 5 {
		t.Errorf("%d keys", len(keys))
	}
	if left := n.rotateSigning(t, "0s").Keys; len(left) != 1 {
		t.Errorf("%d keys sign on", len(left))
	}
}

// TestASigningSecretIsShownOnce: by the answer to who asked for it, and by nothing else
// that a node says or keeps.
func TestASigningSecretIsShownOnce(t *testing.T) {
	t.Parallel()
	app := newVerifier(t)
	s := newSite(t, signed(app.url, byHMAC))
	n := s.start()
	var secrets []string
	for i := range 2 {
		r := n.rotateSigning(t, "1h")
		secret := r.Secret.Reveal()
		if secrets = append(secrets, secret); !strings.HasPrefix(secret, "whsec_") || len(r.Keys) != i+2 || r.Keys[0].Public != "" {
			t.Fatalf("answered %+v", r.Keys)
		}
		if m := app.told(t, n); m.signatures() != i+2 || !m.verifiedBy(secrets[0]) || !m.verifiedBy(secret) {
			t.Errorf("the message has %d signatures, or not those of the secrets", m.signatures())
		}
	}
	if keys := n.published(t); len(keys) != 0 {
		t.Errorf("published %v", keys)
	}
	if _, err := n.RotateSigning(t.Context(), "app", client.RotateSigningRequest{Overlap: "-1s"}); err == nil {
		t.Error("a negative overlap was taken")
	}
	said, err := json.Marshal([]any{must(n.Consumer(t.Context(), "app"))(t), must(n.Consumers(t.Context()))(t), must(n.Audit(t.Context(), client.AuditQuery{}))(t)})
	if err != nil {
		t.Fatal(err)
	}
	left := map[string][]byte{"the API": said, "a snapshot": []byte(readAll(t, n.snapshot(t)))}
	n.stop()
	left["the log"] = []byte(s.log.String())
	err = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			left[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(left) < 6 {
		t.Fatalf("looked through %d places only", len(left))
	}
	for where, content := range left {
		for _, secret := range secrets {
			bare := strings.TrimPrefix(secret, "whsec_")
			raw, err := base64.StdEncoding.DecodeString(bare)
			if err != nil || bytes.Contains(content, []byte(bare)) || bytes.Contains(content, raw) {
				t.Errorf("%s has the secret", where)
			}
		}
		if bytes.Contains(content, []byte("whsec_")) || bytes.Contains(content, []byte("whsk_")) {
			t.Errorf("%s has a secret", where)
		}
	}
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSigningRotationSurvivesItsEnd kills a process of its own, which is this test again,
// before and after the commit of a new signing key: what signs afterwards is what was
// committed.
func TestSigningRotationSurvivesItsEnd(t *testing.T) {
	if step := os.Getenv(killedAt); step != "" {
		rotateSigningAndDie(t, step)
		return
	}
	t.Parallel()
	for step, want := range map[string]int{"made": 1, "stored": 2} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			app := newVerifier(t)
			s := newSite(t, signed(app.url, ""))
			n := s.start()
			first := n.published(t)
			n.stop()
			if err := os.WriteFile(filepath.Join(s.dir, "killed.hcl"), []byte(s.hcl), 0o600); err != nil {
				t.Fatal(err)
			}
			child := osexec.Command(os.Args[0], "-test.run=^TestSigningRotationSurvivesItsEnd$") //nolint:noctx // it kills itself
			child.Env = append(os.Environ(), killedAt+"="+step, killedIn+"="+s.dir)
			out, err := child.CombinedOutput()
			if ended, ok := errors.AsType[*osexec.ExitError](err); !ok || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the process was not killed: %v\n%s", err, out)
			}
			n = s.start()
			keys := n.published(t)
			if len(keys) != want || keys[want-1] != first[0] {
				t.Fatalf("published %v, before %v", keys, first)
			}
			m := app.told(t, n)
			for _, key := range keys {
				if !m.verifiedBy(key) {
					t.Errorf("who knows %s alone does not take the message", key)
				}
			}
			n.rotateSigning(t, "1h")
			if keys := n.published(t); len(keys) != want+1 {
				t.Errorf("after another rotation %v are published", keys)
			}
		})
	}
}

// rotateSigningAndDie is the process that is killed.
func rotateSigningAndDie(t *testing.T, at string) {
	dir := os.Getenv(killedIn)
	s := &site{t: t, dir: dir, hcl: readAll(t, filepath.Join(dir, "killed.hcl")), log: &logBuffer{}, env: map[string]string{}}
	s.adjust = func(o *daemon.Options) {
		o.SigningSteps(func(step string) error {
			if step == at {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // no step follows
			}
			return nil
		})
	}
	n := s.start()
	_, _ = n.RotateSigning(t.Context(), "app", client.RotateSigningRequest{Overlap: "1h"})
	<-t.Context().Done()
}

// TestSigningKeysOutliveTheSealsKey that they were sealed by.
func TestSigningKeysOutliveTheSealsKey(t *testing.T) {
	t.Parallel()
	app := newVerifier(t)
	s := newSite(t, signed(app.url, ""))
	s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
	n := s.start()
	n.rotateSigning(t, "1h")
	keys := n.published(t)
	before := must(n.SealStatus(t.Context()))(t)
	must(n.RotateSeal(t.Context(), client.SealRotateRequest{Reason: "test"}))(t)
	if after := n.wantSealed(t, 1); after.Keys[0].ID == before.Keys[0].ID {
		t.Fatal("the seal's key is that of before")
	}
	for range 2 {
		if now := n.published(t); !slices.Equal(now, keys) {
			t.Errorf("published %v, before %v", now, keys)
		}
		m := app.told(t, n)
		for _, key := range keys {
			if !m.verifiedBy(key) {
				t.Errorf("who knows %s alone does not take the message", key)
			}
		}
		n.stop()
		n = s.start()
	}
}

// TestAPublicKeyThatWasPutIntoTheDatabaseIsNotPublished: it does not belong to what signs,
// and nothing is signed beside it either.
func TestAPublicKeyThatWasPutIntoTheDatabaseIsNotPublished(t *testing.T) {
	t.Parallel()
	app := newVerifier(t)
	s := newSite(t, signed(app.url, ""))
	s.start().stop()
	_, foreign := webhook.GenerateKeyPair()
	s.inDatabase("UPDATE signing_keys SET public = $1", foreign)
	n := s.start()
	if keys, err := n.WebhookKeys(t.Context(), "app"); client.Status(err) != http.StatusServiceUnavailable {
		t.Errorf("published %v: %v", keys, err)
	}
	d := must(n.TestConsumer(t.Context(), "app", client.ConsumerRequest{}))(t)
	eventually(t, "an attempt that fails", func() bool {
		return strings.Contains(must(n.Delivery(t.Context(), d.ID))(t).Error, "opening the signing key")
	})
	n.rotateSigning(t, "0s") // mends it
	if keys := n.published(t); len(keys) != 1 || !app.told(t, n).verifiedBy(keys[0]) {
		t.Errorf("published %v", keys)
	}
}

// TestARestoredSnapshotSignsAsBefore.
func TestARestoredSnapshotSignsAsBefore(t *testing.T) {
	t.Parallel()
	app := newVerifier(t)
	s := newSite(t, signed(app.url, ""))
	n := s.start()
	keys := n.published(t)
	file := n.snapshot(t)
	n.rotateSigning(t, "0s")
	n.stop()
	s.restoreSnapshot(t, file)
	n = s.start()
	if now := n.published(t); !slices.Equal(now, keys) {
		t.Fatalf("published %v, in the snapshot were %v", now, keys)
	}
	n.unfreeze(t)
	if m := app.told(t, n); m.signatures() != 1 || !m.verifiedBy(keys[0]) {
		t.Error("who knows the key of the snapshot does not take the message")
	}
}
