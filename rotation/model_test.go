package rotation_test

import (
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/rotation"
)

// credential is one version as the broker records it, and what the issuer knows.
type credential struct {
	stage  rotation.VersionStage
	handle bool // the broker knows how the issuer calls it
	live   bool // at the issuer
	made   bool // ever
	of     string
	asked  time.Time // when the issuer was asked for it
}

// work is an effect that was begun and whose result is not yet committed.
type work struct {
	effect   rotation.Effect
	turning  string // rotation, or empty
	dying    int    // version whose retirement it is for, or 0
	version  int
	revision int64
	expect   int // what the vault held, for a guarded write
}

// estate is one secret with all its rotations and retirements, a store that
// compares and swaps, an issuer and a vault: the least of an engine.
type estate struct {
	now         time.Time
	frozen      bool
	current     int
	generation  int64
	versions    []*credential // version n is versions[n-1]
	rotations   []*rotation.Rotation
	retirements map[int]*rotation.Retirement
	vault       int
	works       []work
	noProof     bool
}

func (e *estate) version(n int) *credential { return e.versions[n-1] }

func (e *estate) rotation(id string) *rotation.Rotation {
	i := slices.IndexFunc(e.rotations, func(r *rotation.Rotation) bool { return r.ID == id })
	return e.rotations[i]
}

func (e *estate) occupying() *rotation.Rotation {
	for _, r := range e.rotations {
		if r.State.Occupies() {
			return r
		}
	}
	return nil
}

func (e *estate) plan() rotation.Plan {
	p := plan()
	p.Confirm.None = e.noProof
	return p
}

func (e *estate) rotate(trigger rotation.Trigger) *rotation.Rotation {
	r := &rotation.Rotation{ID: fmt.Sprint("r", len(e.rotations)+1), Trigger: trigger, Plan: e.plan(), State: rotation.Queued,
		From: e.current, CreatedAt: e.now, StepSince: e.now, NextAt: e.now}
	e.rotations = append(e.rotations, r)
	return r
}

func (e *estate) retire(n int, cause rotation.Cause, of string, at time.Time) {
	if t := e.retirements[n]; t != nil {
		if cause == rotation.CauseEmergency {
			t.Escalate(at, e.now)
			t.RotationID = of
			t.Revision++
		}
		return
	}
	e.retirements[n] = &rotation.Retirement{ID: fmt.Sprint("t", n), Version: n, Cause: cause, RotationID: of, Confirm: e.plan().Confirm,
		HasProbe: !e.noProof, State: rotation.Requested, RequestedAt: e.now, DueAt: at, NextAt: at}
	if cause == rotation.CauseEmergency && at.After(e.now) {
		e.retirements[n].WaitingFor = rotation.WaitReplacement
	}
}

// discard retires what a rotation that ended was bringing.
func (e *estate) discard(n int, cause rotation.Cause) {
	if n > 0 && e.version(n).stage == rotation.StagePending {
		e.version(n).stage = rotation.StageRetired
		e.retire(n, cause, "", e.now)
	}
}

// declare starts an emergency for every version that may live.
func (e *estate) declare() {
	if r := e.occupying(); r != nil && r.Emergency() {
		return
	}
	var hit []int
	for i, v := range e.versions {
		t := e.retirements[i+1]
		if t != nil && t.MayLive() && v.handle || t == nil && v.stage != rotation.StageRetired && v.handle {
			hit = append(hit, i+1)
		}
	}
	if len(hit) == 0 {
		return
	}
	if r := e.occupying(); r != nil {
		r.Supersede(e.now)
		r.Revision++
		if !slices.Contains(hit, r.To) {
			e.discard(r.To, rotation.CauseOrphan)
		}
	}
	r := e.rotate(rotation.TriggerEmergency)
	r.Compromised = hit
	for _, n := range hit {
		if v := e.version(n); v.stage == rotation.StagePending {
			v.stage = rotation.StageRetired
		}
		e.retire(n, rotation.CauseEmergency, r.ID, e.now.Add(r.Plan.Emergency.ReplaceWithin))
	}
}

// revoke is what somebody asks for: never the current version, nor one that is
// being made current again, which the vault may serve by now.
func (e *estate) revoke(n int) {
	r := e.occupying()
	if n == e.current || e.version(n).stage != rotation.StagePrevious || r != nil && r.From == n && r.RollBackBy != "" {
		return
	}
	e.retire(n, rotation.CauseRevoked, "", e.now)
	if r != nil && r.State == rotation.Overlap && r.From == n {
		r.CutOverlap(e.now)
		r.Revision++
	}
}

func (e *estate) facts(r *rotation.Rotation) rotation.Facts {
	f := rotation.Facts{Frozen: e.frozen, NoProbe: e.noProof}
	for _, n := range r.Retires() {
		if t := e.retirements[n]; t != nil && r.State == rotation.Retiring {
			f.Retirements = append(f.Retirements, *t)
		}
	}
	return f
}

// lookRotation takes one rotation a step: what is due is begun and left in works.
func (e *estate) lookRotation(t *rapid.T, r *rotation.Rotation, owner string) {
	a := r.Next(e.facts(r), owner, e.now)
	w := work{effect: a.Effect, turning: r.ID}
	switch a.Effect {
	case rotation.NoEffect:
		if !r.State.Ended() && !r.Intent.Held(owner, e.now) {
			r.Wait(a)
			r.Revision++
		}
		return
	case rotation.BeginRetire:
		r.RetireBegun(e.now)
		e.retire(r.From, rotation.CauseRotated, r.ID, e.now)
	case rotation.Finish:
		r.Finished(e.now)
		e.checkDone(t, r)
	case rotation.Restore:
		if e.retirements[r.From] != nil {
			r.RollBackRefused("it is being revoked", e.now)
			r.Revision++
			return
		}
		r.Begin(a.Effect, r.To, owner, lease, e.now)
	case rotation.Mint:
		e.versions = append(e.versions, &credential{stage: rotation.StagePending, of: r.ID, asked: e.now})
		r.Begin(a.Effect, len(e.versions), owner, lease, e.now)
	default:
		r.Begin(a.Effect, r.To, owner, lease, e.now)
	}
	r.Revision++
	if a.Effect == rotation.BeginRetire || a.Effect == rotation.Finish {
		return
	}
	w.version, w.revision, w.expect = r.To, r.Revision, e.vault
	if a.Effect == rotation.Restore {
		w.version = r.From
	}
	e.works = append(e.works, w)
}

func (e *estate) checkDone(t *rapid.T, r *rotation.Rotation) {
	for _, n := range r.Retires() {
		d := e.retirements[n]
		if d == nil || d.State != rotation.ProvenDead && !d.NeverMade && !d.Confirm.None {
			t.Fatalf("rotation %s is done without the proof of version %d: %+v", r.ID, n, d)
		}
	}
}

func (e *estate) lookRetirement(n int, owner string) {
	d := e.retirements[n]
	a := d.Next(rotation.RetirementFacts{Frozen: e.frozen}, owner, e.now)
	switch {
	case a.Effect == rotation.NoEffect:
		if d.PurgedAt.IsZero() && !d.Intent.Held(owner, e.now) {
			d.Wait(a)
			d.Revision++
		}
		return
	case a.Effect == rotation.Purge:
		d.Purged(e.now)
		d.Revision++
		return
	case a.Effect == rotation.Revoke && e.vault == n && !d.Emergency():
		d.HeldUp(rotation.WaitRepair, "the vault serves it", e.now)
		d.Revision++
		return
	}
	d.Begin(a.Effect, owner, lease, e.now)
	d.Revision++
	if v := e.version(n); a.Effect == rotation.Revoke && v.stage != rotation.StageCurrent {
		v.stage = rotation.StageRetired
	}
	e.works = append(e.works, work{effect: a.Effect, dying: n, version: n, revision: d.Revision})
}
