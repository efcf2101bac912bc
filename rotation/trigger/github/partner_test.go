package github_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/github"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const keysPath = "/meta/public_keys/secret_scanning"

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newClock() *clock { return &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func feed(t testing.TB, a *api, c *clock) *github.Receiver {
	t.Helper()
	return open(t, github.Config{Partner: true, APIURL: a.URL, AllowPrivateNetwork: true}, c.now)
}

// signer signs as GitHub does.
type signer struct {
	id  string
	key *ecdsa.PrivateKey
}

func newSigner(t testing.TB, id string, curve elliptic.Curve) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{id, key}
}

func (s signer) sign(t testing.TB, body []byte) http.Header {
	t.Helper()
	sum := sha256.Sum256(body)
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return headers(s.id, base64.StdEncoding.EncodeToString(signature))
}

func headers(id, signature string) http.Header {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("Github-Public-Key-Identifier", id)
	h.Set("Github-Public-Key-Signature", signature)
	return h
}

// keys is an answer of GitHub with public keys.
func keys(t testing.TB, list map[string]any) http.HandlerFunc {
	t.Helper()
	type key struct {
		ID      string `json:"key_identifier"`
		Key     string `json:"key"`
		Current bool   `json:"is_current"`
	}
	var answer struct {
		PublicKeys []key `json:"public_keys"`
	}
	for id, public := range list {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		answer.PublicKeys = append(answer.PublicKeys, key{id, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), true})
	}
	return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(answer) }
}

// TestSignedByGitHub takes a message that GitHub itself has signed: the example of its
// documentation (as of 2021), with the key that its API gave for it.
func TestSignedByGitHub(t *testing.T) {
	a := serve(t, giving(t, "partner_keys.json"))
	r := feed(t, a, newClock())
	body := file(t, "partner_signed_by_github.json")
	header := headers("90a421169f0a406205f1563a953312f0be898d3c7b6c06b681aa86a874555f4a",
		"MEQCIAfgjgz6Ou/3DXMYZBervz1TKCHFsvwMcbuJhNZse622AiAG86/cku2XdcmFWNHl2WSJi2fkE8t+auvB24eURaOd2A==")
	events, reply, err := r.Receive(t.Context(), header, body)
	if err != nil {
		t.Fatal(err)
	}
	want := inbound.Event{Values: []backends.SecretString{"cb4985f91f740272c0234202299f43808034d7f5"}, Source: "GitHub, partner feed",
		Reason: "GitHub secret scanning: github_oauth_token made public (unknown)", URL: "https://github.com/github/faketestrepo/blob/b0dd59c0b500650cacd4551ca5989a6194001b10/production.env"}
	if len(events) != 1 || !reflect.DeepEqual(events[0], want) || reply.Status != http.StatusOK {
		t.Errorf("%+v, %+v", events, reply)
	}
	if _, _, err := r.Receive(t.Context(), header, append(slices.Clone(body), '\n')); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("with a line break: %v", err)
	}
	if asked := a.requests(); !slices.Equal(asked, []string{"GET " + keysPath + " "}) {
		t.Errorf("GitHub was asked %q", asked)
	}
}

// TestFeedIsJudged: GitHub learns which matches are credentials of ours, by their hashes.
func TestFeedIsJudged(t *testing.T) {
	s := newSigner(t, "k1", elliptic.P256())
	r := feed(t, serve(t, keys(t, map[string]any{"k1": &s.key.PublicKey})), newClock())
	body := []byte(`[{"token":"` + canary + `","type":"ours","url":"","source":"Pull_request_comment"},` + strings.Trim(strings.TrimSpace(string(file(t, "partner.json"))), "[]") + "]")
	events, reply, err := r.Receive(t.Context(), s.sign(t, body), body)
	if err != nil || len(events) != 2 || events[0].Reason != "GitHub secret scanning: ours made public (pull request comment)" {
		t.Fatalf("%+v, %v", events, err)
	}
	answer, err := json.Marshal(reply.Judge([]bool{true, false}))
	hash := func(token string) string {
		sum := sha256.Sum256([]byte(token))
		return hex.EncodeToString(sum[:])
	}
	want := fmt.Sprintf(`[{"token_hash":%q,"token_type":"ours","label":"true_positive"},{"token_hash":%q,"token_type":"mycompany_api_token","label":"false_positive"}]`, hash(canary), hash("NMIfyYncKcRALEXAMPLE"))
	if err != nil || string(answer) != want {
		t.Errorf("%s, %v", answer, err)
	}
	if answer, _ := json.Marshal(reply.Judge(nil)); strings.Contains(string(answer), "true_positive") {
		t.Errorf("nothing is known, and %s", answer)
	}
	if shown := fmt.Sprintf("%v %+v %#v", events, events, events); strings.Contains(shown, canary) {
		t.Error("the events show a token")
	}
}

func TestForgedMatchesAreRefused(t *testing.T) {
	s, other := newSigner(t, "k1", elliptic.P256()), newSigner(t, "k1", elliptic.P256())
	large := newSigner(t, "p384", elliptic.P384())
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	a := serve(t, keys(t, map[string]any{"k1": &s.key.PublicKey, "p384": &large.key.PublicKey, "ed": edwards.Public(), "rsa": rsaKey.Public()}))
	r := feed(t, a, newClock())
	body := file(t, "partner.json")
	good := s.sign(t, body)
	signature := good.Get("Github-Public-Key-Signature")
	raw, _ := base64.StdEncoding.DecodeString(signature)
	sum := sha256.Sum256(body)
	byRSA, err := rsaKey.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	twice := good.Clone()
	twice.Add("Github-Public-Key-Signature", signature)
	for name, c := range map[string]struct {
		header http.Header
		body   []byte
	}{
		"not signed":        {http.Header{}, body},
		"without a key":     {http.Header{"Github-Public-Key-Signature": {signature}}, body},
		"two signatures":    {twice, body},
		"another body":      {good, []byte(strings.Replace(string(body), "content", "commit", 1))},
		"truncated":         {good, body[:len(body)-3]},
		"another's key":     {other.sign(t, body), body},
		"another curve":     {large.sign(t, body), body},
		"ed25519":           {headers("ed", base64.StdEncoding.EncodeToString(ed25519.Sign(edwards, body))), body},
		"RSA":               {headers("rsa", base64.StdEncoding.EncodeToString(byRSA)), body},
		"an unknown key":    {headers("k2", signature), body},
		"no base64":         {headers("k1", signature[:len(signature)-1]+"!"), body},
		"hexadecimal":       {headers("k1", hex.EncodeToString(raw)), body},
		"cut short":         {headers("k1", base64.StdEncoding.EncodeToString(raw[:len(raw)-1])), body},
		"something behind":  {headers("k1", base64.StdEncoding.EncodeToString(append(slices.Clone(raw), 0))), body},
		"nothing":           {headers("k1", ""), body},
		"zeros":             {headers("k1", base64.StdEncoding.EncodeToString([]byte{0x30, 6, 2, 1, 0, 2, 1, 0})), body},
		"a hub's signature": {sent("secret_scanning_alert", body), body},
	} {
		if _, _, err := r.Receive(t.Context(), c.header, c.body); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"no list":     `{"token":"` + canary + `","type":"t"}`,
		"no token":    `[{"type":"t"}]`,
		"no type":     `[{"token":"` + canary + `"}]`,
		"deep":        strings.Repeat("[", 100) + strings.Repeat("]", 100),
		"too many":    "[" + strings.Repeat(`{"token":"t","type":"t"},`, inbound.MaxEvents) + `{"token":"t","type":"t"}]`,
		"not of text": `[{"token":["` + canary + `"],"type":"t"}]`,
	} {
		_, _, err := r.Receive(t.Context(), s.sign(t, []byte(text)), []byte(text))
		if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if asked := a.requests(); len(asked) != 1 {
		t.Errorf("GitHub was asked %d times", len(asked))
	}
}

// TestKeysAreAskedForSeldom: a key that is unknown at most once a minute, whatever is sent.
func TestKeysAreAskedForSeldom(t *testing.T) {
	first, second := newSigner(t, "k1", elliptic.P256()), newSigner(t, "k2", elliptic.P256())
	a := serve(t, keys(t, map[string]any{"k1": &first.key.PublicKey}))
	c := newClock()
	r := feed(t, a, c)
	body := file(t, "partner.json")
	receive := func(s signer) error {
		_, _, err := r.Receive(t.Context(), s.sign(t, body), body)
		return err
	}
	expect := func(doing string, err, class error, asked int) {
		t.Helper()
		if !errors.Is(err, class) || len(a.requests()) != asked {
			t.Errorf("%s: %v after %d requests", doing, err, len(a.requests()))
		}
	}
	expect("the first message", receive(first), nil, 1)
	a.becomes(keys(t, map[string]any{"k1": &first.key.PublicKey, "k2": &second.key.PublicKey}))
	for range 20 {
		c.pass(2 * time.Second)
		expect("a new key within the minute", receive(second), backends.ErrDenied, 1)
	}
	c.pass(time.Minute)
	expect("a new key after it", receive(second), nil, 2)
	c.pass(30 * time.Minute)
	expect("known keys", errors.Join(receive(first), receive(second)), nil, 2)

	a.becomes(keys(t, map[string]any{"k2": &second.key.PublicKey}))
	c.pass(31 * time.Minute)
	expect("a key that GitHub has withdrawn", receive(first), backends.ErrDenied, 3)

	a.becomes(status(http.StatusNotFound))
	c.pass(2 * time.Hour)
	expect("GitHub does not answer, and the key is known", receive(second), nil, 4)
	expect("it is not asked at once again", receive(second), nil, 4)
	c.pass(23 * time.Hour)
	expect("the key is a day old", receive(second), backends.ErrUnavailable, 5)
	expect("it is not asked at once again", receive(second), backends.ErrUnavailable, 5)
	a.becomes(keys(t, map[string]any{"k2": &second.key.PublicKey}))
	c.pass(10 * time.Second)
	expect("GitHub answers again", receive(second), nil, 6)

	a.becomes(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"public_keys":[]}`)) })
	c.pass(2 * time.Hour)
	expect("an answer without keys changes nothing", receive(second), nil, 7)
}

// TestKeysCanBeElsewhere: the token is for the API alone.
func TestKeysCanBeElsewhere(t *testing.T) {
	s := newSigner(t, "k1", elliptic.P256())
	api, other := serve(t, status(http.StatusTeapot)), serve(t, keys(t, map[string]any{"k1": &s.key.PublicKey}))
	r := open(t, github.Config{Partner: true, APIURL: api.URL, KeysURL: other.URL + "/keys", Token: apiToken, AllowPrivateNetwork: true}, time.Now)
	body := file(t, "partner.json")
	if _, _, err := r.Receive(t.Context(), s.sign(t, body), body); err != nil {
		t.Fatal(err)
	}
	if asked := other.requests(); !slices.Equal(asked, []string{"GET /keys "}) || len(api.requests()) != 0 {
		t.Errorf("asked %q", asked)
	}
}

// TestWaitingForKeysEnds with the request: GitHub is asked once for all who wait.
func TestWaitingForKeysEnds(t *testing.T) {
	s := newSigner(t, "k1", elliptic.P256())
	asked, answer := make(chan struct{}), make(chan struct{})
	give := keys(t, map[string]any{"k1": &s.key.PublicKey})
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		give(w, r)
	})
	r := feed(t, a, newClock())
	body := file(t, "partner.json")
	header := s.sign(t, body)
	first := make(chan error, 1)
	go func() {
		_, _, err := r.Receive(t.Context(), header, body)
		first <- err
	}()
	select {
	case <-asked:
	case err := <-first:
		t.Fatalf("nobody was asked: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.Receive(ctx, header, body); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("who left: %v", err)
	}
	close(answer)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// FuzzMatches: whatever GitHub has signed, the errors have a class and show nothing of it.
func FuzzMatches(f *testing.F) {
	f.Add(file(f, "partner.json"))
	f.Add(file(f, "partner_signed_by_github.json"))
	f.Add([]byte(`[{"token":"` + canary + `","type":"\u0000\ud800","url":"https://[","source":"` + strings.Repeat("_", 5000) + `"}]`))
	s := newSigner(f, "k1", elliptic.P256())
	r := feed(f, serve(f, keys(f, map[string]any{"k1": &s.key.PublicKey})), newClock())
	f.Fuzz(func(t *testing.T, body []byte) {
		events, reply, err := r.Receive(context.Background(), s.sign(t, body), body)
		if err != nil {
			if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
				t.Errorf("%v", err)
			}
			return
		}
		answer, err := json.Marshal(reply.Judge(make([]bool, len(events))))
		if err != nil || strings.Count(string(answer), `"label":"false_positive"`) < len(events) {
			t.Errorf("%d events, %s, %v", len(events), answer, err)
		}
		for _, e := range events {
			if len(e.Reason) > 1024 || len(e.URL) > 1024 || len(e.Values) > 1 {
				t.Errorf("kept %+v", e)
			}
		}
	})
}
