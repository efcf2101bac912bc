package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
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
// restored from a backup, or lost its last commits. (Of a snapshot that was put back
// the number is known; see told.) Then everything is frozen
// until a person has looked, and what was revoked in the lost time is revoked once
// more, so that nothing comes back to life. The list of that is committed with the
// freeze, so that a crash in between loses none of it.
//
// Where there are many nodes, the log of each has only some of the numbers. The first to
// find that some are missing keeps which ones (store.Loss); every other node then deals
// with those that its own log tells of, when it looks next.
//
// It cannot tell without a log: one that was moved away, or that is of a node that does
// not run, or of segments that were removed. Nor can it if, within the ten seconds between two looks, a database that failed
// over was given more events than it has lost.
func (d *Daemon) history(ctx context.Context) error {
	var known toldSeq
	err := d.db.View(ctx, func(tx *store.Tx) (err error) {
		known, err = told(ctx, tx)
		return err
	})
	if err == nil {
		err = d.lostElsewhere(ctx)
	}
	newest := d.audit.Newest()
	if err != nil || known.seq >= newest && !known.restored {
		return errors.Join(err, d.recallAll(ctx))
	}
	lost, err := audit.After(filepath.Join(d.opts.Config.DataDir, auditFile), known.seq)
	if err != nil || len(lost) == 0 && !known.restored {
		return err
	}
	err = d.db.UpdateLatest(ctx, func(tx *store.Tx) error {
		switch now, err := told(ctx, tx); {
		case err != nil || now != known:
			return err // it was read from where it lagged behind
		case len(lost) == 0:
			return errors.Join(d.othersLost(ctx, tx, known, newest), d.noteReplaced(ctx, tx, nil))
		}
		return errors.Join(d.othersLost(ctx, tx, known, newest), d.forgotten(ctx, tx, lost, newest))
	})
	if err != nil {
		return err
	}
	return d.recallAll(ctx)
}

// othersLost keeps which events are lost, for the nodes whose logs may tell of them. After
// a restore all numbers up to the newest that was given then are in question.
func (d *Daemon) othersLost(ctx context.Context, tx *store.Tx, known toldSeq, newest int64) error {
	upTo := newest
	if known.restored {
		upTo = max(newest, known.upTo)
	}
	if upTo <= known.seq {
		return nil
	}
	return tx.AddAuditLoss(ctx, store.Loss{After: known.seq, UpTo: upTo, At: now(), Told: []string{d.node}})
}

// lostElsewhere deals with what another node has found to be lost, as far as it is in the
// log of this one.
func (d *Daemon) lostElsewhere(ctx context.Context) error {
	lost, news, err := d.lostHere(ctx)
	if err != nil || !news {
		return err
	}
	return d.db.UpdateLatest(ctx, func(tx *store.Tx) error {
		if len(lost) > 0 {
			if err := d.forgotten(ctx, tx, lost, 0); err != nil {
				return err
			}
		}
		return tx.ToldAuditLosses(ctx, d.node)
	})
}

// lostHere are the lost events that this node's log tells of, and that it has not dealt with.
func (d *Daemon) lostHere(ctx context.Context) (lost []audit.Entry, news bool, err error) {
	var all []store.Loss
	err = d.db.View(ctx, func(tx *store.Tx) (err error) {
		all, err = tx.AuditLosses(ctx)
		return err
	})
	for _, l := range all {
		if err != nil || slices.Contains(l.Told, d.node) {
			continue
		}
		news = true
		var found []audit.Entry
		found, err = audit.After(filepath.Join(d.opts.Config.DataDir, auditFile), l.After)
		for _, e := range found {
			if e.Seq <= l.UpTo {
				lost = append(lost, e)
			}
		}
	}
	return lost, news, err
}

// toldSeq is the number of the newest event that the store knows to be told.
type toldSeq struct {
	seq      int64
	restored bool  // it is that of a snapshot, put back and not compared with the log yet
	upTo     int64 // of a restore: what was given after it is higher
}

// told reads it. After a restore that is not the number given last: whatever was
// committed since has taken numbers which lost events have in the log.
func told(ctx context.Context, tx *store.Tx) (t toldSeq, err error) {
	switch mark, err := tx.Restored(ctx); {
	case err == nil && !mark.Recalled:
		return toldSeq{mark.AuditSeq, true, mark.Skipped}, nil
	case err != nil && !errors.Is(err, backends.ErrNotFound):
		return t, err
	}
	t.seq, err = tx.AuditSeq(ctx)
	return t, err
}

// forgotten commits that events were lost: a freeze, and what is to be recalled.
func (d *Daemon) forgotten(ctx context.Context, tx *store.Tx, lost []audit.Entry, newest int64) error {
	if err := tx.SkipAudit(ctx, newest); err != nil {
		return err
	}
	reason := fmt.Sprintf("the store has lost %d events from %s to %s that the audit log tells of: it was restored from a backup, or lost its last commits. "+
		"Look at each secret with `keybroker secret repair NAME --dry-run`, at the issuers for what was minted in that time, then `keybroker unfreeze`",
		len(lost), lost[0].Event.At.Format(time.RFC3339), lost[len(lost)-1].Event.At.Format(time.RFC3339))
	d.log.Error(reason)
	for _, e := range lost {
		d.log.Warn("lost by the store", "time", e.Event.At, "action", e.Event.Action, "secret", e.Event.Path, "tenant", e.Event.Tenant, "detail", e.Event.Detail)
	}
	if _, _, err := d.engine.Freeze(ctx, tx, engine.Asked{By: "keybroker", Reason: reason}); err != nil && !errors.Is(err, backends.ErrConflict) {
		return err
	}
	if err := d.regain(ctx, tx, lost); err != nil {
		return err
	}
	if err := d.noteReplaced(ctx, tx, lost); err != nil {
		return err
	}
	if err := errors.Join(revokeTokens(ctx, tx, lost), keepOutAgain(ctx, tx, lost)); err != nil {
		return err
	}
	known, err := tx.Recalls(ctx)
	if err != nil {
		return err
	}
	return tx.SetRecalls(ctx, revokedIn(lost, known))
}

// revokeTokens revokes again what was revoked in the lost time.
func revokeTokens(ctx context.Context, tx *store.Tx, lost []audit.Entry) error {
	for _, e := range lost {
		if e.Event.Action != broker.TokenRevoked {
			continue
		}
		err := tx.RevokeToken(ctx, e.Event.Detail["token"], e.Event.At)
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return err
		}
	}
	return nil
}

// keepOutAgain puts in quarantine again who was put there in the lost time, and was not let in
// again. Who was only let in again then stays in quarantine until somebody lifts it once more.
func keepOutAgain(ctx context.Context, tx *store.Tx, lost []audit.Entry) error {
	type name struct{ kind, name string }
	begun := map[name][]rotation.Quarantine{}
	for _, e := range lost {
		d := e.Event.Detail
		of := name{d["kind"], d["name"]}
		switch e.Event.Action {
		case engine.QuarantineBegun:
			begun[of] = append(begun[of], rotation.Quarantine{ID: uuid.NewString(), Kind: rotation.Kept(of.kind), Name: of.name, Tenant: e.Event.Tenant, Role: d["role"],
				IncidentID: d["incident"], Reason: d["reason"], By: e.Event.Actor, At: e.Event.At})
		case engine.QuarantineLifted:
			delete(begun, of)
		}
	}
	for _, all := range begun {
		for _, q := range all {
			if _, _, err := tx.AddQuarantine(ctx, q); err != nil {
				return err
			}
			if q.Kind == rotation.KeptConsumer {
				if err := tx.HoldDeliveries(ctx, q.Name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// regain raises generations and version numbers above all that were given in the
// lost time: whoever has seen one never sees it again for something else.
func (d *Daemon) regain(ctx context.Context, tx *store.Tx, lost []audit.Entry) error {
	type highest struct {
		version    int
		generation int64
	}
	seen := map[backends.Ref]highest{}
	for _, e := range lost {
		version, _ := strconv.Atoi(e.Event.Detail["version"]) // what has none counts for nothing
		generation, _ := strconv.ParseInt(e.Event.Detail["generation"], 10, 64)
		if strings.HasPrefix(e.Event.Action, "rotation.") && (version > 0 || generation > 0) {
			ref := backends.Ref{Tenant: e.Event.Tenant, Name: e.Event.Path}
			seen[ref] = highest{max(seen[ref].version, version), max(seen[ref].generation, generation)}
		}
	}
	for ref, h := range seen {
		s, err := tx.SecretByRef(ctx, ref)
		if errors.Is(err, backends.ErrNotFound) {
			continue
		}
		if err == nil && d.aftermath.settled() {
			err = d.engine.Regain(ctx, tx, s.ID, h.version, h.generation)
		} else if err == nil { // what is announced is known only when its vault was asked
			_, err = d.engine.Raise(ctx, tx, s.ID, h.version, h.generation)
		}
		if err != nil {
			return fmt.Errorf("regaining the numbers of %s: %w", ref, err)
		}
	}
	return nil
}

// revokedIn adds to the known ones, once each, the versions that were being revoked:
// what was only to be revoked later comes to that by itself.
func revokedIn(lost []audit.Entry, known []store.Recall) []store.Recall {
	out := slices.Clone(known)
	for _, e := range lost {
		d := e.Event.Detail
		number, err := strconv.Atoi(d["version"])
		action, ok := strings.CutPrefix(e.Event.Action, "retirement.")
		asked := action == "request" && (d["cause"] == string(rotation.CauseEmergency) || d["cause"] == string(rotation.CauseRevoked))
		if !ok || err != nil || !asked && action != "revoke" && action != "contain" && action != "prove" {
			continue
		}
		r := store.Recall{Ref: backends.Ref{Tenant: e.Event.Tenant, Name: e.Event.Path}, Version: number}
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// recallAll recalls what the store has on its list, each in a transaction of its
// own: one that cannot be recalled keeps none of the others.
func (d *Daemon) recallAll(ctx context.Context) error {
	var list []store.Recall
	err := d.db.View(ctx, func(tx *store.Tx) (err error) {
		list, err = tx.Recalls(ctx)
		return err
	})
	if err != nil || len(list) == 0 {
		return err
	}
	var left []store.Recall
	for _, r := range list {
		err := d.db.UpdateLatest(ctx, func(tx *store.Tx) error { return d.recall(ctx, tx, r) })
		switch {
		case errors.Is(err, backends.ErrNotFound):
			d.log.Error("a version that the store does not know was being revoked: look at its issuer by hand", "secret", r.Ref, "version", r.Version)
		case errors.Is(err, backends.ErrConflict) || backends.Retryable(err):
			d.log.Error("a version that was being revoked is not revoked again yet; it is tried again", "secret", r.Ref, "version", r.Version, "error", err)
			left = append(left, r)
		case err != nil:
			d.log.Error("a version that was being revoked cannot be revoked again: look at it by hand", "secret", r.Ref, "version", r.Version, "error", err)
		}
	}
	return d.db.UpdateLatest(ctx, func(tx *store.Tx) error { return tx.SetRecalls(ctx, left) })
}

func (d *Daemon) recall(ctx context.Context, tx *store.Tx, r store.Recall) error {
	s, err := tx.SecretByRef(ctx, r.Ref)
	if err != nil {
		return err
	}
	did, err := d.engine.Recall(ctx, tx, s.ID, r.Version, engine.Asked{By: "keybroker", Reason: "the store has lost its retirement"})
	if err != nil {
		return err
	}
	d.log.Warn("the retirement of a version was lost", "secret", r.Ref, "version", r.Version, "now", did)
	return tx.AddAudit(ctx, rotation.AuditEvent{At: now(), Tenant: r.Ref.Tenant, Actor: "keybroker", Action: "store.recall", Path: r.Ref.Name,
		Outcome: "ok", Detail: map[string]string{"version": strconv.Itoa(r.Version), "did": did}})
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
		if err := d.followAftermath(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("comparing the restored store with the vaults failed", "error", err)
		}
	}
}
