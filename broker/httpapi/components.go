package httpapi

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Components are what of a Broker tells of issuers and probes, and has them tried, and what a text is.
type Components interface {
	Issuers(ctx context.Context, p authn.Principal) (client.List[client.Issuer], error)
	// CheckIssuer has no effect at the issuer. ErrUnsupported if that cannot be.
	CheckIssuer(ctx context.Context, p authn.Principal, name string, r client.CheckIssuerRequest) (client.IssuerCheck, error)
	Probes(ctx context.Context, p authn.Principal) (client.List[client.Probe], error)
	// Identify tells what a text is, of what the caller may know of.
	Identify(ctx context.Context, p authn.Principal, r client.IdentifyRequest) (client.Identified, error)
	RunProbe(ctx context.Context, p authn.Principal, name string, r client.RunProbeRequest) (client.ProbeRun, error)
}

// Planning is what of a Broker tells how secrets rotate, and what another
// configuration would do.
type Planning interface {
	EffectivePlans(ctx context.Context, p authn.Principal, q client.SecretQuery) (client.List[client.Effective], error)
	// PlanConfig changes nothing.
	PlanConfig(ctx context.Context, p authn.Principal, r client.ConfigPlanRequest) (client.ConfigPlan, error)
}
