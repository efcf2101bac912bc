package daemon_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// TestConfiguredConsumersHaveSigningKeys: made by a reload, not by a dry run; replaced, with an
// overlap, with their algorithm; kept for a while when the consumer goes.
func TestConfiguredConsumersHaveSigningKeys(t *testing.T) {
	t.Parallel()
	app := newVerifier(t)
	s := newSite(t, "")
	without := strings.ReplaceAll(withConsumer(embedded, nil), "ADDR", s.addr)
	with := func(more string) string { return strings.ReplaceAll(signed(app.url, more), "ADDR", s.addr) }
	s.hcl = without
	n := s.start()
	reload := func(hcl string, dry bool) []string {
		t.Helper()
		s.hcl = hcl
		must(n.Reload(t.Context(), client.ReloadRequest{DryRun: dry}))(t)
		return n.published(t)
	}
	if keys := reload(with(""), true); len(keys) != 0 {
		t.Errorf("a dry run has published %v", keys)
	}
	first := reload(with(""), false)
	if len(first) != 1 || !app.told(t, n).verifiedBy(first[0]) {
		t.Fatalf("published %v", first)
	}
	if keys := reload(with("    concurrency = 2"), false); !slices.Equal(keys, first) {
		t.Errorf("published %v, before %v", keys, first)
	}
	if keys := reload(without, false); len(keys) != 0 {
		t.Errorf("without the consumer %v are published", keys)
	}
	if keys := reload(with(""), false); !slices.Equal(keys, first) {
		t.Errorf("the consumer comes back with %v, before it had %v", keys, first)
	}

	if keys := reload(with(byHMAC), false); !slices.Equal(keys, first) { // it signs on for a day
		t.Errorf("with a secret %v are published", keys)
	}
	if m := app.told(t, n); m.signatures() != 2 || !m.verifiedBy(first[0]) || !strings.HasPrefix(m.header.Get(webhook.HeaderSignature), "v1,") {
		t.Errorf("signed %s", m.header.Get(webhook.HeaderSignature))
	}
	second := reload(with(""), false)
	if len(second) != 2 || second[0] == first[0] || second[1] != first[0] || !app.told(t, n).verifiedBy(second[0]) {
		t.Errorf("back from a secret: published %v, long before %v", second, first)
	}
	reload(without, false)
	n.stop()

	stored := s.storedSigningKeys()
	if len(stored) == 0 || stored[0].Public != second[0] { // those before may not be removed yet
		t.Fatalf("stored are %d keys", len(stored))
	}
	s.inDatabase("UPDATE signing_keys SET wanted_at = $1", time.Now().Add(-31*24*time.Hour).UnixMicro())
	n = s.start()
	eventually(t, "the keys to go that nobody wants", func() bool {
		return strings.Contains(s.read("data/audit.jsonl"), stored[0].ID+`"`) && strings.Contains(s.read("data/audit.jsonl"), `"consumer.signing_key_removed"`)
	})
	if third := reload(with(""), false); len(third) != 1 || third[0] == second[0] {
		t.Errorf("long after, published %v, before %v", third, second)
	}
}

// TestTheOperatorsSigningSecrets: each line of their file signs; the broker makes none
// beside them, and says where they are replaced.
func TestTheOperatorsSigningSecrets(t *testing.T) {
	t.Parallel()
	app := newVerifier(t)
	s := newSite(t, signed(app.url, `    signing_secret_file = "app.keys"`))
	write := func(secrets ...string) {
		if err := os.WriteFile(filepath.Join(s.dir, "app.keys"), []byte(strings.Join(secrets, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one, two := webhook.GenerateSecret().Reveal(), webhook.GenerateSecret().Reveal()
	write(one)
	n := s.start()
	if m := app.told(t, n); m.signatures() != 1 || !m.verifiedBy(one) {
		t.Error("who knows the secret does not take the message")
	}
	write(one, "", two)
	r := must(n.Reload(t.Context(), client.ReloadRequest{}))(t)
	if !slices.Contains(r.Changes, client.ConfigChange{Change: client.Changed, Kind: "consumer", Name: "app"}) {
		t.Errorf("changed: %+v", r.Changes)
	}
	if m := app.told(t, n); m.signatures() != 2 || !m.verifiedBy(one) || !m.verifiedBy(two) {
		t.Error("who knows one of two secrets does not take the message")
	}
	_, err := n.RotateSigning(t.Context(), "app", client.RotateSigningRequest{})
	if status := client.Status(err); status/100 != 4 || !strings.Contains(err.Error(), "app.keys") || !strings.Contains(err.Error(), "config.hcl:") {
		t.Errorf("rotating: %v", err)
	}
	if keys := n.published(t); len(keys) != 0 {
		t.Errorf("published %v", keys)
	}
	private, public := webhook.GenerateKeyPair()
	write(private.Reveal())
	must(n.Reload(t.Context(), client.ReloadRequest{}))(t)
	if keys := n.published(t); !slices.Equal(keys, []string{public}) || !app.told(t, n).verifiedBy(public) {
		t.Errorf("published %v, want %s", keys, public)
	}
	n.stop()
	if stored := s.storedSigningKeys(); len(stored) != 0 {
		t.Errorf("%d keys of the broker's own are stored", len(stored))
	}
	if log := s.log.String(); strings.Contains(log, one[6:]) || strings.Contains(log, private.Reveal()[5:]) {
		t.Error("the log has a secret")
	}
}

// TestAReloadTakesAnotherPublicKey: what is sealed from then on opens with it, and with
// the one of before for as long as that is in the file as well.
func TestAReloadTakesAnotherPublicKey(t *testing.T) {
	t.Parallel()
	app := newVerifier(t)
	s := newSite(t, strings.ReplaceAll(signed(app.url, "    payload         = \"sealed\"\n    public_key_file = \"app.jwks\""),
		`issuer "internal" {}`+"\n}", `issuer "internal" {}`+"\n  consumers = [\"app\"]\n}"))
	var set jose.JSONWebKeySet
	var private []*ecdsa.PrivateKey
	add := func() {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: fmt.Sprint("key", len(set.Keys))})
		private = append(private, key)
		text, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, "app.jwks"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add()
	n := s.start()
	// opens rotates, and wants what the consumer is told to open with every key.
	opens := func() {
		t.Helper()
		n.done(t, "app/key")
		value := n.value(t, "app/key").Fields["key"]
		for i, key := range private {
			eventually(t, fmt.Sprintf("the value to be opened by key %d of %d", i, len(private)), func() bool { return slices.Contains(app.opened(key), value) })
		}
	}
	opens()
	add()
	r := must(n.Reload(t.Context(), client.ReloadRequest{}))(t)
	if want := []client.ConfigChange{{Change: client.Changed, Kind: "consumer", Name: "app"}}; !slices.Equal(r.Changes, want) {
		t.Errorf("changed: %+v", r.Changes)
	}
	opens()
}

// opened are the keys in what was sealed and opens with a private key.
func (v *verifier) opened(key *ecdsa.PrivateKey) (found []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range v.messages {
		var event struct {
			Data struct {
				Sealed json.RawMessage `json:"sealed"`
			} `json:"data"`
		}
		if json.Unmarshal(m.body, &event) != nil || event.Data.Sealed == nil {
			continue
		}
		jwe, err := jose.ParseEncryptedJSON(string(event.Data.Sealed), []jose.KeyAlgorithm{jose.ECDH_ES_A256KW}, []jose.ContentEncryption{jose.A256GCM})
		if err != nil {
			continue
		}
		if _, _, plaintext, err := jwe.DecryptMulti(key); err == nil {
			var about struct {
				Fields map[string]string `json:"fields"`
			}
			_ = json.Unmarshal(plaintext, &about)
			found = append(found, about.Fields["key"])
		}
	}
	return found
}
