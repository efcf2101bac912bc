package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// historyEvery is how often a running node looks whether its database has lost
// commits, as it may in a failover.
const historyEvery = 10 * time.Second

// history finds out whether the store has forgotten what the audit log of this
// node tells of (rule 21): events are numbered in the order of commits, so a log
// with higher numbers than the store has ever given shows that the store was
// restored from a backup, or lost its last commits. Then, in one transaction,
// everything is frozen until a person has looked, and what was retired in the lost
// time is retired once more, so that nothing comes back to life.
//
// It cannot tell without a log: one that was moved away, or that another node has.
func (d *Daemon) history(ctx context.Context) error {
	path := filepath.Join(d.opts.Config.DataDir, auditFile)
	newest, err := audit.Newest(path)
	if err != nil || newest == 0 {
		return err
	}
	var known int64
	err = d.db.View(ctx, func(tx *store.Tx) (err error) {
		known, err = tx.AuditSeq(ctx)
		return err
	})
	if err != nil || known >= newest {
		return err
	}
	lost, err := audit.After(path, known)
	if err != nil {
		return err
	}
	return d.db.UpdateLatest(ctx, func(tx *store.Tx) error { return d.forgotten(ctx, tx, lost, newest) })
}

// forgotten deals with events that the store does not know of.
func (d *Daemon) forgotten(ctx context.Context, tx *store.Tx, lost []audit.Entry, newest int64) error {
	if err := tx.SkipAudit(ctx, newest); err != nil {
		return err
	}
	reason := fmt.Sprintf("the store has lost %d events from %s to %s that the audit log tells of: it was restored from a backup, or lost its last commits. "+
		"Look at each secret with `keybroker secret repair NAME --dry-run`, at the issuers for what was minted in that time, then `keybroker unfreeze`",
		len(lost), lost[0].Event.At.Format(time.RFC3339), lost[len(lost)-1].Event.At.Format(time.RFC3339))
	asked := engine.Asked{By: "keybroker", Reason: "the store has lost its retirement"}
	d.log.Error(reason)
	if _, _, err := d.engine.Freeze(ctx, tx, engine.Asked{By: asked.By, Reason: reason}); err != nil && !errors.Is(err, backends.ErrConflict) {
		return err
	}
	for _, e := range lost {
		d.log.Warn("lost by the store", "time", e.Event.At, "action", e.Event.Action, "secret", e.Event.Path, "tenant", e.Event.Tenant, "detail", e.Event.Detail)
		number, err := strconv.Atoi(e.Event.Detail["version"])
		if err != nil || !strings.HasPrefix(e.Event.Action, "retirement.") || e.Event.Action == "retirement.probe" {
			continue
		}
		if err := d.recall(ctx, tx, backends.Ref{Tenant: e.Event.Tenant, Name: e.Event.Path}, number, asked); err != nil {
			return err
		}
	}
	return nil
}

func (d *Daemon) recall(ctx context.Context, tx *store.Tx, ref backends.Ref, number int, asked engine.Asked) error {
	s, err := tx.SecretByRef(ctx, ref)
	did := ""
	if err == nil {
		did, err = d.engine.Recall(ctx, tx, s.ID, number, asked)
	}
	switch {
	case errors.Is(err, backends.ErrNotFound):
		d.log.Error("a version that the store does not know was being retired: look at its issuer by hand", "secret", ref, "version", number)
		return nil
	case err != nil:
		return fmt.Errorf("recalling version %d of %s: %w", number, ref, err)
	}
	d.log.Warn("the retirement of a version was lost", "secret", ref, "version", number, "now", did)
	return tx.AddAudit(ctx, rotation.AuditEvent{At: now(), Tenant: ref.Tenant, Actor: asked.By, Action: "store.recall", Path: ref.Name,
		Outcome: "ok", Detail: map[string]string{"version": strconv.Itoa(number), "did": did}})
}

// watchHistory looks again while the node runs: a database that fails over may
// lose commits under a living process.
func (d *Daemon) watchHistory(ctx context.Context) {
	t := time.NewTicker(historyEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := d.history(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("comparing the store with the audit log failed", "error", err)
		}
	}
}
