package engine_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// A freeze that comes after a step has looked whether everything is frozen, and
// before it begins anything outside, still holds it.

func TestFreezeWhileARotationBegins(t *testing.T) {
	for _, at := range []string{"viewed", "checking the vault", "describing the vault (answered)", "transaction"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.rotate(t)
				w.stepRotation(t, 0, event{at, func() { w.freeze(t) }})
				w.advance(time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r := w.rotationNumber(0); r.State != rotation.Queued || r.WaitingFor != rotation.WaitFreeze {
						wrong("the rotation is %s and waits for %q", r.State, r.WaitingFor)
					}
					if made := len(w.issuers["finding"].made); made > 0 {
						wrong("%d credentials were made", made)
					}
				})
				w.unfreeze(t)
				w.mintedOnce(t)
			})
		})
	}
}

func TestFreezeWhileAVersionIsAboutToBePublished(t *testing.T) {
	for _, at := range []string{"viewed", "transaction"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.rotate(t)
				w.stepRotation(t, 0) // mints and verifies
				if r := w.rotationNumber(0); r.State != rotation.Publishing {
					t.Fatalf("the rotation is %s", r.State)
				}
				w.stepRotation(t, 0, event{at, func() { w.freeze(t) }})
				w.advance(time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r := w.rotationNumber(0); r.State != rotation.Publishing || r.WaitingFor != rotation.WaitFreeze || len(w.vault.values) > 0 {
						wrong("the rotation is %s and waits for %q; the vault holds %d values", r.State, r.WaitingFor, len(w.vault.values))
					}
				})
				w.unfreeze(t)
				w.mintedOnce(t)
			})
		})
	}
}

func TestFreezeWhileAVersionIsAboutToBeRevoked(t *testing.T) {
	for _, at := range []string{"viewed", "describing the vault (sent)", "describing the vault (answered)", "transaction"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.rotateTwice(t)
				w.pass(time.Hour)
				w.stepRotation(t, 1)   // its overlap ends
				w.stepRetirement(t, 1) // tries it before it is revoked
				if r, _ := w.retirementOf(1); r.Before != rotation.Accepted || !r.RevokeBegunAt.IsZero() {
					t.Fatalf("the retirement is %+v", r)
				}
				w.stepRetirement(t, 1, event{at, func() { w.freeze(t) }})
				w.advance(time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r, _ := w.retirementOf(1); r.State != rotation.Requested || r.WaitingFor != rotation.WaitFreeze || !w.alive(1) {
						wrong("the retirement is %s and waits for %q; version 1 is alive: %v", r.State, r.WaitingFor, w.alive(1))
					}
				})
				w.unfreeze(t)
				w.advance(time.Minute)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r, _ := w.retirementOf(1); r.State != rotation.ProvenDead || w.alive(1) {
						wrong("after the freeze, the retirement is %s", r.State)
					}
				})
			})
		})
	}
}

func TestFreezeWhileAnOverlapEnds(t *testing.T) {
	for _, at := range []string{"viewed", "transaction"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.rotateTwice(t)
				w.pass(time.Hour)
				w.stepRotation(t, 1, event{at, func() { w.freeze(t) }})
				w.advance(time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r := w.rotationNumber(1); r.State != rotation.Overlap || r.WaitingFor != rotation.WaitFreeze {
						wrong("the rotation is %s and waits for %q", r.State, r.WaitingFor)
					}
				})
				w.unfreeze(t)
				w.advance(time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r := w.rotationNumber(1); r.State != rotation.Done {
						wrong("after the freeze, the rotation is %s", r.State)
					}
				})
			})
		})
	}
}
