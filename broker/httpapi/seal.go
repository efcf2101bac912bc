package httpapi

import (
	"context"

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
