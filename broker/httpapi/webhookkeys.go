package httpapi

import (
	"context"
	"net/http"
	"reflect"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// WebhookKeys tells consumers what their messages are signed with.
type WebhookKeys interface {
	// WebhookKeys returns the public keys of a consumer, none of one that there is not.
	WebhookKeys(ctx context.Context, consumer string) (client.WebhookKeys, error)
}

const wellKnownKeys = "/.well-known/keybroker/webhook-keys/{consumer}"

// webhookKeys serves who verifies messages. A new key signs beside the one of before, so
// that an answer of some minutes ago still does.
func webhookKeys() Endpoint {
	return Endpoint{
		Status: http.StatusOK, Answer: reflect.TypeFor[client.WebhookKeys](),
		serve: func(s *server, w http.ResponseWriter, r *http.Request, _ authn.Principal) error {
			if err := bare(r, &struct{}{}); err != nil {
				return err
			}
			keys, err := s.Broker.WebhookKeys(r.Context(), r.PathValue("consumer"))
			if err != nil {
				return err
			}
			w.Header().Set("Cache-Control", "max-age=300")
			return send(w, http.StatusOK, keys)
		}}
}
