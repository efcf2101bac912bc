package httpapi

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Quarantines are what of a Broker keeps consumers and roles out.
type Quarantines interface {
	Quarantines(ctx context.Context, p authn.Principal) (client.List[client.Quarantine], error)
	// Quarantine: ErrConflict for the role of the caller, unless it is forced.
	Quarantine(ctx context.Context, p authn.Principal, r client.QuarantineRequest) (client.QuarantineIntervention, error)
	// LiftQuarantine: ErrNotFound for what is in none.
	LiftQuarantine(ctx context.Context, p authn.Principal, r client.QuarantineRequest) (client.QuarantineIntervention, error)
}
