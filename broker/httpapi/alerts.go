package httpapi

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Alerts are what of a Broker shows what is wrong, and how people are told of it.
type Alerts interface {
	Alerts(ctx context.Context, p authn.Principal, q client.AlertQuery) (client.List[client.Alert], error)
	Alert(ctx context.Context, p authn.Principal, id string) (client.Alert, error)
	AcknowledgeAlert(ctx context.Context, p authn.Principal, id string, r client.AcknowledgeAlertRequest) (client.Alert, error)
	// TestNotifier waits for the notifier's answer. That it cannot be used is in the
	// result and no error.
	TestNotifier(ctx context.Context, p authn.Principal, name string) (client.NotifierTest, error)
}

func alertQuery(p *params) client.AlertQuery {
	return client.AlertQuery{Kind: p.oneOf("kind", client.AlertKinds...), All: p.flag("all"), Page: page(p)}
}
