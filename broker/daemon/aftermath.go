package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// aftermath is what a snapshot that was put back leaves to be found out (rule 21).
// The mark that the restore left in the store is worked off before anything is done
// or served: everything is frozen, also what had begun; all numbers are raised above
// what they may have come to since; whatever was to be delivered is dropped; a new key
// seals, since the snapshot's may have been replaced for a reason; what the audit log
// tells of is recalled (see history); then every vault is asked what it holds (see
// compareAll). A secret that is out of step is given to nobody as long as it is: what
// the store has of it may have been revoked. A person ends the freeze; the mark goes
// when nothing is out of step any more.
type aftermath struct {
	mu      sync.Mutex
	mark    *store.Restored // nil: nothing was restored, or all is settled
	inDoubt map[backends.Ref]int
}

// settled tells that there is nothing to find out.
func (a *aftermath) settled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mark == nil
}

// doubts tells whether a version may have been replaced and revoked in the time that
// the store has lost.
func (a *aftermath) doubts(ref backends.Ref, version int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	upTo, ok := a.inDoubt[ref]
	return ok && version <= upTo
}

// put takes what the store now says into use.
func (a *aftermath) put(mark *store.Restored) {
	doubt := map[backends.Ref]int{}
	if mark != nil {
		for _, o := range mark.OutOfStep {
			if o.Kind != store.Missing { // the broker's sealed copy is as good as it was
				doubt[o.Ref] = max(doubt[o.Ref], o.Version)
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mark, a.inDoubt = mark, doubt
}

// Numbers are raised by restoreMargin and one for each second since the snapshot.
// A rotation takes a mint, tries of the new key and a guarded write, so that no secret
// keeps up one a second for long; bursts, and a clock that was set, are in the margin.
// Where it is not enough, the audit log and the notes in the vaults say so.
const restoreMargin = 1000

// auditMargin is how many events there are for each number of a version, by far: those
// of other nodes are in logs that this one does not see.
const auditMargin = 100

func raiseBy(r store.Restored) int64 {
	return restoreMargin + max(0, int64(r.RestoredAt.Sub(r.TakenAt)/time.Second))
}

// beginAftermath takes up the mark of a restore, before anything else looks at the
// store. What it does is one commit, so that a crash repeats or keeps all of it.
func (d *Daemon) beginAftermath(ctx context.Context) error {
	var mark store.Restored
	err := d.db.View(ctx, func(tx *store.Tx) (err error) {
		mark, err = tx.Restored(ctx)
		return err
	})
	if errors.Is(err, backends.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	d.engine.Hold()
	if !mark.Begun {
		d.log.Error("the store was restored from a snapshot: everything is frozen until a person has looked", "snapshot", mark.Snapshot, "taken_at", mark.TakenAt, "restored_at", mark.RestoredAt)
		if err := d.db.UpdateLatest(ctx, func(tx *store.Tx) error { return d.holdEverything(ctx, tx, &mark) }); err != nil {
			return err
		}
	}
	if mark.SealKey == "" {
		if err := d.replaceSealKey(ctx, &mark); err != nil {
			return err
		}
	}
	d.aftermath.put(&mark)
	return nil
}

func (d *Daemon) holdEverything(ctx context.Context, tx *store.Tx, mark *store.Restored) error {
	switch before, err := tx.Freeze(ctx); {
	case errors.Is(err, backends.ErrNotFound):
		mark.Frozen = ""
	case err != nil:
		return err
	case !before.Restored: // else mark has what was before the earlier restore
		mark.Frozen = fmt.Sprintf("by %s: %s", before.By, before.Reason)
	}
	mark.Begun = true
	mark.Skipped = max(d.audit.Newest(), mark.AuditSeq) + auditMargin*raiseBy(*mark)
	f := rotation.Freeze{By: "keybroker", Reason: restoredReason(*mark), At: now(), Restored: true}
	for _, step := range []func() error{
		func() error { return tx.SetFreeze(ctx, &f) },
		func() error { return tx.DropDeliveries(ctx) },
		func() error { return tx.RaiseNumbers(ctx, raiseBy(*mark)) },
		func() error { return tx.SkipAudit(ctx, mark.Skipped) }, // else what follows takes the numbers of lost events
		func() error { return tx.SetRestored(ctx, mark) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return tx.AddAudit(ctx, rotation.AuditEvent{At: now(), Actor: "keybroker", Action: "store.restore", Path: "sys/storage", Outcome: "ok",
		Detail: map[string]string{"snapshot": mark.Snapshot, "taken_at": stamp(mark.TakenAt), "restored_at": stamp(mark.RestoredAt)}})
}

// replaceSealKey makes a key that seals from now on: the one that comes back with the
// snapshot may have been replaced since, because somebody has it. Where no seal can
// wrap one now, a person is told, and the next start tries again.
func (d *Daemon) replaceSealKey(ctx context.Context, mark *store.Restored) error {
	made, err := d.seals.rotate(ctx, "keybroker", "the store was restored from snapshot "+mark.Snapshot)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		d.log.Error("no new key could be made to seal by after the restore: run `keybroker seal rotate`", "error", err)
		return nil
	}
	mark.SealKey = made.Key
	return d.db.UpdateLatest(ctx, func(tx *store.Tx) error {
		f, err := tx.Freeze(ctx)
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		if err == nil && f.Restored {
			f.Reason = restoredReason(*mark)
			if err := tx.SetFreeze(ctx, &f); err != nil {
				return err
			}
		}
		return tx.SetRestored(ctx, mark)
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// replacedIn lists the secrets of which the lost events say that another version than
// the store's current one was made current last.
func replacedIn(ctx context.Context, tx *store.Tx, lost []audit.Entry) ([]store.OutOfStep, error) {
	last := map[backends.Ref]rotation.AuditEvent{}
	for _, e := range lost {
		if a := e.Event.Action; e.Event.Outcome == "ok" && (a == "rotation.publish" || a == "rotation.rollback" && e.Event.Detail["generation"] != "") {
			last[backends.Ref{Tenant: e.Event.Tenant, Name: e.Event.Path}] = e.Event
		}
	}
	var out []store.OutOfStep
	for ref, ev := range last {
		s, err := tx.SecretByRef(ctx, ref)
		if errors.Is(err, backends.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if version := ev.Detail["version"]; version != fmt.Sprint(s.Current) {
			out = append(out, store.OutOfStep{Ref: ref, Version: s.Current, Kind: store.Replaced,
				Detail: fmt.Sprintf("version %s was made current at %s, as the audit log says; the store has lost it and takes version %d for current", version, stamp(ev.At), s.Current)})
		}
	}
	return out, nil
}

// noteReplaced keeps what the lost events say of what is current, after a restore:
// the log is all there is to tell it where the vault was lost with the store. What an
// earlier restore has left out of step stays until it is compared.
func (d *Daemon) noteReplaced(ctx context.Context, tx *store.Tx, lost []audit.Entry) error {
	mark, err := tx.Restored(ctx)
	if errors.Is(err, backends.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	replaced, err := replacedIn(ctx, tx, lost)
	if err != nil {
		return err
	}
	all := map[backends.Ref]store.OutOfStep{}
	for _, o := range slices.Concat(mark.OutOfStep, replaced) {
		all[o.Ref] = o
	}
	mark.OutOfStep, mark.Recalled = inOrder(all), true
	return tx.SetRestored(ctx, &mark)
}

func inOrder(all map[backends.Ref]store.OutOfStep) []store.OutOfStep {
	return slices.SortedFunc(maps.Values(all), func(a, b store.OutOfStep) int { return strings.Compare(a.Ref.String(), b.Ref.String()) })
}

// reasonNames is how many secrets the reason of the freeze names.
const reasonNames = 5

// restoredReason is what whoever meets the freeze reads.
func restoredReason(r store.Restored) string {
	var text strings.Builder
	fmt.Fprintf(&text, "the store was restored at %s from snapshot %s of %s: what came after that is lost", stamp(r.RestoredAt), r.Snapshot, stamp(r.TakenAt))
	if r.Since.Before(r.TakenAt) {
		fmt.Fprintf(&text, ", and of an earlier restore what came after %s may be", stamp(r.Since))
	}
	if r.SealKey == "" {
		text.WriteString("; the snapshot's key seals, which may have been replaced since then: `keybroker seal rotate`")
	} else {
		text.WriteString("; a new key seals, so make a new `keybroker seal escrow` copy if you keep one")
	}
	switch n := len(r.OutOfStep); {
	case n == 0 && r.Compared:
		text.WriteString("; every vault holds what the store says")
	case n > 0:
		var names []string
		for _, o := range r.OutOfStep[:min(n, reasonNames)] {
			names = append(names, fmt.Sprintf("%s (%s)", o.Ref, o.Kind))
		}
		fmt.Fprintf(&text, "; out of step: %s", strings.Join(names, ", "))
		if n > reasonNames {
			fmt.Fprintf(&text, " and %d more", n-reasonNames)
		}
	}
	if r.Frozen != "" {
		fmt.Fprintf(&text, ". At the snapshot it was frozen %s", r.Frozen)
	}
	text.WriteString(". Look at `keybroker storage status`, at the issuers for what was minted since, and at `keybroker token list` for what was revoked since; then `keybroker unfreeze`")
	return text.String()
}
