package httpapi

import (
	"context"
	"net/http"

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

	Probe(ctx context.Context, p authn.Principal, retirementID string, r client.InterventionRequest) (client.RetirementIntervention, error)
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

// operations are the routes of Operations, but for those below a secret's name.
func (s *server) operations() {
	b := s.Broker
	post := func(path string, answer endpoint) { s.mux.Handle(root+path, s.methods(endpoints{"POST": answer})) }
	post("rotations/{id}/cancel", submit(s, http.StatusOK, "id", b.Cancel))
	post("rotations/{id}/retry", submit(s, http.StatusOK, "id", b.Retry))
	post("rotations/{id}/approve", submit(s, http.StatusOK, "id", b.Approve))
	post("rotations/{id}/rollback", submit(s, http.StatusOK, "id", b.RollBack))
	post("retirements/{id}/probe", submit(s, http.StatusOK, "id", b.Probe))
	s.mux.Handle(root+"retirements/{id}/events", s.methods(endpoints{"GET": s.watch(b.WatchRetirement)}))
	s.mux.Handle(root+"orphans", s.methods(endpoints{"GET": list(s, orphanQuery, b.Orphans)}))
	post("deliveries/{id}/replay", submit(s, http.StatusOK, "id", b.Replay))
	s.mux.Handle(root+"sys/freeze", s.methods(endpoints{
		"GET": one(s, "", func(ctx context.Context, p authn.Principal, _ string) (client.Freeze, error) {
			return b.Frozen(ctx, p)
		}),
		"POST": whole(s, b.Freeze),
	}))
	post("sys/unfreeze", whole(s, b.Unfreeze))
}

// whole makes the endpoint of a request about everything.
func whole[B, T any](s *server, call func(context.Context, authn.Principal, B) (T, error)) endpoint {
	return submit(s, http.StatusOK, "", func(ctx context.Context, p authn.Principal, _ string, body B) (T, error) {
		return call(ctx, p, body)
	})
}

func orphanQuery(p *params) client.OrphanQuery {
	return client.OrphanQuery{Secret: p.text("secret"), Page: page(p)}
}
