package engine_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// Accounts are locked after so many rejections, of which the broker may cause one less.
const lockedAfter = 3

func (w *world) notLocked(p *strict, wrong func(string, ...any)) {
	if n := p.inARow(); n >= lockedAfter {
		wrong("an account that is locked after %d rejections saw %d: %v", lockedAfter, n, p.rejected)
	}
}

// A credential that becomes valid only after a while is waited for with the few
// tries that there are.
func TestTriesOfANewCredentialAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), lockedAfter)
		began := time.Now()
		p.refuses = func(string) bool { return time.Since(began) < 45*time.Second }
		w.rotate(t)
		w.advance(10 * time.Minute)
		w.verdict(t, func(wrong func(string, ...any)) {
			w.notLocked(p, wrong)
			if r := w.rotationNumber(0); r.State != rotation.Done {
				wrong("the rotation is %s: %s", r.State, r.Error)
			}
		})
	})
}

// The tries that a failed rotation made of its credential count in the
// retirement of it too: to the account they are all the same.
func TestRejectedTriesCountInTheRetirement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), lockedAfter)
		w.rotate(t)
		w.advance(time.Minute)
		p.refuses = valueOf("value-of-finding-2")
		began := time.Now()
		w.rotate(t)
		w.advance(24 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			w.notLocked(p, wrong)
			r := w.rotationNumber(1)
			if r.State != rotation.Failed || r.EndedAt.Sub(began) < time.Minute {
				wrong("the rotation is %s after %s: %s", r.State, r.EndedAt.Sub(began), r.Error)
			}
			if w.alive(2) || !w.alive(1) || w.secret().Current != 1 {
				wrong("alive: version 1 %v, version 2 %v", w.alive(1), w.alive(2))
			}
		})
	})
}

// An account forgives rejections an hour after the last of them, not the first.
func TestTriesAreForgivenAnHourAfterTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := calmPlan()
		plan.Confirm.Recheck = []time.Duration{59 * time.Minute, 62 * time.Minute, 63 * time.Minute}
		w, p := calmWorld(plan, lockedAfter)
		w.rotateTwice(t)
		w.advance(24 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			w.notLocked(p, wrong)
			if r, _ := w.retirementOf(1); r.State != rotation.ProvenDead || r.Rechecks != 3 || r.PurgedAt.IsZero() {
				wrong("the retirement is %s after %d re-checks, purged at %s", r.State, r.Rechecks, r.PurgedAt)
			}
		})
	})
}
