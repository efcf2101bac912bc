package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

const canary = "canary-c0de"

// broker signs messages as keybroker does, and publishes whichever keys the test says.
type broker struct {
	t      *testing.T
	url    string
	mux    *http.ServeMux
	signer *webhook.Signer

	mu    sync.Mutex
	keys  []string // published, "whpk_…"
	asked int
	ill   http.HandlerFunc // instead of the keys, if it is not nil
	value http.HandlerFunc // what references lead to
}

func newBroker(t *testing.T) *broker {
	b := &broker{t: t, mux: http.NewServeMux()}
	b.mux.HandleFunc("GET /.well-known/keybroker/webhook-keys/app", b.publish)
	b.mux.HandleFunc("GET /api/v1/secrets/mail/sender/value", func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer "+canary {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		b.value(w, r)
	})
	server := httptest.NewServer(b.mux)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

func (b *broker) publish(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.asked++
	ill := b.ill
	b.mu.Unlock()
	if ill != nil {
		ill(w, r)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, text := range b.keys {
		raw, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whpk_"))
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: ed25519.PublicKey(raw), KeyID: text, Use: "sig", Algorithm: "EdDSA"})
	}
	_ = json.NewEncoder(w).Encode(set)
}

// sign has messages signed with these secrets, and these public keys published.
func (b *broker) sign(secrets []backends.SecretString, public ...string) {
	b.t.Helper()
	signer, err := webhook.NewSigner(secrets...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.signer, b.keys = signer, public
}

// signNew has messages signed with a new pair of keys.
func (b *broker) signNew() {
	private, public := webhook.GenerateKeyPair()
	b.sign([]backends.SecretString{private}, public)
}

// publishNothing has this happen to who asks for the keys.
func (b *broker) publishNothing(h http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ill = h
}

func (b *broker) setValue(h http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.value = h
}

func (b *broker) times() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

// answer is what a consumer says to a delivery.
type answer struct {
	Status      string `json:"status"`
	Generation  int64  `json:"generation"`
	Instance    string `json:"instance"`
	Fingerprint string `json:"fingerprint"`
	code        int
}

func (b *broker) deliver(url string, m webhook.Message) answer {
	b.t.Helper()
	text := body(b.t, m)
	return b.post(url, b.signer.Sign(m.ID, time.Now(), text), text)
}

func (b *broker) post(url string, header http.Header, body []byte) answer {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	request.Header = header.Clone()
	request.Header.Set("Content-Type", webhook.ContentType)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	a := answer{code: response.StatusCode}
	if a.code == http.StatusOK {
		err = json.Unmarshal(text, &a)
	}
	if err != nil || strings.Contains(string(text), canary) {
		b.t.Errorf("got %s: %v", text, err)
	}
	return a
}

// applied tells whether the answer acknowledges that the message's value is in use.
func (a answer) applied(m webhook.Message, instance string) bool {
	return a == answer{"applied", m.Generation, instance, rotation.Fingerprint(m.ID, m.Value), http.StatusOK}
}

// received tells whether it acknowledges no more than the message.
func (a answer) received(m webhook.Message, instance string) bool {
	return a == answer{"received", m.Generation, instance, "", http.StatusOK}
}

func body(t *testing.T, m webhook.Message) []byte {
	t.Helper()
	text, err := m.Body()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// message tells of a new version of which one field is no text.
func message(id string, generation int64) webhook.Message {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	return webhook.Message{
		ID: id, Event: rotation.EventRotated, Audience: "app", Ref: backends.Ref{Tenant: "default", Name: "mail/sender"},
		Version: int(generation) + 10, Generation: generation, Trigger: "schedule", Time: at, PublishedAt: at, Payload: webhook.Plain,
		Value: backends.NewValue(map[string]string{
			"key": fmt.Sprintf("%s-%d ü", canary, generation), "Zone": "eu", "raw": "\xff\x00" + canary, "ä": "", "\U0001f511": "x", "\uffee": "y",
		}),
	}
}

func notice(id string, event rotation.Event, generation int64) webhook.Message {
	m := message(id, generation)
	m.Event, m.Value = event, backends.Value{}
	switch event {
	case rotation.EventRotating:
		m.DueAt = m.Time.Add(72 * time.Hour)
	case rotation.EventTest:
		m.Ref.Name, m.Version, m.Generation, m.PublishedAt = "", 0, 0, time.Time{}
	}
	return m
}

// sealed is a message that is sealed to these public keys.
func sealed(t *testing.T, id string, generation int64, to ...jose.JSONWebKey) webhook.Message {
	t.Helper()
	set := jose.JSONWebKeySet{}
	for _, key := range to {
		set.Keys = append(set.Keys, key.Public())
	}
	recipients, err := webhook.ReadRecipients(jsonFile(t, set))
	if err != nil {
		t.Fatal(err)
	}
	m := message(id, generation)
	m.Payload, m.Recipients = webhook.Sealed, recipients
	return m
}

func newKey(t *testing.T, id string, curve elliptic.Curve) jose.JSONWebKey {
	t.Helper()
	if curve == nil {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		return jose.JSONWebKey{Key: key, KeyID: id}
	}
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: id}
}

func pemFile(t *testing.T, keys ...jose.JSONWebKey) string {
	t.Helper()
	var text []byte
	for _, key := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(key.Key)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return file(t, string(text))
}

func jsonFile(t *testing.T, content any) string {
	t.Helper()
	text, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, string(text))
}

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
