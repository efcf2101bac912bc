package receiver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/examples/consumer/receiver"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

const canary = "canary-91ab"

// broker delivers to a receiver as keybroker does.
type broker struct {
	t      *testing.T
	sender *webhook.Sender
	signer *webhook.Signer
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
	sender, err := webhook.NewSender(webhook.Endpoint{URL: server.URL, AllowPrivate: true}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sender.Close)
	signer, err := webhook.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return r, &broker{t: t, sender: sender, signer: signer}
}

func (b *broker) deliver(m webhook.Message) webhook.Outcome {
	b.t.Helper()
	body, err := m.Body()
	if err != nil {
		b.t.Fatal(err)
	}
	return b.sender.Send(b.t.Context(), m.ID, body, b.signer)
}

// applied tells whether the outcome acknowledges that the message's value is in use.
func applied(o webhook.Outcome, m webhook.Message) bool {
	return o.Received && *o.Claim == webhook.Claim{Applied: true, Generation: m.Generation, Fingerprint: rotation.Fingerprint(m.ID, m.Value)}
}

// received tells whether it acknowledges no more than the message.
func received(o webhook.Outcome, m webhook.Message) bool {
	return o.Received && *o.Claim == webhook.Claim{Generation: m.Generation}
}

func version(generation int) webhook.Message {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	return webhook.Message{
		ID: fmt.Sprintf("delivery-%d", generation), Event: rotation.EventRotated, Audience: "app",
		Ref: backends.Ref{Tenant: "default", Name: "mail/sender"}, Version: generation + 10, Generation: int64(generation),
		Trigger: "schedule", Time: at, PublishedAt: at,
		Payload: webhook.Plain, Value: backends.NewValue(map[string]string{"key": fmt.Sprint(canary, generation)}),
	}
}

func TestKeepsTheNewestOfEachTenant(t *testing.T) {
	r, b := start(t, receiver.Options{Consumer: "app"})
	if v, generation := r.Current("mail/sender"); !v.IsZero() || generation != 0 {
		t.Errorf("before anything was delivered: generation %d", generation)
	}
	theirs, late := version(1), version(1)
	theirs.ID, theirs.Ref.Tenant = "theirs", "acme"
	late.ID = "late"
	for _, m := range []webhook.Message{version(2), theirs, version(3)} {
		if o := b.deliver(m); !applied(o, m) {
			t.Errorf("got %+v", o)
		}
	}
	if o := b.deliver(late); !received(o, late) {
		t.Errorf("an older one: got %+v", o)
	}
	ours, generation := r.Current("mail/sender")
	if _, other := r.Current("acme:mail/sender"); generation != 3 || other != 1 || !ours.Equal(version(3).Value) {
		t.Errorf("generations %d and %d", generation, other)
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
	if o := b.deliver(version(1)); !applied(o, version(1)) {
		t.Errorf("got %+v", o)
	}
}

func TestReceivedIsNotApplied(t *testing.T) {
	r, b := start(t, receiver.Options{ReceiveOnly: true})
	if o := b.deliver(version(1)); !received(o, version(1)) {
		t.Errorf("got %+v", o)
	}
	if _, generation := r.Current("mail/sender"); generation != 1 {
		t.Errorf("generation %d", generation)
	}
}

func TestNewsIsPassedOnWithoutTheValue(t *testing.T) {
	var heard []int64
	fail := false
	r, b := start(t, receiver.Options{OnNews: func(_ context.Context, u receiver.Update) error {
		if fail {
			return errors.New("nobody is there")
		}
		if !u.Value.IsZero() {
			t.Error("the value was opened")
		}
		heard = append(heard, u.Generation)
		return nil
	}})
	for _, generation := range []int{1, 3, 2, 3} {
		if o := b.deliver(version(generation)); !received(o, version(generation)) {
			t.Errorf("got %+v", o)
		}
	}
	fail = true
	if o := b.deliver(version(4)); o.Status != http.StatusServiceUnavailable {
		t.Errorf("got %+v", o)
	}
	// Nothing is kept, so an older generation is news, too: one who passes it on may know
	// better, and generations begin again with a broker that was set up anew.
	if _, generation := r.Current("mail/sender"); generation != 0 || !slices.Equal(heard, []int64{1, 3, 2}) {
		t.Errorf("generation %d; heard of %v", generation, heard)
	}
}

func TestManyDeliveriesAreForgottenInTime(t *testing.T) {
	r, b := start(t, receiver.Options{})
	for g := 1; g <= 1100; g++ {
		if o := b.deliver(version(g)); !applied(o, version(g)) {
			t.Fatalf("generation %d: got %+v", g, o)
		}
	}
	if o := b.deliver(version(1)); !received(o, version(1)) { // its id is forgotten, its generation is not
		t.Errorf("got %+v", o)
	}
	if _, generation := r.Current("mail/sender"); generation != 1100 {
		t.Errorf("generation %d", generation)
	}
}

func TestRefusesWhatIsNoDelivery(t *testing.T) {
	r, _ := start(t, receiver.Options{})
	for _, c := range []struct {
		method, body string
		want         int
	}{
		{"GET", "", 405},
		{"POST", strings.Repeat("x", 2<<20), 400},
	} {
		answer := httptest.NewRecorder()
		r.ServeHTTP(answer, httptest.NewRequest(c.method, "/", strings.NewReader(c.body)))
		if answer.Code != c.want {
			t.Errorf("%s: got %d", c.method, answer.Code)
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, secret := range []backends.SecretString{"", " ", "whsec_", "whsec_" + canary, canary, "whsec_c2hvcnQ="} {
		if _, err := receiver.New(secret, receiver.Options{}); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("got %v", err)
		}
	}
	for _, url := range []string{"broker.example", "http://broker.example", "https://", "https://user:" + canary + "@broker.example", "http://127.0.0.1:" + canary} {
		if _, err := receiver.New("", receiver.Options{Consumer: "app", Broker: url}); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v", url, err)
		}
	}
	if _, err := receiver.New("", receiver.Options{Broker: "https://broker.example"}); err == nil {
		t.Error("without a name, it takes the keys of nobody")
	}
}

func TestBadKeys(t *testing.T) {
	const public = `{"kty":"EC","crv":"P-256","x":"V8OPrEn4_OXRhJmVn-oLOGXjvxRzxg-FJ7biiu_n86M","y":"54H2TtEV9KAM62RMbyv0fH6cUFT4RfYhj4iuXa9a1e4"}`
	for _, text := range []string{"", canary, "{", "{}", `{"keys":[]}`, public, `{"kty":"oct","k":"` + canary + `"}`,
		"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if keys, err := receiver.ReadKeys([]byte(text)); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v, %v", text, keys, err)
		}
	}
}
