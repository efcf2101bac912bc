package receiver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/examples/consumer/receiver"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/webhook"
)

const canary = "canary-91ab"

// broker delivers to a receiver as keybroker does.
type broker struct {
	t      *testing.T
	sender *webhook.Sender
	signer *webhook.Signer
	url    string
}

func start(t *testing.T, opts receiver.Options) (*receiver.Receiver, *broker) {
	t.Helper()
	secret := webhook.GenerateSecret()
	r, err := receiver.New(secret, opts)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	client, err := outbound.New(outbound.Options{AllowPrivate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	signer, err := webhook.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return r, &broker{t: t, sender: webhook.NewSender(client, client, time.Now), signer: signer, url: server.URL}
}

func (b *broker) deliver(m webhook.Message) webhook.Outcome {
	b.t.Helper()
	body, err := m.Body()
	if err != nil {
		b.t.Fatal(err)
	}
	return b.send(m.ID, body)
}

func (b *broker) send(id string, body []byte) webhook.Outcome {
	e := webhook.Endpoint{URL: b.url, AllowPrivate: true, Payload: webhook.Plain}
	return b.sender.Send(b.t.Context(), e, id, body, b.signer)
}

func version(generation int) webhook.Message {
	return webhook.Message{
		ID:  fmt.Sprintf("delivery-%d", generation),
		Ref: backends.Ref{Tenant: "default", Name: "mail/sender"}, Version: generation + 10, Generation: int64(generation),
		Trigger: "schedule", PublishedAt: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
		Payload: webhook.Plain, Value: backends.NewValue(map[string]string{"key": fmt.Sprint(canary, generation)}),
	}
}

func TestAppliesNewVersionsInOrderOfGeneration(t *testing.T) {
	var mu sync.Mutex
	var applied []int64
	r, b := start(t, receiver.Options{OnApply: func(_ context.Context, u receiver.Update) error {
		mu.Lock()
		defer mu.Unlock()
		applied = append(applied, u.Generation)
		return nil
	}})
	if v, generation := r.Current("mail/sender"); !v.IsZero() || generation != 0 {
		t.Errorf("before anything was delivered: generation %d", generation)
	}
	again := version(3)
	again.ID = "delivery-3-replayed"
	late := version(2)
	late.Value = backends.NewValue(map[string]string{"key": "late"})
	for _, c := range []struct {
		name    string
		message webhook.Message
		applied bool
	}{
		{"the first", version(1), true},
		{"one that was skipped to", version(3), true},
		{"a repetition", version(3), true},
		{"the same under another id", again, true},
		{"an older one", late, false},
		{"the next", version(4), true},
	} {
		if o := b.deliver(c.message); o.Err != nil || o.Applied != c.applied {
			t.Errorf("%s: got %+v", c.name, o)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(applied, []int64{1, 3, 4}) {
		t.Errorf("applied %v", applied)
	}
	v, generation := r.Current("mail/sender")
	if generation != 4 || !v.Equal(version(4).Value) {
		t.Errorf("in use is generation %d", generation)
	}
}

func TestTenantsDoNotMix(t *testing.T) {
	r, b := start(t, receiver.Options{})
	theirs := version(1)
	theirs.ID, theirs.Ref.Tenant = "theirs", "acme"
	for _, m := range []webhook.Message{version(2), theirs} {
		if o := b.deliver(m); !o.Applied {
			t.Errorf("got %+v", o)
		}
	}
	_, ours := r.Current("mail/sender")
	if _, other := r.Current("acme:mail/sender"); ours != 2 || other != 1 {
		t.Errorf("generations %d and %d", ours, other)
	}
}

func TestFieldsThatAreNoText(t *testing.T) {
	r, b := start(t, receiver.Options{})
	m := version(1)
	m.Value = backends.NewValue(map[string]string{"key": "\xff\x00", "user": "sender"})
	if o := b.deliver(m); !o.Applied {
		t.Errorf("got %+v", o)
	}
	if v, _ := r.Current("mail/sender"); !v.Equal(m.Value) {
		t.Error("in use is another value")
	}
}

func TestFailedApplicationIsDeliveredAgain(t *testing.T) {
	fail := true
	r, b := start(t, receiver.Options{OnApply: func(context.Context, receiver.Update) error {
		if fail {
			return errors.New("connecting with " + canary)
		}
		return nil
	}})
	if o := b.deliver(version(1)); o.Status != http.StatusServiceUnavailable {
		t.Errorf("got %+v", o)
	}
	if _, generation := r.Current("mail/sender"); generation != 0 {
		t.Errorf("generation %d is in use, though it was not applied", generation)
	}
	fail = false
	if o := b.deliver(version(1)); !o.Applied {
		t.Errorf("got %+v", o)
	}
}

func TestReceivedIsNotApplied(t *testing.T) {
	r, b := start(t, receiver.Options{ReceiveOnly: true})
	if o := b.deliver(version(1)); !o.Received || o.Applied {
		t.Errorf("got %+v", o)
	}
	if _, generation := r.Current("mail/sender"); generation != 1 {
		t.Errorf("generation %d", generation)
	}
	r, b = start(t, receiver.Options{})
	reference := version(1)
	reference.Payload, reference.Value = webhook.Reference, backends.Value{}
	if o := b.deliver(reference); !o.Received || o.Applied {
		t.Errorf("a reference: got %+v", o)
	}
	if o := b.send("other", []byte(`{"type":"dev.keybroker.other.v1"}`)); !o.Received || o.Applied {
		t.Errorf("another event: got %+v", o)
	}
	if _, generation := r.Current("mail/sender"); generation != 0 {
		t.Errorf("generation %d", generation)
	}
}

func TestManyDeliveriesAreForgottenInTime(t *testing.T) {
	r, b := start(t, receiver.Options{})
	for g := 1; g <= 1100; g++ {
		if o := b.deliver(version(g)); !o.Applied {
			t.Fatalf("generation %d: got %+v", g, o)
		}
	}
	if o := b.deliver(version(1)); !o.Received || o.Applied { // its id is forgotten, its generation is not
		t.Errorf("got %+v", o)
	}
	if _, generation := r.Current("mail/sender"); generation != 1100 {
		t.Errorf("generation %d", generation)
	}
}

func TestRefusesWhatIsNotTheBrokers(t *testing.T) {
	called := false
	r, b := start(t, receiver.Options{OnApply: func(context.Context, receiver.Update) error {
		called = true
		return nil
	}})
	body, err := version(1).Body()
	if err != nil {
		t.Fatal(err)
	}
	encoded := func(fields, encodings string) string {
		return fmt.Sprintf(`{"type":%q,"data":{"secret":"mail/sender","payload":"plain","generation":1,"fields":%s,"encodings":%s}}`, webhook.EventRotated, fields, encodings)
	}
	notBase64, missing, strange := encoded(`{"key":"`+canary+`"}`, `{"key":"base64"}`), encoded(`null`, `{"key":"base64"}`), encoded(`{"key":"`+canary+`"}`, `{"key":"rot13"}`)
	stranger, err := webhook.NewSigner(webhook.GenerateSecret())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, method string
		header       http.Header
		body         string
		want         int
	}{
		{"not signed", "POST", http.Header{}, string(body), 401},
		{"signed by another", "POST", stranger.Sign("d", time.Now(), body), string(body), 401},
		{"too old", "POST", b.signer.Sign("d", time.Now().Add(-time.Hour), body), string(body), 401},
		{"changed", "POST", b.signer.Sign("d", time.Now(), body), string(body) + " ", 401},
		{"no event", "POST", b.signer.Sign("d", time.Now(), []byte(canary)), canary, 400},
		{"not encoded as it says", "POST", b.signer.Sign("d", time.Now(), []byte(notBase64)), notBase64, 400},
		{"an encoding of nothing", "POST", b.signer.Sign("d", time.Now(), []byte(missing)), missing, 400},
		{"an unknown encoding", "POST", b.signer.Sign("d", time.Now(), []byte(strange)), strange, 400},
		{"too large", "POST", http.Header{}, strings.Repeat("x", 2<<20), 400},
		{"no delivery", "GET", http.Header{}, "", 405},
	} {
		request := httptest.NewRequest(c.method, "/", strings.NewReader(c.body))
		request.Header = c.header
		answer := httptest.NewRecorder()
		r.ServeHTTP(answer, request)
		text, _ := io.ReadAll(answer.Result().Body)
		if answer.Code != c.want || strings.Contains(string(text), canary) {
			t.Errorf("%s: got %d %s", c.name, answer.Code, text)
		}
	}
	if _, generation := r.Current("mail/sender"); called || generation != 0 {
		t.Errorf("something was applied: generation %d", generation)
	}
}

func TestBadSigningSecret(t *testing.T) {
	for _, secret := range []backends.SecretString{"", "whsec_", "whsec_" + canary, canary, "whsec_c2hvcnQ="} {
		if _, err := receiver.New(secret, receiver.Options{}); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("got %v", err)
		}
	}
}
