package httpapi

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Consumers are what of a Broker tells of consumers, and of what they were told.
type Consumers interface {
	Consumers(ctx context.Context, p authn.Principal) (client.List[client.Consumer], error)
	Consumer(ctx context.Context, p authn.Principal, name string) (client.Consumer, error)
	// TestConsumer and EnableConsumer do not wait for the consumer.
	TestConsumer(ctx context.Context, p authn.Principal, name string, r client.ConsumerRequest) (client.Delivery, error)
	EnableConsumer(ctx context.Context, p authn.Principal, name string, r client.ConsumerRequest) (client.Consumer, error)
	// RotateSigning: ErrInvalid if the key is in the configuration.
	RotateSigning(ctx context.Context, p authn.Principal, name string, r client.RotateSigningRequest) (client.SigningRotation, error)
	SecretConsumers(ctx context.Context, p authn.Principal, name string) (client.SecretConsumers, error)

	Deliveries(ctx context.Context, p authn.Principal, q client.DeliveryQuery) (client.List[client.Delivery], error)
	Delivery(ctx context.Context, p authn.Principal, id string) (client.Delivery, error)
	Acknowledge(ctx context.Context, p authn.Principal, id string, r client.AcknowledgeRequest) (client.Delivery, error)
}

func deliveryQuery(p *params) client.DeliveryQuery {
	return client.DeliveryQuery{Secret: p.text("secret"), Consumer: p.text("consumer"), State: p.oneOf("state", client.DeliveryStates...),
		Event: p.oneOf("event", client.DeliveryEvents...), Page: page(p)}
}
