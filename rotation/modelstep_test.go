package rotation_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/rotation"
)

// How an effect goes: whether it happens, and whether the answer arrives.
const (
	well    = iota
	lost    // it happens, and the answer is lost
	missed  // it does not happen, and nobody says so
	refused // it does not happen
	died    // it happens, and the process is gone
)

// lateMint is how long a request can be on its way to the issuer.
const lateMint = 5 * time.Minute

// perform does one work that was begun, maybe long ago, and commits the result,
// if nobody has been at the record since.
func (e *estate) perform(t *rapid.T, i, how int, v rotation.Verdict) {
	w := e.works[i]
	e.works = slices.Delete(e.works, i, i+1)
	if w.effect == rotation.Mint && how != well && !e.now.Before(e.version(w.version).asked.Add(lateMint)) {
		how = missed // nothing is on its way for so long; who sleeps and mints then knows that he did
	}
	if how == well || how == lost || how == died {
		e.outside(t, w)
	}
	if how == died {
		return
	}
	if w.dying > 0 {
		if d := e.retirements[w.dying]; d.Revision == w.revision {
			e.commitRetirement(d, w, how, v)
			d.Revision++
		}
		return
	}
	r := e.rotation(w.turning)
	if r.Revision != w.revision {
		if w.effect == rotation.Mint && how == well {
			e.adoptOrphan(w)
		}
		return
	}
	was := r.State
	e.commitRotation(r, w, how, v)
	r.Revision++
	if r.State == rotation.Failed && was != rotation.Failed {
		e.discard(r.To, rotation.CauseFailed)
		e.containNow(r)
	}
}

// outside is what happens at the issuer and in the vault.
func (e *estate) outside(t *rapid.T, w work) {
	v := e.version(w.version)
	switch w.effect {
	case rotation.Mint:
		v.live, v.made = true, true
	case rotation.Publish, rotation.Restore:
		// On a conflict with what is ours, only who still has the rotation writes over it.
		if r := e.rotation(w.turning); r.Revision == w.revision || e.vault == w.expect {
			e.vault = w.version
		}
	case rotation.Revoke:
		d := e.retirements[w.dying]
		if w.version == e.current && !d.Emergency() {
			t.Fatalf("the current version %d is revoked outside an emergency: %+v", w.version, d)
		}
		v.live = false
	}
}

func (e *estate) commitRetirement(d *rotation.Retirement, w work, how int, v rotation.Verdict) {
	subject := e.version(w.version)
	if how != well {
		v = rotation.Inconclusive
	} else if v == rotation.Rejected && subject.live {
		v = rotation.Accepted // verdicts are true, or there are none: how long they take to be is the simulation's
	} else if v == rotation.Accepted && !subject.live {
		v = rotation.Rejected
	}
	control := rotation.ControlNone
	if v == rotation.Rejected {
		control = rotation.ControlCurrent
	}
	switch w.effect {
	case rotation.Revoke:
		switch {
		case how != well:
			d.RevokeFailed("timeout", true, e.now)
		case !subject.made && e.now.Before(subject.asked.Add(lateMint)):
			d.RevokeFailed("it may still arrive", false, e.now)
		case !subject.made && d.FoundNothing(e.now):
		default:
			d.Revoked(e.now)
		}
	case rotation.ProbeBefore:
		d.ProbedBefore(v, control, "", e.now)
	case rotation.DeathRound:
		d.RoundMade(v, control, "", e.now)
	case rotation.RecheckRound:
		d.Rechecked(v, control, "", e.now)
	}
}

func (e *estate) commitRotation(r *rotation.Rotation, w work, how int, v rotation.Verdict) {
	unheard := how == lost || how == missed
	switch w.effect {
	case rotation.Mint:
		switch {
		case unheard:
			r.Unheard(rotation.WaitIssuer, "timeout", e.now)
		case how == refused:
			e.version(w.version).stage = rotation.StageRetired
			r.MintLost("refused", true, e.now)
		default:
			e.version(w.version).handle = true
			r.Minted(e.now)
		}
	case rotation.RecoverMint: // what is found was shown to nobody
		if unheard {
			r.Unheard(rotation.WaitIssuer, "timeout", e.now)
			return
		}
		e.discard(w.version, rotation.CauseOrphan)
		r.MintLost("the answer was lost", false, e.now)
	case rotation.VerifyTry:
		r.Verified(v, "", e.now)
	case rotation.Stage:
		if unheard {
			r.Unheard(rotation.WaitBackend, "timeout", e.now)
			return
		}
		r.Staged(e.now)
	case rotation.Publish, rotation.Restore:
		e.commitWrite(r, w, how)
	}
}

func (e *estate) commitWrite(r *rotation.Rotation, w work, how int) {
	switch {
	case how == lost || how == missed:
		r.Unheard(rotation.WaitBackend, "timeout", e.now)
		return
	case how == refused && e.vault != w.version && w.effect == rotation.Restore:
		r.RollBackRefused("conflict", e.now)
		return
	case how == refused && e.vault != w.version && !r.Emergency():
		r.Fail("conflict", e.now)
		return
	case e.vault != w.version:
		r.Unheard(rotation.WaitBackend, "conflict", e.now)
		return
	}
	old := e.current
	if w.effect == rotation.Restore {
		r.RolledBackNow(e.now)
	} else {
		r.Published(e.retirements[r.From] != nil, e.now)
	}
	e.current, e.generation = w.version, e.generation+1
	if old > 0 {
		e.version(old).stage = rotation.StagePrevious
		if e.retirements[old] != nil {
			e.version(old).stage = rotation.StageRetired
		}
	}
	e.version(w.version).stage = rotation.StageCurrent
	if w.effect == rotation.Restore {
		e.retire(r.To, rotation.CauseRolledBack, "", r.OverlapUntil)
	}
	e.containNow(r)
}

// containNow brings an emergency's retirements forward that waited for the replacement.
func (e *estate) containNow(r *rotation.Rotation) {
	for _, n := range r.Compromised {
		if d := e.retirements[n]; d.State == rotation.Requested && d.WaitingFor == rotation.WaitReplacement {
			d.NextAt, d.WaitingFor = e.now, ""
			d.Revision++
		}
	}
}

// adoptOrphan records what a worker minted whose rotation has gone on without it.
func (e *estate) adoptOrphan(w work) {
	v := e.version(w.version)
	if v.handle || v.stage != rotation.StagePending && v.stage != rotation.StageRetired {
		return
	}
	v.handle = true
	if d := e.retirements[w.version]; d != nil {
		d.Reopen(!e.noProof, e.now)
		d.Revision++
		return
	}
	if r := e.rotation(w.turning); r.State.Ended() || r.To != w.version {
		e.discard(w.version, rotation.CauseOrphan)
	}
}

// check holds all of it against the invariants.
func (e *estate) check(t *rapid.T) {
	occupy := 0
	for _, r := range e.rotations {
		if !r.State.Ended() && r.State != rotation.Retiring {
			occupy++
		}
		if r.State == rotation.Failed && r.Error == "" {
			t.Fatal("failed without a reason")
		}
	}
	if occupy > 1 {
		t.Fatalf("%d rotations occupy the secret", occupy)
	}
	for n, d := range e.retirements {
		if d.State == rotation.ProvenDead && e.version(n).live {
			t.Fatalf("version %d is proven dead, and lives: %+v", n, d)
		}
	}
	if e.current > 0 && !e.version(e.current).live {
		if d := e.retirements[e.current]; d == nil || !d.Emergency() {
			t.Fatalf("the current version %d is dead outside an emergency", e.current)
		}
	}
}

// settle lets everything go well until nothing is due any more, and looks what
// became of each credential.
func (e *estate) settle(t *rapid.T) {
	e.frozen = false
	for steps := 0; ; steps++ {
		if steps > 3000 {
			t.Fatalf("nothing comes to an end: %s", e.unsettled())
		}
		for len(e.works) > 0 {
			e.perform(t, 0, well, rotation.Accepted)
			e.check(t)
		}
		next := time.Time{}
		soonest := func(at time.Time) {
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
		for _, r := range e.rotations {
			e.lookRotation(t, r, "node/3")
			if !r.State.Ended() {
				soonest(latestOf(r.NextAt, r.Intent))
			}
		}
		for n, d := range e.retirements {
			e.lookRetirement(n, "node/3")
			if d.PurgedAt.IsZero() {
				soonest(latestOf(d.NextAt, d.Intent))
			}
		}
		if len(e.works) > 0 {
			continue
		}
		if next.IsZero() {
			break
		}
		e.now = latestOf(e.now, &rotation.Intent{Lease: next})
	}
	e.ended(t)
}

func latestOf(at time.Time, i *rotation.Intent) time.Time {
	if i != nil && i.Lease.After(at) {
		return i.Lease
	}
	return at
}

func (e *estate) unsettled() (all []string) {
	for _, r := range e.rotations {
		if !r.State.Ended() {
			all = append(all, r.ID+" "+string(r.State)+" waits for "+r.WaitingFor)
		}
	}
	for _, d := range e.retirements {
		if d.PurgedAt.IsZero() {
			all = append(all, d.ID+" "+string(d.State)+" waits for "+d.WaitingFor)
		}
	}
	return all
}

// ended: every credential that was ever made is the current one or dead, and
// whoever still waits does so for a proof that there cannot be.
func (e *estate) ended(t *rapid.T) {
	for i, v := range e.versions {
		n := i + 1
		switch {
		case n == e.current && v.stage != rotation.StageCurrent, n != e.current && v.stage != rotation.StageRetired:
			t.Fatalf("in the end version %d of %s is %s, current is %d; %v", n, v.of, v.stage, e.current, e.unsettled())
		case n != e.current && v.live:
			t.Fatalf("in the end version %d of %s is alive at the issuer: %+v", n, v.of, e.retirements[n])
		}
	}
	for _, r := range e.rotations {
		hopeless := slices.ContainsFunc(r.Retires(), func(n int) bool {
			return e.retirements[n] != nil && e.retirements[n].State == rotation.Unprovable
		})
		if !r.State.Ended() && !(r.State == rotation.Retiring && hopeless) {
			t.Fatalf("in the end rotation %s is %s: %+v", r.ID, r.State, r)
		}
	}
}

// A secret with several rotations and retirements at once, looked after by two
// owners of which each may sleep, die, or hear no answer, keeps the invariants.
func TestSecretWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &estate{now: start, retirements: map[int]*rotation.Retirement{}, noProof: rapid.IntRange(0, 5).Draw(t, "no proof") == 0}
		generation := int64(0)
		look := func(t *rapid.T) {
			owner, n := owners.Draw(t, "owner"), rapid.IntRange(0, 99).Draw(t, "which")
			if k := len(e.rotations) + len(e.versions); k == 0 {
				e.rotate(rotation.TriggerManual)
			} else if n %= k; n < len(e.rotations) {
				e.lookRotation(t, e.rotations[len(e.rotations)-1-n], owner)
			} else if n -= len(e.rotations) - 1; e.retirements[n] != nil {
				e.lookRetirement(n, owner)
			}
		}
		perform := func(t *rapid.T) {
			if len(e.works) > 0 {
				how := rapid.SampledFrom([]int{well, well, well, well, lost, missed, refused, died}).Draw(t, "how")
				e.perform(t, rapid.IntRange(0, len(e.works)-1).Draw(t, "work"), how, verdicts.Draw(t, "verdict"))
			}
		}
		straight := func(t *rapid.T) { // nothing goes wrong for a while
			for range rapid.IntRange(1, 12).Draw(t, "steps") {
				if r := e.occupying(); r != nil {
					e.lookRotation(t, r, me)
				}
				for len(e.works) > 0 {
					e.perform(t, 0, well, rotation.Accepted)
				}
				e.now = e.now.Add(time.Second)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"look": look, "look again": look, "perform": perform, "perform another": perform, "straight on": straight,
			"wait":   func(t *rapid.T) { e.now = e.now.Add(whiles.Draw(t, "while")) },
			"freeze": func(*rapid.T) { e.frozen = !e.frozen },
			"rotate": func(*rapid.T) {
				if e.occupying() == nil {
					e.rotate(rotation.TriggerManual)
				}
			},
			"emergency": func(t *rapid.T) {
				if rapid.IntRange(0, 2).Draw(t, "emergency") == 0 {
					e.declare()
				}
			},
			"revoke": func(t *rapid.T) {
				if len(e.versions) > 0 {
					e.revoke(rapid.IntRange(1, len(e.versions)).Draw(t, "version"))
				}
			},
			"rollback": func(*rapid.T) { e.rollBack() },
			"cancel":   func(*rapid.T) { e.cancel() },
			"": func(t *rapid.T) {
				e.check(t)
				if e.generation < generation {
					t.Fatal("the generation went back")
				}
				generation = e.generation
			},
		})
		e.settle(t)
	})
}

func (e *estate) rollBack() {
	r := e.occupying()
	if r == nil || e.retirements[max(r.From, 0)] != nil {
		return
	}
	if _, err := r.RollBack("bob", e.now); err == nil {
		r.Revision++
	}
}

func (e *estate) cancel() {
	r := e.occupying()
	if r == nil {
		return
	}
	if _, err := r.Cancel("bob", e.now); err == nil {
		r.Revision++
		e.discard(r.To, rotation.CauseFailed)
		e.containNow(r)
	}
}
