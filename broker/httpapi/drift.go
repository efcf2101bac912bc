package httpapi

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Drifts are what of a Broker looks after what the backends hold.
type Drifts interface {
	Placements(ctx context.Context, p authn.Principal, q client.DriftQuery) (client.List[client.Placement], error)
	// CheckDrift asks for comparisons, which are made afterwards.
	CheckDrift(ctx context.Context, p authn.Principal, name string, r client.CheckDriftRequest) (client.List[client.Placement], error)
	RestoreDrift(ctx context.Context, p authn.Principal, name string, r client.DriftRequest) (client.Restoration, error)
	AdoptDrift(ctx context.Context, p authn.Principal, name string, r client.DriftRequest) (client.RotationIntervention, error)

	Import(ctx context.Context, p authn.Principal, name string, r client.ImportRequest) (client.Import, error)
}

func driftQuery(p *params) client.DriftQuery {
	return client.DriftQuery{Secret: p.text("secret"), Backend: p.text("backend"), All: p.flag("all"), Page: page(p)}
}
