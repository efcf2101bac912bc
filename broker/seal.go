package broker

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/policy"
)

// SealKeeper has the keys that everything is sealed by. None of them leaves it.
type SealKeeper interface {
	SealStatus(ctx context.Context) (client.SealStatus, error)
	// RotateSeal makes a new key for by, and begins to re-wrap what others seal.
	// ErrConflict, unless r.Force, if a seal that opens the present key would not open it.
	RotateSeal(ctx context.Context, by string, r client.SealRotateRequest) (client.SealRotation, error)
	// VerifySeal opens values from a cursor on; at the beginning ("") it asks each seal
	// to open every key.
	VerifySeal(ctx context.Context, after string) (client.SealVerification, error)
}

const sealPath = "sys/seal"

// SealStatus tells of the seals and their keys.
func (b *Broker) SealStatus(ctx context.Context, p authn.Principal) (out client.SealStatus, err error) {
	err = b.onSeal(ctx, p, policy.Read, "seal.show", nil, func() error {
		out, err = b.Seal.SealStatus(ctx)
		return err
	})
	return out, err
}

// RotateSeal makes a new key that seals from now on.
func (b *Broker) RotateSeal(ctx context.Context, p authn.Principal, r client.SealRotateRequest) (out client.SealRotation, err error) {
	err = b.onSeal(ctx, p, policy.Update, "seal.rotate", map[string]string{"reason": r.Reason}, func() error {
		out, err = b.Seal.RotateSeal(ctx, p.ID, r)
		return err
	})
	return out, err
}

// VerifySeal tells whether the seals can be used and whether what is sealed opens.
func (b *Broker) VerifySeal(ctx context.Context, p authn.Principal, r client.SealVerifyRequest) (out client.SealVerification, err error) {
	err = b.onSeal(ctx, p, policy.Read, "seal.verify", nil, func() error {
		out, err = b.Seal.VerifySeal(ctx, r.After)
		return err
	})
	return out, err
}

// onSeal authorises p for the seal, which is of all tenants, and runs act.
func (b *Broker) onSeal(ctx context.Context, p authn.Principal, c policy.Capability, action string, detail map[string]string, act func() error) error {
	return b.do(ctx, p, c, request{action: action, path: sealPath, detail: detail}, act)
}
