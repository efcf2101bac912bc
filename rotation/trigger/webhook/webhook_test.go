package webhook_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
	"github.com/keybroker/keybroker/rotation/trigger/webhook"
	standard "github.com/keybroker/keybroker/rotation/webhook"
)

const (
	canary = "c4n4ry-s3cr3t-v4lue"
	token  = "a-token-of-the-siem-0123"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func receiver(t testing.TB, c webhook.Config) *webhook.Receiver {
	t.Helper()
	if err := c.Validate(false); err != nil {
		t.Fatal(err)
	}
	r, diags := webhook.New(c, func() time.Time { return now })
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return r
}

func bearer(t testing.TB, paths string) *webhook.Receiver {
	t.Helper()
	return receiver(t, webhook.Config{BearerToken: token, Paths: attribute(t, paths)})
}

// attribute reads what stands behind paths =.
func attribute(t testing.TB, text string) *hcl.Attribute {
	t.Helper()
	if text == "" {
		return nil
	}
	file, diags := hclsyntax.ParseConfig([]byte("paths = "+text), "config.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return file.Body.(*hclsyntax.Body).Attributes["paths"].AsHCLAttribute()
}

func authorized(more ...string) http.Header {
	h := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i < len(more); i += 2 {
		h.Set(more[i], more[i+1])
	}
	return h
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func one(t *testing.T, r *webhook.Receiver, header http.Header, body []byte) inbound.Event {
	t.Helper()
	events, reply, err := r.Receive(t.Context(), header, body)
	if err != nil || len(events) != 1 || reply.Status != 0 || reply.Body != nil {
		t.Fatalf("%v, %v, %v", events, reply, err)
	}
	return events[0]
}

// TestCloudEvents: the example of the specification (CloudEvents JSON format 1.0, section
// 3.1), in all three forms that HTTP has.
func TestCloudEvents(t *testing.T) {
	r := bearer(t, "")
	body := read(t, "cloudevents.json")
	want := inbound.Event{
		ID: "/siem/rules/42 A234-1234-1234", At: time.Date(2018, 4, 5, 17, 31, 0, 0, time.UTC), Secrets: []string{"mail/sendgrid", "acme:pay/stripe"},
		Values: []backends.SecretString{canary}, Labels: map[string]string{"team": "growth"}, Reason: "posted in a public channel",
		Source: "/siem/rules/42", URL: "https://siem.example.com/findings/123",
	}
	if got := one(t, r, authorized("Content-Type", "application/cloudevents+json; charset=utf-8"), body); !reflect.DeepEqual(got, want) {
		t.Errorf("structured: %+v", got)
	}
	if got := one(t, r, authorized("Content-Type", "application/json"), body); !reflect.DeepEqual(got, want) {
		t.Errorf("structured, as plain JSON: %+v", got)
	}
	events, _, err := r.Receive(t.Context(), authorized("Content-Type", "application/cloudevents-batch+json"), fmt.Appendf(nil, "[%s,%s]", body, strings.Replace(string(body), "A234", "B234", 1)))
	if err != nil || len(events) != 2 || !reflect.DeepEqual(events[0], want) || events[1].ID != "/siem/rules/42 B234-1234-1234" {
		t.Errorf("batch: %+v, %v", events, err)
	}
	data := body[strings.Index(string(body), `"data" :`)+len(`"data" :`) : strings.LastIndex(string(body), "}")]
	header := authorized("Content-Type", "application/json", "ce-specversion", "1.0", "ce-type", "com.example.credential.leaked", "ce-source", "/siem/rules/42", "ce-id", "A234-1234-1234", "ce-time", "2018-04-05T17:31:00Z")
	if got := one(t, r, header, data); !reflect.DeepEqual(got, want) {
		t.Errorf("binary: %+v", got)
	}
}

func TestPlainJSON(t *testing.T) {
	r := bearer(t, "")
	for body, want := range map[string]inbound.Event{
		`{"secret":"mail/a","reason":"x","id":"7"}`:                                               {ID: "7", Secrets: []string{"mail/a"}, Reason: "x"},
		`{"secret":"a","secrets":["b","c"],"id":17}`:                                              {ID: "17", Secrets: []string{"a", "b", "c"}},
		`{"type":"leak","timestamp":"2026-01-02T03:04:05Z","data":{"values":["` + canary + `"]}}`: {At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Values: []backends.SecretString{canary}},
		`{"labels":{"team":"growth"},"reason":null}`:                                              {Labels: map[string]string{"team": "growth"}},
		`{"test":true,"secret":"a"}`:                                                              {Test: true, Secrets: []string{"a"}},
		`{"test":"true"}`:                                                                         {},
		`{}`:                                                                                      {},
	} {
		if got := one(t, r, authorized(), []byte(body)); fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want.Clean()) {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

func TestPathsOfTheConfiguration(t *testing.T) {
	r := bearer(t, `{ secrets = "$.findings[*].resource.name", values = "$.findings[*].match", id = "$.alert.uid", reason = "$.alert['title']", labels = "$.alert.tags" }`)
	got := one(t, r, authorized(), []byte(`{"alert":{"uid":"u-1","title":"found","tags":{"a":"b"}},"secret":"ignored",
		"findings":[{"resource":{"name":"mail/a"},"match":"`+canary+`"},{"resource":{"name":"mail/b"}}]}`))
	want := inbound.Event{ID: "u-1", Reason: "found", Secrets: []string{"mail/a", "mail/b"}, Values: []backends.SecretString{canary}, Labels: map[string]string{"a": "b"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestRefusesWhatIsNoEvent(t *testing.T) {
	r := bearer(t, "")
	cloud := func(text string) string { return `{"specversion":"1.0",` + text + `}` }
	for name, body := range map[string]string{
		"nothing":                "",
		"a list":                 `["` + canary + `"]`,
		"null":                   "null",
		"a text for secrets":     `{"secrets":{"a":"` + canary + `"}}`,
		"a list of lists":        `{"values":[["` + canary + `"]]}`,
		"labels of lists":        `{"labels":{"a":["` + canary + `"]}}`,
		"labels in a text":       `{"labels":"` + canary + `"}`,
		"another version":        `{"specversion":"0.3","id":"1","source":"s","type":"t"}`,
		"without an id":          cloud(`"source":"s","type":"t"`),
		"an empty source":        cloud(`"id":"1","source":"","type":"t"`),
		"without a type":         cloud(`"id":"1","source":"s"`),
		"data in base64":         cloud(`"id":"1","source":"s","type":"t","data_base64":"e30="`),
		"deep":                   strings.Repeat(`{"data":`, 70) + "{}" + strings.Repeat("}", 70),
		"truncated":              string(read(t, "cloudevents.json")[:400]),
		"another one behind":     `{} {}`,
		"a batch that is a list": `[{}]`,
	} {
		_, _, err := r.Receive(t.Context(), authorized(), []byte(body))
		if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	batch := "[" + strings.Repeat(`{"specversion":"1.0","id":"1","source":"s","type":"t"},`, inbound.MaxEvents) + `{}]`
	if _, _, err := r.Receive(t.Context(), authorized("Content-Type", "application/cloudevents-batch+json"), []byte(batch)); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a batch too large: %v", err)
	}
	if _, _, err := r.Receive(t.Context(), http.Header{}, []byte(`{}`)); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("nobody: %v", err)
	}
}

func signed(t testing.TB, secret backends.SecretString, id string, at time.Time, body string) http.Header {
	t.Helper()
	s, err := standard.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return s.Sign(id, at, []byte(body))
}

// TestStandardWebhooks takes what the reference library of Standard Webhooks signs, and
// nothing that was changed, is old, or is signed with another key.
func TestStandardWebhooks(t *testing.T) {
	old, current := standard.GenerateSecret(), standard.GenerateSecret()
	private, public := standard.GenerateKeyPair()
	r := receiver(t, webhook.Config{SigningSecret: old + "\n" + current + "\n", PublicKeys: []string{public}})
	const body, id = `{"type":"leak","id":"unsigned by the protocol","data":{"secret":"mail/a"}}`, "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"

	reference, err := standardwebhooks.NewWebhook(current.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	signature, err := reference.Sign(id, now, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	byReference := http.Header{}
	byReference.Set("webhook-id", id)
	byReference.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	byReference.Set("webhook-signature", signature)
	for name, header := range map[string]http.Header{
		"by the reference library": byReference,
		"with the old secret":      signed(t, old, id, now.Add(-4*time.Minute), body),
		"ed25519":                  signed(t, private, id, now.Add(4*time.Minute), body),
	} {
		if e := one(t, r, header, []byte(body)); e.ID != id || !slices.Equal(e.Secrets, []string{"mail/a"}) {
			t.Errorf("%s: %+v", name, e)
		}
	}

	otherPrivate, _ := standard.GenerateKeyPair()
	change := func(of http.Header, name, value string) http.Header {
		h := maps.Clone(of)
		h[http.CanonicalHeaderKey(name)] = []string{value}
		return h
	}
	twice := maps.Clone(byReference)
	twice["Webhook-Id"] = []string{id, "another"}
	mac := strings.TrimPrefix(signature, "v1,")
	for name, header := range map[string]http.Header{
		"not signed":             {},
		"another secret":         signed(t, standard.GenerateSecret(), id, now, body),
		"another key":            signed(t, otherPrivate, id, now, body),
		"another body":           signed(t, current, id, now, body+" "),
		"another id":             change(byReference, "webhook-id", "msg_other"),
		"another time":           change(byReference, "webhook-timestamp", fmt.Sprint(now.Unix()+1)),
		"too old":                signed(t, current, id, now.Add(-5*time.Minute-time.Second), body),
		"from tomorrow":          signed(t, current, id, now.Add(5*time.Minute+time.Second), body),
		"no time":                change(byReference, "webhook-timestamp", "soon"),
		"two ids":                twice,
		"cut short":              change(byReference, "webhook-signature", signature[:len(signature)-4]),
		"another algorithm":      change(byReference, "webhook-signature", "v1a,"+mac),
		"no version":             change(byReference, "webhook-signature", mac),
		"the public key as HMAC": signedWithPublicKey(public, id, body),
	} {
		if _, _, err := r.Receive(t.Context(), header, []byte(body)); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// signedWithPublicKey is what somebody sends who has only what is public, and hopes that it
// is taken for a shared secret.
func signedWithPublicKey(public, id, body string) http.Header {
	raw, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(public, "whpk_"))
	mac := hmac.New(sha256.New, raw)
	_, _ = fmt.Fprintf(mac, "%s.%d.%s", id, now.Unix(), body)
	h := http.Header{}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return h
}

// TestHubMessagesAreToldApart by what is signed: a captured one cannot be made another by
// its headers.
func TestHubMessagesAreToldApart(t *testing.T) {
	const secret = "a secret that both sides have"
	r := receiver(t, webhook.Config{HubSecret: secret})
	sign := func(body string, more ...string) http.Header {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(body))
		h := authorized(more...)
		h.Set(inbound.HeaderHub, "sha256="+hex.EncodeToString(mac.Sum(nil)))
		return h
	}
	cloud := []string{"ce-specversion", "1.0", "ce-type", "t", "ce-source", "s", "ce-id"}
	body := `{"secret":"mail/a"}`
	ids := []string{
		one(t, r, sign(body), []byte(body)).ID,
		one(t, r, sign(body, "X-Github-Delivery", "1"), []byte(body)).ID,
		one(t, r, sign(body, append(cloud, "1")...), []byte(body)).ID,
		one(t, r, sign(body, append(cloud, "2")...), []byte(body)).ID,
	}
	if ids[0] == "" || len(slices.Compact(ids)) != 1 {
		t.Errorf("the same message has the ids %q", ids)
	}
	if other := `{"secret":"mail/b"}`; one(t, r, sign(other), []byte(other)).ID == ids[0] {
		t.Error("another message has the same id")
	}
	if own := `{"id":"evt-1","secret":"mail/b"}`; one(t, r, sign(own), []byte(own)).ID != "evt-1" {
		t.Error("an id that is signed is not taken")
	}
	if _, _, err := r.Receive(t.Context(), sign(body), []byte(`{"secret":"mail/c"}`)); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("another body: %v", err)
	}
	if _, _, err := r.Receive(t.Context(), authorized(), []byte(body)); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("not signed: %v", err)
	}
}

func TestConfigurationMistakes(t *testing.T) {
	private, public := standard.GenerateKeyPair()
	for name, c := range map[string]struct {
		config webhook.Config
		says   string
	}{
		"nobody":           {webhook.Config{}, "anybody could send"},
		"two ways":         {webhook.Config{HubSecret: token, BearerToken: token}, "in one way"},
		"no whsec":         {webhook.Config{SigningSecret: canary}, "signing_secret is none of Standard Webhooks in line 1"},
		"private key":      {webhook.Config{SigningSecret: private}, "signing_secret is none"},
		"public elsewhere": {webhook.Config{SigningSecret: backends.SecretString(public)}, "signing_secret is none"},
		"no whpk":          {webhook.Config{PublicKeys: []string{public, "whpk_AAAA"}}, "public_keys.1"},
		"secret as key":    {webhook.Config{PublicKeys: []string{standard.GenerateSecret().Reveal()}}, "public_keys.0"},
		"short token":      {webhook.Config{BearerToken: "short"}, "bearer_token is too short"},
		"empty":            {webhook.Config{SigningSecret: "\n"}, "signing_secret is empty"},
	} {
		err := c.config.Validate(false)
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), private.Reveal()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	offline := webhook.Config{SigningSecret: "0ff11ce0"} // as broker/config has it
	if err := offline.Validate(true); err != nil {
		t.Errorf("offline: %v", err)
	}
	for paths, says := range map[string]string{
		`{ secret = "$.a" }`:  "nothing called \"secret\"",
		`{ secrets = "a.b" }`: "no path",
		`{ secrets = "$.[" }`: "no path",
		`[]`:                  "Write paths",
	} {
		_, diags := webhook.New(webhook.Config{BearerToken: token, Paths: attribute(t, paths)}, time.Now)
		if !diags.HasErrors() || !strings.Contains(diags.Error(), says) {
			t.Errorf("%s: %v", paths, diags)
		}
	}
}

// FuzzReceive: whatever is sent, the errors have a class and show nothing of it, and what
// is taken is bounded.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(read(f, "cloudevents.json")), "application/cloudevents+json", "")
	f.Add([]byte(`[{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"secret":"a"}}]`), "application/cloudevents-batch+json", "")
	f.Add([]byte(`{"values":["`+canary+`"]}`), "application/json", "1.0")
	f.Add([]byte(`{"data":[1,{"secret":"a"}]}`), "text/plain; a=\"", "")
	r := bearer(f, "")
	f.Fuzz(func(t *testing.T, body []byte, kind, version string) {
		header := authorized("Content-Type", kind)
		if version != "" {
			header["Ce-Specversion"] = []string{version}
		}
		events, _, err := r.Receive(context.Background(), header, body)
		if err != nil && !errors.Is(err, backends.ErrInvalid) || err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%v", err)
		}
		if len(events) > inbound.MaxEvents || err == nil && len(events) == 0 && string(kind) != "application/cloudevents-batch+json" && !strings.HasPrefix(strings.ToLower(kind), "application/cloudevents-batch+json") {
			t.Errorf("%d events", len(events))
		}
		for _, e := range events {
			if len(e.ID) > 256 || len(e.Reason) > 1024 || len(e.Secrets) > 1000 {
				t.Errorf("kept %+v", e)
			}
		}
	})
}
