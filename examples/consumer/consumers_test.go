package main

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

func using(version, generation int) string {
	return fmt.Sprintf("using mail/sender version %d generation %d (Zone, key, raw, ä, \uffee, \U0001f511)", version, generation)
}

// sameLines compares without the order of a line's names, which each language sorts
// in a way of its own.
func sameLines(got, want []string) bool {
	return slices.EqualFunc(got, want, func(a, b string) bool {
		return slices.Equal(slices.Sorted(slices.Values(strings.Split(a, ""))), slices.Sorted(slices.Values(strings.Split(b, ""))))
	})
}

func TestAppliesAndAcknowledgesInOrder(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		c := p.run(t, "--consumer", "app", "--broker", b.url)

		back := message("d3", 3)
		back.Event, back.Version = rotation.EventRolledBack, 11
		theirs := message("d6", 1)
		theirs.Ref.Tenant = "acme"
		reference := message("d7", 5)
		reference.Payload, reference.Value = webhook.Reference, backends.Value{}
		for _, step := range []struct {
			name    string
			message webhook.Message
			applied bool
		}{
			{"the first", message("d1", 1), true},
			{"a later one", message("d2", 2), true},
			{"an earlier version again", back, true},
			{"a repetition", back, true},
			{"an old one again", message("d2", 2), true}, // its id is remembered; nothing is applied
			{"the same under another id", message("d4", 3), true},
			{"an older one", message("d5", 2), false},
			{"another tenant's", theirs, true},
			{"a reference, without a token", reference, false},
			{"the next", message("d8", 5), true},
		} {
			if step.name == "the same under another id" {
				step.message.Version = 11
			}
			a := b.deliver(c.url, step.message)
			if ok := a.applied(step.message, p.name); ok != step.applied || (!ok && !a.received(step.message, p.name)) {
				t.Errorf("%s: got %+v", step.name, a)
			}
		}
		want := []string{using(11, 1), using(12, 2), using(11, 3), strings.Replace(using(11, 1), "mail/", "acme:mail/", 1), using(15, 5)}
		if got := c.lines(); !sameLines(got, want) {
			t.Errorf("got %q", got)
		}
		if n := b.times(); n != 1 {
			t.Errorf("it asked for the keys %d times", n)
		}
	})
}

func TestIsToldOfEverythingElse(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		c := p.run(t, "--consumer", "app", "--broker", b.url)
		for i, event := range rotation.Events() {
			if event.MakesCurrent() {
				continue
			}
			m := notice(fmt.Sprintf("d%d", i), event, 4)
			for range 2 { // the second is a repetition
				if a := b.deliver(c.url, m); !a.received(m, p.name) {
					t.Errorf("%s: got %+v", event, a)
				}
			}
		}
		unknown := []byte(`{"id":"new","type":"dev.elsewhere.changed.v7","data":{"audience":"app","generation":4}}`)
		if a := b.post(c.url, b.signer.Sign("new", time.Now(), unknown), unknown); !a.received(message("new", 4), p.name) {
			t.Errorf("an event that nobody knows: got %+v", a)
		}
		want := []string{
			"mail/sender version 14 is to be replaced at 2026-03-04T00:00:00Z",
			"warning: mail/sender version 14 is compromised and about to be replaced",
			"mail/sender version 14: retiring",
			"mail/sender version 14: retired",
			"mail/sender version 14: proven_dead",
			"warning: mail/sender version 14 is accepted again, though it was proven dead",
			"tested",
		}
		if got := c.lines(); !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

func TestOpensWhatIsSealedToIt(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		old, next := newKey(t, "old", elliptic.P256()), newKey(t, "next", nil)
		other, unnamed := newKey(t, "other", elliptic.P521()), newKey(t, "", elliptic.P384())
		renamed := old
		renamed.KeyID = "renamed"
		c := p.run(t, "--consumer", "app", "--broker", b.url, "--key-file", jsonFile(t, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{old, next}}))
		pem := p.run(t, "--consumer", "app", "--broker", b.url, "--key-file", pemFile(t, other, unnamed))

		for i, step := range []struct {
			name   string
			url    string
			to     []jose.JSONWebKey
			opened bool
		}{
			{"before the key is replaced", c.url, []jose.JSONWebKey{old}, true},
			{"while it is", c.url, []jose.JSONWebKey{old, next}, true},
			{"afterwards", c.url, []jose.JSONWebKey{next}, true},
			{"to somebody else, too", c.url, []jose.JSONWebKey{other, next}, true},
			{"to somebody else", c.url, []jose.JSONWebKey{other}, false},
			{"to a key that is called otherwise here", c.url, []jose.JSONWebKey{renamed}, false},
			{"to a key that goes by its thumbprint", pem.url, []jose.JSONWebKey{next, unnamed}, true},
			{"to a key whose name is not here", pem.url, []jose.JSONWebKey{other}, false},
		} {
			m := sealed(t, fmt.Sprintf("d%d", i), int64(i+1), step.to...)
			if a := b.deliver(step.url, m); a.applied(m, p.name) != step.opened || (!step.opened && a.code != http.StatusBadRequest) {
				t.Errorf("%s: got %+v", step.name, a)
			}
		}

		// What is sealed in one message is no other message's.
		m := sealed(t, "moved", 20, old)
		for from, to := range map[string]string{
			`"generation":20`:        `"generation":21`,
			`"secret":"mail/sender"`: `"secret":"mail/other"`,
			`"tenant":"default"`:     `"tenant":"acme"`,
			`"version":`:             `"version":9`,
		} {
			moved := bytes.Replace(body(t, m), []byte(from), []byte(to), 1)
			if a := b.post(c.url, b.signer.Sign(m.ID, time.Now(), moved), moved); a.code != http.StatusBadRequest {
				t.Errorf("%s: got %+v", to, a)
			}
		}
		if a := b.deliver(c.url, m); !a.applied(m, p.name) { // a refusal is not remembered
			t.Errorf("got %+v", a)
		}
	})
}

func TestFetchesWhatIsReferredTo(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			t.Errorf("it asked somebody else for %s, with %q", r.URL, r.Header.Get("Authorization"))
		}))
		t.Cleanup(elsewhere.Close)
		c := p.run(t, "--consumer", "app", "--broker", b.url, "--token-file", file(t, canary+"\n"))
		current := func(version int, generation int64) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				m := message("", generation)
				_ = json.NewEncoder(w).Encode(client.Value{Name: m.Ref.Name, Version: version, Generation: generation, Fields: m.Value.Reveal()})
			}
		}
		for i, step := range []struct {
			name  string
			value http.HandlerFunc
			href  string
			code  int
			uses  bool
		}{
			{"what it says", current(11, 1), "", 200, true},
			{"the next one already", current(13, 3), "", 200, false},
			{"still the one before", current(11, 1), "", 503, false},
			{"nothing", http.NotFound, "", 503, false},
			{"no JSON", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, canary) }, "", 503, false},
			{"more than anybody needs", func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, strings.Repeat(" ", 17<<20))
				current(16, 6)(w, r)
			}, "", 503, false},
			{"another place", http.RedirectHandler(elsewhere.URL, http.StatusFound).ServeHTTP, "", 503, false},
			{"another place from the first", current(18, 8), elsewhere.URL + "/api/v1/secrets/mail/sender/value", 400, false},
			{"another place without a scheme", current(19, 9), strings.TrimPrefix(elsewhere.URL, "http:") + "/api/v1/secrets/mail/sender/value", 400, false},
			{"what is no value", current(20, 10), "/api/v1/tokens/self", 400, false},
			{"what it says again", current(21, 11), "", 200, true},
		} {
			b.setValue(step.value)
			m := message(fmt.Sprintf("d%d", i), int64(i+1))
			value := m.Value
			m.Payload, m.Value = webhook.Reference, backends.Value{}
			text := body(t, m)
			if step.href != "" {
				text = bytes.Replace(text, []byte(`"/api/v1/secrets/mail/sender/value"`), []byte(`"`+step.href+`"`), 1)
			}
			a := b.post(c.url, b.signer.Sign(m.ID, time.Now(), text), text)
			if m.Value = value; a.code != step.code || a.applied(m, p.name) != step.uses {
				t.Errorf("%s: got %+v", step.name, a)
			}
		}
		if got, want := c.lines(), []string{using(11, 1), using(21, 11)}; !sameLines(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

func TestSigningKeysAreReplaced(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		oldPrivate, oldPublic := webhook.GenerateKeyPair()
		newPrivate, newPublic := webhook.GenerateKeyPair()
		b.sign([]backends.SecretString{oldPrivate}, oldPublic)
		c := p.run(t, "--consumer", "app", "--broker", b.url, "--key-interval", p.instant)
		deliver := func(name string, generation int64, code int) {
			t.Helper()
			if a := b.deliver(c.url, message(name, generation)); a.code != code {
				t.Errorf("%s: got %+v", name, a)
			}
		}
		deliver("before", 1, http.StatusOK)
		b.sign([]backends.SecretString{newPrivate, oldPrivate}, newPublic, oldPublic)
		deliver("while", 2, http.StatusOK)
		if n := b.times(); n != 1 {
			t.Errorf("it asked for the keys %d times, though it knew one of them", n)
		}
		b.sign([]backends.SecretString{newPrivate}, newPublic)
		deliver("afterwards", 3, http.StatusOK)
		b.sign([]backends.SecretString{oldPrivate}, newPublic)
		deliver("by-who-has-the-old-one", 4, http.StatusUnauthorized)
	})
}

func TestSharedSecrets(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		first, second := webhook.GenerateSecret(), webhook.GenerateSecret()
		c := p.run(t, "--consumer", "app", "--broker", b.url, "--secret-file", file(t, first.Reveal()+"\n"+second.Reveal()+"\n"))
		private, _ := webhook.GenerateKeyPair()
		for i, step := range []struct {
			secrets []backends.SecretString
			code    int
		}{
			{[]backends.SecretString{first}, http.StatusOK},
			{[]backends.SecretString{first, second}, http.StatusOK},
			{[]backends.SecretString{second}, http.StatusOK},
			{[]backends.SecretString{private, second}, http.StatusOK},
			{[]backends.SecretString{webhook.GenerateSecret()}, http.StatusUnauthorized},
			{[]backends.SecretString{private}, http.StatusUnauthorized},
		} {
			b.sign(step.secrets)
			m := message(fmt.Sprintf("d%d", i), int64(i+1))
			if a := b.deliver(c.url, m); a.code != step.code || (a.code == http.StatusOK && !a.applied(m, p.name)) {
				t.Errorf("%d: got %+v", i, a)
			}
		}
		b.sign([]backends.SecretString{first})
		refusesWhatIsNotTheBrokers(t, b, c)
	})
}

func TestRefusesWhatIsNotTheBrokers(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		c := p.run(t, "--consumer", "app", "--broker", b.url)
		refusesWhatIsNotTheBrokers(t, b, c)
		if got := c.lines(); len(got) > 0 {
			t.Errorf("something was applied: %q", got)
		}
		if n := b.times(); n != 1 {
			t.Errorf("strangers made it ask for the keys %d times", n)
		}
	})
}

func refusesWhatIsNotTheBrokers(t *testing.T, b *broker, c *running) {
	t.Helper()
	now, text := time.Now(), body(t, message("d", 100))
	private, _ := webhook.GenerateKeyPair()
	stranger, err := webhook.NewSigner(private, webhook.GenerateSecret())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := message("d", 100)
	elsewhere.Audience = "other"
	with := func(name, value string) http.Header {
		header := b.signer.Sign("d", now, text)
		header.Set(name, value)
		return header
	}
	changed := func(from, to string) string { return strings.Replace(string(text), from, to, 1) }
	signed := func(text string) http.Header { return b.signer.Sign("d", now, []byte(text)) }
	plain := func(rest string) string {
		return `{"id":"d","type":"dev.keybroker.secret.rotated.v1","data":{"audience":"app","secret":"s","version":1,"generation":100,` + rest + `}}`
	}
	notBase64, noSuchField := plain(`"payload":"plain","fields":{"key":"`+canary+`!"},"encodings":{"key":"base64"}`), plain(`"payload":"plain","fields":{"a":"b"},"encodings":{"key":"base64"}`)
	rot13, empty := plain(`"payload":"plain","fields":{"key":"`+canary+`"},"encodings":{"key":"rot13"}`), plain(`"payload":"plain","fields":{}`)
	morse, unsealed := plain(`"payload":"morse"`), plain(`"payload":"sealed","sealed":{"ciphertext":"`+canary+`"}`)
	nobody := `{"id":"d","type":"dev.keybroker.secret.rotated.v1","data":{}}`
	for _, step := range []struct {
		name   string
		header http.Header
		body   string
		code   int
	}{
		{"not signed", http.Header{}, string(text), 401},
		{"signed by another", stranger.Sign("d", now, text), string(text), 401},
		{"too old", b.signer.Sign("d", now.Add(-6*time.Minute), text), string(text), 401},
		{"from the future", b.signer.Sign("d", now.Add(6*time.Minute), text), string(text), 401},
		{"of another time", with("webhook-timestamp", fmt.Sprint(now.Unix()-60)), string(text), 401},
		{"of no time", with("webhook-timestamp", "soon"), string(text), 401},
		{"under another id", with("webhook-id", "e"), string(text), 401},
		{"with half a signature", with("webhook-signature", "v1a,AAAA v1,AAAA v1a v1, x,y,z"), string(text), 401},
		{"changed", b.signer.Sign("d", now, text), changed(`"generation":100`, `"generation":900`), 401},
		{"longer", b.signer.Sign("d", now, text), string(text) + " ", 401},
		{"for another consumer", b.signer.Sign("d", now, body(t, elsewhere)), string(body(t, elsewhere)), 403},
		{"of another id", signed(changed(`"id":"d"`, `"id":"e"`)), changed(`"id":"d"`, `"id":"e"`), 400},
		{"no JSON", signed(canary), canary, 400},
		{"no event", signed("[]"), "[]", 400},
		{"for nobody", signed(nobody), nobody, 403},
		{"not encoded as it says", signed(notBase64), notBase64, 400},
		{"an encoding of nothing", signed(noSuchField), noSuchField, 400},
		{"an unknown encoding", signed(rot13), rot13, 400},
		{"no fields", signed(empty), empty, 400},
		{"an unknown payload", signed(morse), morse, 400},
		{"not sealed", signed(unsealed), unsealed, 400},
	} {
		if a := b.post(c.url, step.header, []byte(step.body)); a.code != step.code {
			t.Errorf("%s: got %+v", step.name, a)
		}
	}
}
