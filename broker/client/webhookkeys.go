package client

import "context"

// WebhookKeys are the public keys that a consumer's messages are signed with now: a JWK set
// (RFC 7517, section 5). While a key is replaced there are two, and a message has a
// signature of each.
type WebhookKeys struct {
	Keys []WebhookKey `json:"keys"` // the newest first; none of a consumer that there is not, or that has a secret instead
}

// WebhookKey is an ed25519 key as a JWK (RFC 8037, section 2).
type WebhookKey struct {
	Type             string `json:"kty"` // "OKP"
	Curve            string `json:"crv"` // "Ed25519"
	X                string `json:"x"`   // the 32 bytes of the key in base64url without padding
	ID               string `json:"kid"`
	Use              string `json:"use"`               // "sig"
	Algorithm        string `json:"alg"`               // "EdDSA"
	StandardWebhooks string `json:"standard_webhooks"` // the same key as Standard Webhooks writes it: "whpk_…"
}

// WebhookKeys returns what the messages to a consumer are verified with. It needs no
// token. What it returns may be kept for five minutes; a message that none of it verifies
// is a reason to ask again, once a minute at most.
func (c *Client) WebhookKeys(ctx context.Context, consumer string) (WebhookKeys, error) {
	return do[WebhookKeys](ctx, c, call{method: "GET", path: []string{".well-known", "keybroker", "webhook-keys", consumer}})
}
