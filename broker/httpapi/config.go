package httpapi

import (
	"context"
	"net/http"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// reload makes the endpoint that takes the configuration's files into use.
func (s *server) reload() endpoint {
	return submit(s, http.StatusOK, "", func(ctx context.Context, p authn.Principal, _ string, body client.ReloadRequest) (client.Reload, error) {
		return s.Broker.Reload(ctx, p, body)
	})
}

// configuration makes the endpoint that tells what the node works by.
func (s *server) configuration() endpoint {
	return one(s, "", func(ctx context.Context, p authn.Principal, _ string) (client.Configuration, error) {
		return s.Broker.Configuration(ctx, p)
	})
}
