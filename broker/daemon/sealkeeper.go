package daemon

import (
	"context"

	"github.com/keybroker/keybroker/broker/client"
)

// asSealKeeper is sealing as the Broker sees it.
type asSealKeeper struct{ s *sealing }

// SealStatus implements broker.SealKeeper.
func (k asSealKeeper) SealStatus(ctx context.Context) (client.SealStatus, error) {
	return k.s.status(ctx)
}

// RotateSeal implements broker.SealKeeper.
func (k asSealKeeper) RotateSeal(ctx context.Context, by string, r client.SealRotateRequest) (client.SealRotation, error) {
	return k.s.renew(ctx, by, r)
}

// VerifySeal implements broker.SealKeeper.
func (k asSealKeeper) VerifySeal(ctx context.Context, after string) (client.SealVerification, error) {
	return k.s.verify(ctx, after)
}
