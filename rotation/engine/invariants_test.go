package engine_test

import (
	"context"
	"slices"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// committing looks at what a transaction is about to change.
func (w *world) committing(tx *memTx) {
	for _, id := range tx.own.secrets.order {
		before, _ := w.store.state.secrets.get(id)
		w.secretChanges(tx, before, tx.own.secrets.rows[id])
	}
	for _, id := range tx.own.rotations.order {
		before, _ := w.store.state.rotations.get(id)
		w.rotationChanges(tx, before, tx.own.rotations.rows[id])
	}
	for _, id := range tx.own.retirements.order {
		before, _ := w.store.state.retirements.get(id)
		w.retirementChanges(tx, before, tx.own.retirements.rows[id])
	}
	for _, k := range tx.own.versions.order {
		before, _ := w.store.state.versions.get(k)
		v := tx.own.versions.rows[k]
		if before.Stage != v.Stage || (before.Handle == nil) != (v.Handle == nil) || (before.Sealed == nil) != (v.Sealed == nil) {
			w.logf(tx.ctx, "  version %d: %s → %s, handle %v, sealed %v", v.Number, before.Stage, v.Stage, v.Handle["id"], v.Sealed != nil)
		}
	}
}

func (w *world) secretChanges(tx *memTx, before, s rotation.Secret) {
	switch {
	case s.Generation < before.Generation:
		w.violated("generation falls from %d to %d", before.Generation, s.Generation)
	case s.Current != before.Current && s.Generation != before.Generation+1, s.Current == before.Current && s.Generation != before.Generation:
		w.violated("current %d → %d with generation %d → %d", before.Current, s.Current, before.Generation, s.Generation)
	}
	if s.Current == before.Current {
		return
	}
	w.counts["published"]++
	w.logf(tx.ctx, "  current %d → %d, generation %d", before.Current, s.Current, s.Generation)
	v, ok := look(&tx.own.versions, &w.store.state.versions, versionKey{s.ID, s.Current})
	tag := v.Tag
	if v.Foreign() {
		tag = "theirs"
	}
	c := w.credentialOf(tag)
	if !ok || c == nil || !c.revokedAt.IsZero() {
		w.violated("version %d is published and is not alive", s.Current)
	}
}

func (w *world) rotationChanges(tx *memTx, before, r rotation.Rotation) {
	if before.State != r.State {
		w.logf(tx.ctx, "  %s (%s): %s → %s, from %d to %d %v %s", w.short("r", r.ID), r.Trigger, before.State, r.State, r.From, r.To, r.Compromised, w.shorten(r.Error))
		w.counts["rotation "+string(r.State)]++
	}
	if before.State.Ended() && before.State != r.State {
		w.violated("%s has ended as %s and becomes %s", w.short("r", r.ID), before.State, r.State)
	}
	if r.State == rotation.Done && before.State != rotation.Done {
		w.done(tx, r)
	}
	if before.State == rotation.Overlap && r.State == rotation.Retiring {
		w.overlapEnds(tx, before)
	}
}

// done: nothing is done without a proof, or a plan that asks for none.
func (w *world) done(tx *memTx, r rotation.Rotation) {
	for _, n := range r.Retires() {
		t, ok := tx.retirementOf(r.SecretID, n)
		if !ok || !(t.State == rotation.ProvenDead || t.NeverMade || t.Confirm.None && !t.AcknowledgedAt.IsZero()) {
			w.violated("%s is done and version %d is %q", w.short("r", r.ID), n, t.State)
		}
	}
}

// overlapEnds: the overlap is given in full, and held for consumers, unless the
// version that it is for is being revoked for another reason.
func (w *world) overlapEnds(tx *memTx, r rotation.Rotation) {
	for _, id := range w.store.state.retirements.order {
		if t := w.store.state.retirements.rows[id]; t.Version == r.From {
			return
		}
	}
	now, ack := time.Now(), r.Plan.Acknowledgement
	if now.Before(r.PublishedAt.Add(r.Plan.Overlap)) {
		w.violated("the overlap of %s is cut short", w.short("r", r.ID))
	}
	missing := 0
	ds, _ := tx.Deliveries(tx.ctx, r.SecretID, w.secret().Generation)
	for _, d := range ds {
		if slices.Contains(w.secret().Definition.Consumers, d.Consumer) && !d.Satisfies(ack.Require) {
			missing++
		}
	}
	held := now.Before(r.PublishedAt.Add(r.Plan.MaxOverlap)) && (ack.Hold || now.Before(r.PublishedAt.Add(ack.Timeout)))
	if missing > 0 && held {
		w.violated("%s does not wait for %d acknowledgements", w.short("r", r.ID), missing)
	}
}

func (w *world) retirementChanges(tx *memTx, before, t rotation.Retirement) {
	if before.State != t.State || before.NeverMade != t.NeverMade || before.PurgedAt != t.PurgedAt || before.Cause != t.Cause {
		w.logf(tx.ctx, "  %s (version %d, %s): %s → %s never_made=%v purged=%v %s", w.short("t", t.ID), t.Version, t.Cause, before.State, t.State, t.NeverMade, !t.PurgedAt.IsZero(), w.shorten(t.Error))
		w.counts["retirement "+string(t.State)]++
	}
	v, _ := look(&tx.own.versions, &w.store.state.versions, versionKey{t.SecretID, t.Version})
	c := w.credentialOf(v.Tag)
	if t.State == rotation.ProvenDead && before.State != rotation.ProvenDead {
		if c == nil || !w.deadEverywhere(c) {
			w.violated("version %d is proven dead and is not", t.Version)
		}
		if t.Rejections < t.Confirm.Rejections || t.LastAt.Sub(t.FirstAt) < t.Confirm.Window || t.Control == rotation.ControlNone {
			w.violated("version %d is proven by %d rejections over %s beside %q", t.Version, t.Rejections, t.LastAt.Sub(t.FirstAt), t.Control)
		}
	}
	if !t.PurgedAt.IsZero() && v.Sealed != nil {
		w.violated("version %d is kept after its retirement is over", t.Version)
	}
}

// committed looks at the state after a transaction.
func (w *world) committed() {
	occupying, current := 0, 0
	for _, id := range w.store.state.rotations.order {
		if w.store.state.rotations.rows[id].State.Occupies() {
			occupying++
		}
	}
	s := w.secret()
	for _, k := range w.store.state.versions.order {
		v := w.store.state.versions.rows[k]
		if v.Stage == rotation.StageCurrent {
			current = v.Number
		}
	}
	if occupying > 1 {
		w.violated("%d rotations occupy the secret", occupying)
	}
	if current != s.Current {
		w.violated("version %d has the stage current, and %d is the current one", current, s.Current)
	}
	w.currentWorks(s)
}

// currentWorks: what applications are given works, unless an emergency turns it off, or a
// rotation in place is at it.
func (w *world) currentWorks(s rotation.Secret) {
	v, ok := w.version(s.Current)
	c := w.credentialOf(v.Tag)
	if !ok || c == nil || c.revokedAt.IsZero() {
		return
	}
	if t, retiring := w.retirementOf(s.Current); retiring && t.Cause == rotation.CauseEmergency {
		return
	}
	for _, id := range w.store.state.rotations.order {
		r := w.store.state.rotations.rows[id]
		mends := r.EndsOld() || r.PuttingBack() || r.Emergency() && r.State.Occupies() || r.InPlace != nil && (r.RollBackBy != "" || r.InPlace.Lost)
		if mends && (!r.State.Ended() || r.InPlace != nil && r.InPlace.Lost) {
			return
		}
	}
	w.violated("the current version %d is dead, and nothing is at it", s.Current)
}

// revoking is called before an issuer is asked to revoke.
func (w *world) revoking(issuerName, id string) {
	var c *credential
	for _, have := range w.issuers[issuerName].made {
		if have.id == id {
			c = have
		}
	}
	if c == nil {
		w.violated("%s is to revoke %q, which it never made", issuerName, id)
		return
	}
	v, ok := w.versionOfTag(c.tag)
	t, retiring := w.retirementOf(v.Number)
	// Of mints whose answers were lost, at an issuer that knows no tags, nobody can tell which is which.
	unheard := issuerName == "listed" && retiring && v.Handle == nil
	if !ok || !retiring || t.RevokeBegunAt.IsZero() && !unheard {
		w.violated("%s is revoked without a version that is being retired", id)
	}
	if w.secret().Current == v.Number && t.Cause != rotation.CauseEmergency {
		w.violated("the current version %d is revoked as %s", v.Number, t.Cause)
	}
	if held := w.vaultVersion(); held == v.Number && t.Cause != rotation.CauseEmergency && !w.declared {
		w.violated("version %d is revoked as %s, and the vault holds it", v.Number, t.Cause)
	}
}

// vaultVersion is the number of the version whose value the vault serves.
func (w *world) vaultVersion() int { return w.holds(w.vault) }

// holds is the same of any vault; -1: none of ours, 0: nothing.
func (w *world) holds(v *vault) int {
	if v.current == 0 {
		return 0
	}
	text := v.values[v.current-1].Reveal()[valueField]
	for _, i := range w.issuers {
		for _, c := range i.made {
			if v, ok := w.versionOfTag(c.tag); ok && c.value == text {
				return v.Number
			}
		}
	}
	return -1
}

// ending checks what must hold when all faults have ceased and everything is over.
func (w *world) ending() {
	s := w.secret()
	for _, id := range w.store.state.rotations.order {
		w.rotationEnded(w.store.state.rotations.rows[id])
	}
	for _, k := range w.store.state.versions.order {
		v := w.store.state.versions.rows[k]
		if v.Number == s.Current {
			continue
		}
		w.versionEnded(v)
	}
	if held := w.vaultVersion(); held != s.Current && !w.notReplaced(held) {
		w.violated("version %d is current and the vault holds %d", s.Current, held)
	}
	for _, id := range w.store.state.placements.order {
		if p := w.store.state.placements.rows[id]; p.Revision > 0 {
			w.placementEnded(s, p)
		}
	}
	w.credentialsEnded(s)
	for _, name := range s.Definition.Consumers {
		w.consumerEnded(s, name)
	}
	for _, id := range w.store.state.incidents.order {
		w.incidentEnded(w.store.state.incidents.rows[id])
	}
	for _, id := range w.store.state.retirements.order {
		if t := w.store.state.retirements.rows[id]; !t.ResurrectedAt.IsZero() {
			if ids, _ := (&memTx{s: w.store, readOnly: true}).IncidentsOfVersion(context.Background(), t.SecretID, t.Version); len(ids) == 0 {
				w.violated("version %d was resurrected and is in no incident", t.Version)
			}
		}
	}
}

// incidentEnded: nothing of an open incident is left undeclared, and what is proven of it
// is noted.
func (w *world) incidentEnded(i rotation.Incident) {
	if i.State != rotation.IncidentOpen {
		return
	}
	tx := &memTx{s: w.store, readOnly: true}
	n, err := tx.Tally(context.Background(), i.ID)
	if err != nil || n.Pending > 0 || n.Failed > 0 {
		w.violated("%s has %d secrets that were not declared, %d that failed: %v", w.short("i", i.ID), n.Pending, n.Failed, err)
	}
	if n.AllContained() != !i.ContainedAt.IsZero() || n.AllProven() != !i.ProvenAt.IsZero() {
		w.violated("%s has %d versions, of which %d are contained and %d proven, and is noted as contained at %s and proven at %s", w.short("i", i.ID), n.Versions, n.Contained, n.Proven, i.ContainedAt, i.ProvenAt)
	}
}

// placementEnded: a mirror holds the current version, or its drift is known and the
// secret says that it is only to be told of; and it keeps nothing that is proven dead.
func (w *world) placementEnded(s rotation.Secret, p rotation.Placement) {
	_, dying := w.retirementOf(s.Current)
	if p.Role == rotation.RoleMirror && !dying {
		held := w.holds(w.mirror)
		told := p.Drift != nil && s.Definition.OnDrift != rotation.DriftRestore
		if held != s.Current && !told {
			w.violated("version %d is current and the mirror holds %d; it is %s, wants %d, drift %+v: %s", s.Current, held, p.State(), p.Want, p.Drift, p.Error)
		}
		if told && held == s.Current && p.Drift.Kind != rotation.DriftDestroyed {
			w.violated("the mirror is in step, and drift is told of: %+v", p.Drift)
		}
	}
	if p.Intent != nil {
		w.violated("the placement in %s keeps an intent", p.Backend)
	}
	for _, h := range p.Held {
		t, ok := w.retirementOf(h.Version)
		if ok && h.ID != p.HaveID && (p.Drift == nil || h.ID != p.Drift.ID) && h.Version != s.Current && t.Fate() != rotation.FateNone && (t.Fate() != rotation.FateRetire || !h.Retired) {
			w.violated("%s keeps version %d as %s, which is %s", p.Backend, h.Version, h.ID, t.State)
		}
	}
}

// notReplaced: the vault got a compromised version whose answer nobody heard, and
// the emergency that was to replace it failed, with no probe to tell that the current
// one works: that is for a person (see "Known limits" in docs/design.md).
func (w *world) notReplaced(held int) bool {
	for _, id := range w.store.state.rotations.order {
		r := w.store.state.rotations.rows[id]
		if r.Emergency() && r.State == rotation.Failed && slices.Contains(r.Compromised, held) {
			return true
		}
	}
	return false
}

func (w *world) rotationEnded(r rotation.Rotation) {
	if r.State.Ended() {
		return
	}
	if r.State == rotation.Retiring {
		for _, n := range r.Retires() {
			if t, _ := w.retirementOf(n); t.State == rotation.Unprovable || w.hopeless(t) {
				return // it can never be done
			}
		}
	}
	w.violated("%s (%s) is %s for ever, waiting for %q until %s: %s", w.short("r", r.ID), r.Trigger, r.State, r.WaitingFor, r.NextAt, r.Error)
}

func (w *world) versionEnded(v rotation.Version) {
	t, ok := w.retirementOf(v.Number)
	if ok && w.hopeless(t) {
		return
	}
	if v.Stage != rotation.StageRetired {
		w.violated("version %d stays %s; its retirement: %q", v.Number, v.Stage, t.State)
	}
	if v.Sealed != nil {
		w.violated("version %d is still kept; its retirement: %q", v.Number, t.State)
	}
	if ok && t.PurgedAt.IsZero() {
		w.violated("the retirement of version %d is not over: %s, %s until %s", v.Number, t.State, t.Error, t.NextAt)
	}
}

// credentialsEnded: what is alive is current, or reported.
func (w *world) credentialsEnded(s rotation.Secret) {
	for _, i := range w.issuers {
		for _, c := range i.made {
			v, ok := w.versionOfTag(c.tag)
			if !c.revokedAt.IsZero() {
				t, _ := w.retirementOf(v.Number)
				if ok && v.Number == s.Current && t.Cause != rotation.CauseEmergency {
					w.violated("the current version %d is dead", v.Number)
				}
				continue
			}
			t, retiring := w.retirementOf(v.Number)
			reported := retiring && (t.State == rotation.Unprovable || t.NeverMade && w.tooLate(c, v, t))
			if !ok || v.Number != s.Current && !reported {
				w.violated("%s (version %d, %s, retirement %q never_made=%v) is alive", c.id, v.Number, v.Stage, t.State, t.NeverMade)
			}
		}
	}
}

func (w *world) consumerEnded(s rotation.Secret, name string) {
	var newest rotation.Delivery
	told := int64(0) // the newest generation that it is told anything of
	for _, id := range w.store.state.deliveries.order {
		d := w.store.state.deliveries.rows[id]
		if d.Consumer != name {
			continue
		}
		if d.State == rotation.DeliveryPending && !w.inboxes[name].collects {
			w.violated("the delivery of %s of version %d, generation %d, to %s waits at the end", d.Event, d.Version, d.Generation, name)
		}
		told = max(told, d.Generation)
		if d.Event.MakesCurrent() && d.Generation >= newest.Generation {
			newest = d
		}
	}
	switch newest.State {
	case rotation.DeliveryDead:
	case rotation.DeliveryReceived, rotation.DeliveryApplied:
		got := w.inboxes[name].got
		acks, _ := (&memTx{s: w.store, readOnly: true}).Acks(context.Background(), newest.ID)
		if len(acks) == 0 && !slices.Contains(got, newest.Generation) {
			w.violated("generation %d counts as received by %s, which has %v", newest.Generation, name, got)
		}
	case "":
	default:
		if newest.State == rotation.DeliverySuperseded && told > newest.Generation {
			return // it was no consumer of what made another version current, and is one again
		}
		if w.inboxes[name].collects && newest.State == rotation.DeliveryPending {
			return // nobody has collected it
		}
		w.violated("the delivery of generation %d to %s is %s at the end", newest.Generation, name, newest.State)
	}
	_ = s
}

// hopeless: it is refused, and no credential works at its probe that could be
// tried beside it. It is reported as unconfirmed, and cannot be proven.
func (w *world) hopeless(t rotation.Retirement) bool {
	v, _ := w.version(t.Version)
	current, _ := w.version(w.secret().Current)
	if _, ok := w.probe.(canaried); ok {
		return false
	}
	_, dying := w.retirementOf(current.Number)
	return t.State == rotation.Unconfirmed && !t.ContainedAt.IsZero() && (current.Probe != v.Probe || dying)
}

// awaitsHope tells whether anything that the rotation waits for can still come.
func (w *world) awaitsHope(r rotation.Rotation) bool {
	for _, n := range r.Retires() {
		if t, ok := w.retirementOf(n); ok && w.hopeless(t) {
			return false
		}
	}
	return true
}

// tooLate tells whether a credential was made by a request that nobody could
// expect any more, five minutes after all that may have sent it was over, and
// whose answer nobody heard: only a sweep of the issuer finds it.
func (w *world) tooLate(c *credential, v rotation.Version, t rotation.Retirement) bool {
	last := v.CreatedAt
	if t.RequestedAt.After(last) {
		last = t.RequestedAt
	}
	if !c.createdAt.After(last.Add(5 * time.Minute)) {
		return false
	}
	w.counts["made too late"]++
	return true
}
