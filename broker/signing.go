package broker

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
)

// WebhookKeys gives anybody the public keys that a consumer's messages are signed with
// now; none of a consumer that there is not, or whose messages are signed otherwise. It is
// not audited: consumers ask without a token, and what they are told is public.
func (b *Broker) WebhookKeys(ctx context.Context, consumer string) (client.WebhookKeys, error) {
	keys, err := b.Signing.Keys(ctx, consumer)
	out := client.WebhookKeys{Keys: []client.WebhookKey{}}
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return out, nil
	case err != nil:
		b.Logger.Error("the public keys of a consumer cannot be told", "consumer", consumer, "error", err)
		return out, fmt.Errorf("%w: the keys cannot be told now", backends.ErrUnavailable)
	}
	for _, k := range keys {
		if key, ok := webhookKey(k); ok {
			out.Keys = append(out.Keys, key)
		}
	}
	return out, nil
}

// webhookKey is a public key as a JWK; false if it has none.
func webhookKey(k client.SigningKey) (client.WebhookKey, bool) {
	encoded, ok := strings.CutPrefix(k.Public, "whpk_")
	if !ok {
		return client.WebhookKey{}, false
	}
	public, err := base64.StdEncoding.DecodeString(encoded)
	return client.WebhookKey{Type: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(public), ID: k.ID, Use: "sig", Algorithm: "EdDSA",
		StandardWebhooks: k.Public}, err == nil
}
