package daemon

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// asSigning is the Daemon as the Broker sees it.
type asSigning struct{ d *Daemon }

// Keys implements broker.Signing.
func (a asSigning) Keys(ctx context.Context, name string) ([]client.SigningKey, error) {
	c, ok := a.d.setup.Load().catalog.Consumers[name].(*consumer)
	if !ok {
		return nil, noConsumer(name)
	}
	if c.secrets != nil {
		return c.operatorsKeys(), nil
	}
	rows, _, err := a.d.signing.opened(ctx, store.Consumer{Tenant: c.config.Tenant, Name: name})
	return shownKeys(rows), err
}

// operatorsKeys are the operator's keys of a consumer. A public one is called by its
// text, which is the same at every node.
func (c *consumer) operatorsKeys() []client.SigningKey {
	keys := []client.SigningKey{}
	for _, public := range c.secrets.PublicKeys() {
		text := base64.StdEncoding.EncodeToString(public)
		keys = append(keys, client.SigningKey{ID: base64.RawURLEncoding.EncodeToString(public), Algorithm: string(webhook.Ed25519), Public: "whpk_" + text})
	}
	if len(keys) == 0 {
		keys = append(keys, client.SigningKey{ID: "signing_secret", Algorithm: string(webhook.HMAC)})
	}
	return keys
}

// Rotate implements broker.Signing.
func (a asSigning) Rotate(ctx context.Context, name string, overlap time.Duration) (client.SigningRotation, error) {
	var c *config.Consumer
	for _, one := range a.d.setup.Load().cfg.Consumers {
		if one.Name == name {
			c = one
		}
	}
	switch {
	case c == nil:
		return client.SigningRotation{}, noConsumer(name)
	case c.SigningSecretFile != "":
		return client.SigningRotation{}, fmt.Errorf("%w: what signs for consumer %s is in %s (%s:%d): put the new secret there, on a line of its own, and reload; remove the old line once the consumer knows the new one",
			backends.ErrInvalid, name, c.SigningSecretFile, c.Range.Filename, c.Range.Start.Line)
	case c.SigningSecret != "":
		return client.SigningRotation{}, fmt.Errorf("%w: what signs for consumer %s is the signing_secret of its block (%s:%d): change it there and reload, or leave it out, and the broker has its own keys; "+
			"with a signing_secret_file of two lines both sign for a while", backends.ErrInvalid, name, c.Range.Filename, c.Range.Start.Line)
	}
	return a.d.signing.rotate(ctx, c, overlap)
}

func noConsumer(name string) error {
	return fmt.Errorf("%w: there is no consumer %q", backends.ErrNotFound, name)
}
