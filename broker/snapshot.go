package broker

import (
	"context"
	"errors"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
)

const storagePath = "sys/storage"

// Snapshot copies the state, that of all tenants, while the node works. What it holds
// of values is sealed. The caller closes it.
func (b *Broker) Snapshot(ctx context.Context, p authn.Principal) (s *store.Snapshot, err error) {
	err = b.do(ctx, p, policy.Read, request{action: "storage.snapshot", path: storagePath}, func() (err error) {
		s, err = b.Store.Snapshot(ctx)
		return err
	})
	return s, err
}

// Storage tells whether the state was restored from a snapshot, what has not been in step
// since, and whether evidence is held.
func (b *Broker) Storage(ctx context.Context, p authn.Principal) (out client.Storage, err error) {
	err = b.do(ctx, p, policy.Read, request{action: "storage.show", path: storagePath}, func() error {
		return b.Store.View(ctx, func(tx *store.Tx) (err error) {
			if out.EvidenceHeld, err = tx.EvidenceHeld(ctx); err != nil {
				return err
			}
			r, err := tx.Restored(ctx)
			if errors.Is(err, backends.ErrNotFound) {
				return nil
			}
			out.Restored = viewRestored(r)
			return err
		})
	})
	return out, err
}

func viewRestored(r store.Restored) *client.Restored {
	out := &client.Restored{Snapshot: r.Snapshot, TakenAt: utc(r.TakenAt), RestoredAt: utc(r.RestoredAt), Since: utc(r.Since), SealKey: r.SealKey, OutOfStep: []client.OutOfStep{}}
	for _, o := range r.OutOfStep {
		out.OutOfStep = append(out.OutOfStep, client.OutOfStep{Secret: o.Ref.Name, Tenant: o.Ref.Tenant, Kind: o.Kind, Detail: o.Detail})
	}
	return out
}
