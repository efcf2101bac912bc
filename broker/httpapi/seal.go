package httpapi

import (
	"context"
	"net/http"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Seals are what of a Broker serves the keys that everything is sealed by. No answer
// holds one.
type Seals interface {
	SealStatus(ctx context.Context, p authn.Principal) (client.SealStatus, error)
	RotateSeal(ctx context.Context, p authn.Principal, r client.SealRotateRequest) (client.SealRotation, error)
	VerifySeal(ctx context.Context, p authn.Principal, r client.SealVerifyRequest) (client.SealVerification, error)
}

// seals are the routes of Seals.
func (s *server) seals() {
	b := s.Broker
	s.mux.Handle(root+"seal", s.methods(endpoints{
		"GET": one(s, "", func(ctx context.Context, p authn.Principal, _ string) (client.SealStatus, error) {
			return b.SealStatus(ctx, p)
		}),
	}))
	s.mux.Handle(root+"seal/rotate", s.methods(endpoints{"POST": submit(s, http.StatusAccepted, "",
		func(ctx context.Context, p authn.Principal, _ string, r client.SealRotateRequest) (client.SealRotation, error) {
			return b.RotateSeal(ctx, p, r)
		})}))
	s.mux.Handle(root+"seal/verify", s.methods(endpoints{"POST": whole(s, b.VerifySeal)}))
}
