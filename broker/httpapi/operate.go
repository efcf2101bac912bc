package httpapi

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Operations are what of a Broker serves the interventions of operators. Those
// with a DryRun change nothing if it is set: they answer what would follow.
type Operations interface {
	Cancel(ctx context.Context, p authn.Principal, rotationID string, r client.InterventionRequest) (client.RotationIntervention, error)
	Retry(ctx context.Context, p authn.Principal, rotationID string, r client.InterventionRequest) (client.RotationIntervention, error)
	Approve(ctx context.Context, p authn.Principal, rotationID string, r client.InterventionRequest) (client.RotationIntervention, error)
	RollBack(ctx context.Context, p authn.Principal, rotationID string, r client.InterventionRequest) (client.RotationIntervention, error)
	// Supply hands in what a person has made; nothing of it is in an answer or error.
	Supply(ctx context.Context, p authn.Principal, rotationID string, r client.SupplyRequest) (client.Rotation, error)

	Probe(ctx context.Context, p authn.Principal, retirementID string, r client.InterventionRequest) (client.RetirementIntervention, error)
	TurnedOff(ctx context.Context, p authn.Principal, retirementID string, r client.InterventionRequest) (client.RetirementIntervention, error)
	// WatchRetirement is for a retirement what WatchRotation is for a rotation.
	WatchRetirement(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error)
	Orphans(ctx context.Context, p authn.Principal, q client.OrphanQuery) (client.List[client.Orphan], error)

	Replay(ctx context.Context, p authn.Principal, deliveryID string, r client.InterventionRequest) (client.DeliveryIntervention, error)

	Plan(ctx context.Context, p authn.Principal, name string) (client.Plan, error)
	Repair(ctx context.Context, p authn.Principal, name string, r client.RepairRequest) (client.Repair, error)

	Frozen(ctx context.Context, p authn.Principal) (client.Freeze, error)
	Freeze(ctx context.Context, p authn.Principal, r client.InterventionRequest) (client.FreezeIntervention, error)
	Unfreeze(ctx context.Context, p authn.Principal, r client.InterventionRequest) (client.FreezeIntervention, error)
}

func orphanQuery(p *params) client.OrphanQuery {
	return client.OrphanQuery{Secret: p.text("secret"), Page: page(p)}
}
