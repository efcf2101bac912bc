package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// What memory answers about consumers.

func (m *memory) consumer(name string) client.Consumer {
	return client.Consumer{Name: name, Tenant: "default", Kind: client.ConsumerWebhook, Events: []string{}, State: client.ConsumerTold}
}

func (m *memory) Consumers(_ context.Context, p authn.Principal) (client.List[client.Consumer], error) {
	return client.List[client.Consumer]{Items: []client.Consumer{m.consumer("shop")}}, m.serve(p, "consumers")
}

func (m *memory) Consumer(_ context.Context, p authn.Principal, name string) (client.Consumer, error) {
	return m.consumer(name), m.serve(p, "consumer", name)
}

func (m *memory) TestConsumer(_ context.Context, p authn.Principal, name string, r client.ConsumerRequest) (client.Delivery, error) {
	return m.delivery(), m.serve(p, "test-consumer", name, r.Reason)
}

func (m *memory) EnableConsumer(_ context.Context, p authn.Principal, name string, r client.ConsumerRequest) (client.Consumer, error) {
	return m.consumer(name), m.serve(p, "enable", name, r.Reason)
}

func (m *memory) RotateSigning(_ context.Context, p authn.Principal, name string, r client.RotateSigningRequest) (client.SigningRotation, error) {
	return client.SigningRotation{Consumer: name, Keys: []client.SigningKey{}, Secret: canary}, m.serve(p, "rotate-signing", name, r.Overlap, r.Reason)
}

func (m *memory) SecretConsumers(_ context.Context, p authn.Principal, name string) (client.SecretConsumers, error) {
	return client.SecretConsumers{Secret: name, Consumers: []client.SecretConsumer{}, Old: []client.OldVersion{}}, m.serve(p, "secret-consumers", name)
}

// consumerCalls are all calls about consumers, by how the broker is asked.
func consumerCalls(ctx context.Context) map[string]func(*client.Client) error {
	return map[string]func(*client.Client) error{
		"consumers":     func(c *client.Client) error { return second(c.Consumers(ctx)) },
		"consumer shop": func(c *client.Client) error { return second(c.Consumer(ctx, "shop")) },
		"test-consumer shop why": func(c *client.Client) error {
			return second(c.TestConsumer(ctx, "shop", client.ConsumerRequest{Reason: "why"}))
		},
		"enable shop why": func(c *client.Client) error {
			return second(c.EnableConsumer(ctx, "shop", client.ConsumerRequest{Reason: "why"}))
		},
		"rotate-signing shop 7d why": func(c *client.Client) error {
			return second(c.RotateSigning(ctx, "shop", client.RotateSigningRequest{Overlap: "7d", Reason: "why"}))
		},
		"secret-consumers payments/stripe": func(c *client.Client) error { return second(c.SecretConsumers(ctx, "payments/stripe")) },
		"deliveries   dead secret.retired": func(c *client.Client) error {
			return second(c.Deliveries(ctx, client.DeliveryQuery{State: client.DeliveryDead, Event: "secret.retired"}))
		},
		"acknowledge d1 received 7 shop-1 ff": func(c *client.Client) error {
			return second(c.Acknowledge(ctx, "d1", client.AcknowledgeRequest{Status: client.AckReceived, Generation: 7, Instance: "shop-1", Fingerprint: "ff"}))
		},
	}
}

func TestConsumersAreReached(t *testing.T) {
	n := start(t, newMemory(), nil)
	for want, call := range consumerCalls(t.Context()) {
		if err := call(n.client(t, goodToken)); err != nil || n.last() != want {
			t.Errorf("the broker was asked %q, want %q: %v", n.last(), want, err)
		}
		if err := call(n.client(t, otherToken)); client.Status(err) != http.StatusForbidden {
			t.Errorf("%s, by who may not: %v", want, err)
		}
		before := n.count()
		if err := call(n.client(t, "nope")); client.Status(err) != http.StatusUnauthorized || n.count() != before {
			t.Errorf("%s, by nobody: %v", want, err)
		}
	}
	if a := n.ask(t, "GET", "/api/v1/deliveries?state=failed", goodToken, ""); a.status != http.StatusBadRequest {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := n.ask(t, "GET", "/api/v1/deliveries?event=secret.gone", goodToken, ""); a.status != http.StatusBadRequest {
		t.Errorf("an event that there is not: %d %s", a.status, a.body)
	}
}

// TestASigningSecretPrintsNowhere but in the answer's JSON.
func TestASigningSecretPrintsNowhere(t *testing.T) {
	n := start(t, newMemory(), nil)
	out, err := n.client(t, goodToken).RotateSigning(t.Context(), "shop", client.RotateSigningRequest{})
	if err != nil || out.Secret.Reveal() != canary {
		t.Fatalf("%v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", out, out, out, out); strings.Contains(text, canary) || strings.Contains(n.log.String(), canary) {
		t.Errorf("%s\n%s", text, n.log)
	}
}
