package daemon

import (
	"context"
	"time"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/store"
)

// claimAfter is how long a node has for what it has committed to come into its own log.
// After that another takes it: the node has died, or its disk is full.
const claimAfter = time.Minute

// auditOutbox is the store as the audit log of a node sees it: what the node committed,
// and what others have left behind.
type auditOutbox struct {
	db   *store.DB
	node string
}

// Pending implements audit.Outbox.
func (o auditOutbox) Pending(ctx context.Context, limit int) (out []audit.Entry, err error) {
	if err := o.claim(ctx); err != nil {
		return nil, err
	}
	err = o.db.View(ctx, func(tx *store.Tx) error {
		found, err := tx.AuditOutbox(ctx, o.node, limit)
		out = nil
		for _, e := range found {
			out = append(out, audit.Entry{Seq: e.Seq, Event: e.Event})
		}
		return err
	})
	return out, err
}

// claim takes what others have left behind. It writes only where there is something.
func (o auditOutbox) claim(ctx context.Context) error {
	left := false
	err := o.db.View(ctx, func(tx *store.Tx) (err error) {
		left, err = tx.AuditLeft(ctx, o.node, now().Add(-claimAfter))
		return err
	})
	if err != nil || !left {
		return err
	}
	return o.db.Update(ctx, func(tx *store.Tx) error { return tx.ClaimAudit(ctx, o.node, now().Add(-claimAfter)) })
}

// Written implements audit.Outbox.
func (o auditOutbox) Written(ctx context.Context, seq int64) error {
	return o.db.Update(ctx, func(tx *store.Tx) error { return tx.DeleteAudit(ctx, o.node, seq) })
}
