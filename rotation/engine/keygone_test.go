package engine_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// Nothing is asked of an issuer whose answer could not be kept.
func TestNothingIsMintedThatCannotBeSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.keyless = true
		w.rotate(t)
		w.advance(time.Minute)
		w.verdict(t, func(wrong func(string, ...any)) {
			if r := w.rotationNumber(0); r.WaitingFor != rotation.WaitSeal || len(w.issuers["finding"].made) > 0 {
				wrong("the rotation waits for %q, and %d credentials were made", r.WaitingFor, len(w.issuers["finding"].made))
			}
		})
		w.keyless = false
		w.mintedOnce(t)
	})
}

// The key that sealed a fresh credential was removed from the store meanwhile: the
// credential is sealed by the next one, not thrown away.
func TestKeyGoneWhileMinting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.rotate(t)
		w.stepRotation(t, 0, event{"minting version 1 (answered)", func() { w.refused = 1 }})
		w.mintedOnce(t)
	})
}

// No other key can be had, so that the fresh credential is lost: what the issuer calls
// it is not, also where the issuer cannot look it up, and it is revoked.
func TestCredentialThatCannotBeKeptIsRevoked(t *testing.T) {
	for _, issuer := range []string{"finding", "blind"} {
		t.Run(issuer, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				s := w.secret()
				s.Definition.Issuer = issuer
				w.store.state.secrets.put(s.ID, s)
				made := w.issuers[issuer]
				made.traits.MaxLive, made.slowest = 0, 0
				w.rotate(t)
				w.stepRotation(t, 0, event{"minting version 1 (answered)", func() { w.refused, w.keyless = 1000, true }})
				w.refused = 0
				w.advance(5 * time.Minute)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r := w.rotationNumber(0); r.WaitingFor != rotation.WaitSeal || len(made.made) != 1 {
						wrong("the rotation is %s and waits for %q, and %d credentials were made", r.State, r.WaitingFor, len(made.made))
					}
					if v, _ := w.version(1); v.Handle == nil || v.Sealed != nil || w.alive(1) {
						wrong("version 1 has the handle %v, and is alive: %v", v.Handle, w.alive(1))
					}
				})
				w.keyless = false
				w.advance(10 * time.Minute)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r := w.rotationNumber(0); r.State != rotation.Done || w.secret().Current != 2 || made.alive() != 1 {
						wrong("the rotation is %s, version %d is current, %d credentials are alive: %s", r.State, w.secret().Current, made.alive(), r.Error)
					}
				})
			})
		})
	}
}
