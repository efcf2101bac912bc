package engine_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// able is an issuer of the kinds of abilities that others of the world have not.
type able struct {
	showOnce
	uses  issuer.Use
	ended int   // calls of EndSessions
	once  bool  // only the first of them succeeds
	fails error // of EndSessions
}

func (i *able) LastUsed(context.Context, issuer.Subject, issuer.Handle) (issuer.Use, error) {
	return i.uses, nil
}

func (i *able) EndSessions(context.Context, issuer.Subject, issuer.Handle) error {
	if i.ended++; i.once && i.ended > 1 {
		return backends.ErrDenied
	}
	return i.fails
}

// under gives the secret another issuer before its first rotation.
func (w *world) under(name string, change func(*rotation.Definition)) {
	s := w.secret()
	s.Definition.Issuer = name
	if change != nil {
		change(&s.Definition)
	}
	w.store.state.secrets.put(s.ID, s)
}

func TestLastUseAndSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		used := time.Now().Add(30 * time.Second)
		i := &able{showOnce: showOnce{w.issuers["finding"]}, uses: issuer.Use{At: used, Where: "2 sessions open"}, fails: backends.ErrUnavailable}
		w.catalog["finding"] = i
		w.rotateTwice(t)
		w.advance(time.Hour + time.Millisecond)
		t1, _ := w.retirementOf(1)
		w.verdict(t, func(wrong func(string, ...any)) {
			if t1.Sessions != rotation.SessionsPending || t1.AcknowledgedAt.IsZero() {
				wrong("sessions that could not be ended hold the acknowledgement up, or are forgotten: %+v", t1)
			}
		})
		i.fails = nil
		w.advance(24 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			t1, _ := w.retirementOf(1)
			if !t1.LastUsedAt.Equal(used) || !strings.Contains(t1.LastUse, "2 sessions open") {
				wrong("last used %s: %q", t1.LastUsedAt, t1.LastUse)
			}
			if t1.Sessions != rotation.SessionsEnded || t1.SessionsEndedAt.IsZero() || i.ended < 2 {
				wrong("sessions %q, ended %d times", t1.Sessions, i.ended)
			}
			if t1.State != rotation.ProvenDead {
				wrong("it is %s", t1.State)
			}
		})
	})
}

// Sessions that the issuer cannot end are said not to be.
func TestSessionsThatCannotBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.issuers["finding"].traits.DerivedSessions = true
		w.catalog["finding"] = &able{showOnce: showOnce{w.issuers["finding"]}, fails: backends.ErrUnsupported}
		w.rotateTwice(t)
		w.advance(3 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			if t1, _ := w.retirementOf(1); t1.State != rotation.ProvenDead || t1.Sessions != "" || t1.Scope.DerivedSessions != "not ended" {
				wrong("%+v", t1)
			}
		})
	})
}

// What was ended once does not count where a later call, before the proof, has failed.
func TestSessionsThatBeganLaterAreNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.issuers["finding"].traits.DerivedSessions = true
		w.catalog["finding"] = &able{showOnce: showOnce{w.issuers["finding"]}, once: true}
		w.rotateTwice(t)
		w.advance(3 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			if t1, _ := w.retirementOf(1); t1.State != rotation.ProvenDead || t1.Scope.DerivedSessions != "not ended" {
				wrong("%s, sessions %q", t1.State, t1.Scope.DerivedSessions)
			}
		})
	})
}

// again gives the same credential each time it is asked.
type again struct {
	showOnce
	first issuer.Credential
	ids   bool // each time under another id
}

func (i *again) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	cred, err := i.showOnce.Issue(ctx, req)
	if err != nil {
		return cred, err
	}
	if len(i.first.Handle) == 0 {
		i.first = cred
	}
	if i.ids {
		return issuer.Credential{Value: i.first.Value, Handle: cred.Handle}, nil
	}
	return i.first, nil
}

// A value that the issuer gave before is never published, and what is in use is not
// revoked as what was minted in vain.
func TestAValueIsNeverIssuedTwice(t *testing.T) {
	for name, ids := range map[string]bool{"under the same id": false, "under another id": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.catalog["finding"] = &again{showOnce: showOnce{w.issuers["finding"]}, ids: ids}
				w.rotate(t)
				w.advance(time.Minute)
				w.rotate(t)
				w.advance(time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					r := w.rotationNumber(1)
					if r.State != rotation.Failed || !strings.Contains(r.Error, "again") {
						wrong("the rotation is %s: %s", r.State, r.Error)
					}
					if !w.alive(1) || w.secret().Current != 1 {
						wrong("the credential that is in use was revoked")
					}
				})
			})
		})
	}
}

// stuck prepares the same value a number of times.
type stuck struct {
	prepared
	times int
}

func (i *stuck) Prepare(req issuer.Request) (backends.Value, error) {
	if i.times--; i.times >= 0 {
		return backends.NewValue(map[string]string{valueField: "the same"}), nil
	}
	return i.prepared.Prepare(req)
}

func TestAPreparedValueIsNeverTheSame(t *testing.T) {
	for name, tt := range map[string]struct {
		times int
		want  rotation.State
	}{"by chance": {2, rotation.Done}, "always": {100, rotation.Failed}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.under("prepared", nil)
				w.issuers["prepared"].traits.MaxLive, w.issuers["prepared"].slowest = 0, 0
				i := &stuck{prepared: prepared{w.issuers["prepared"]}, times: 1}
				w.catalog["prepared"] = i
				w.rotate(t)
				w.advance(time.Minute)
				i.times = tt.times
				w.rotate(t)
				w.advance(24 * time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					r := w.rotationNumber(1)
					if r.State != tt.want {
						wrong("the rotation is %s: %s", r.State, r.Error)
					}
					v, _ := w.version(w.secret().Current)
					if c := w.credentialOf(v.Tag); c == nil || r.State == rotation.Done && c.value == "the same" {
						wrong("the value of before was published")
					}
				})
			})
		})
	}
}

// What nobody can accept before it is published is published untried; its successor's
// acceptance is the control of its death.
func TestWhatNobodyHasSeenIsNotTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := calmWorld(calmPlan(), 0)
		w.issuers["finding"].traits.Unseen = true
		p.refuses = func(value string) bool { return value != "value-of-finding-1" && w.secret().Current == 0 }
		w.rotate(t)
		w.advance(time.Minute)
		w.verdict(t, func(wrong func(string, ...any)) {
			if r := w.rotationNumber(0); r.State != rotation.Done || len(p.rejected) > 0 {
				wrong("the rotation is %s: %s; %v", r.State, r.Error, p.rejected)
			}
		})
		w.rotate(t)
		w.advance(3 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			if t1, _ := w.retirementOf(1); t1.State != rotation.ProvenDead || t1.Control != rotation.ControlCurrent {
				wrong("%+v", t1)
			}
		})
	})
}

// An issuer that refuses to revoke is asked again and again, and the credential is
// watched meanwhile: people are told, and whoever turns it off is believed by the proof.
func TestARevocationThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.rotate(t)
		w.advance(time.Minute)
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone, Contain: "revoke_first"})
			return err
		})
		w.down["issuer finding"] = true
		w.advance(2 * time.Minute)
		of := func(n int) rotation.Retirement { r, _ := w.retirementOf(n); return r }
		w.verdict(t, func(wrong func(string, ...any)) {
			t1 := of(1)
			if kind, _, _ := engine.AlertOf(t1, secretRef); t1.State != rotation.Unconfirmed || kind != engine.AlertUnconfirmed || t1.Round == 0 || t1.LastAcceptedAt.IsZero() {
				wrong("it is %s after two minutes, alert %q, %d rounds", t1.State, kind, t1.Round)
			}
		})
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error { // a wrong word
			_, _, err := e.TurnedOff(ctx, tx, of(1).ID, someone)
			return err
		})
		w.advance(time.Minute)
		if t1 := of(1); t1.State != rotation.Unconfirmed || !t1.AcknowledgedAt.IsZero() {
			t.Errorf("what is accepted counts as turned off: %+v", t1)
		}
		w.credentialOf(func() string { v, _ := w.version(1); return v.Tag }()).revokedAt = time.Now() // at the issuer's own page
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, _, err := e.TurnedOff(ctx, tx, of(1).ID, someone)
			return err
		})
		delete(w.down, "issuer finding") // the replacement can be made
		w.advance(time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			if t1 := of(1); t1.State != rotation.ProvenDead {
				wrong("it is %s: %s", t1.State, t1.Why())
			}
		})
	})
}

// What recovers revokes without anybody's word.
func TestARevocationIsMadeOnceTheIssuerIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.rotateTwice(t)
		w.down["issuer finding"] = true
		w.advance(4 * time.Hour)
		t1, _ := w.retirementOf(1)
		if t1.State != rotation.Unconfirmed || w.down["issuer finding"] != true {
			t.Fatalf("it is %s", t1.State)
		}
		delete(w.down, "issuer finding")
		w.advance(time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			if t1, _ := w.retirementOf(1); t1.State != rotation.ProvenDead || t1.AcknowledgedAt.IsZero() || w.alive(1) {
				wrong("it is %s: %s", t1.State, t1.Why())
			}
		})
	})
}

// hoarding disables, and does not delete.
type hoarding struct {
	soaking
	err error
}

func (i hoarding) Remove(context.Context, issuer.Subject, issuer.Handle) error { return i.err }

// A removal that is refused again and again is told to people; where nobody removes at
// all, its place is not waited for.
func TestARemovalThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		stuck bool
		state rotation.State // of the rotation that needs the place
	}{
		"it is denied":          {backends.ErrDenied, true, rotation.Queued},
		"it is not there to do": {backends.ErrUnsupported, false, rotation.Done},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.under("soaking", nil)
				w.issuers["soaking"].slowest, w.issuers["soaking"].traits.Soak = 0, time.Hour
				w.issuers["soaking"].traits.MaxLive = 2
				w.catalog["soaking"] = hoarding{w.catalog["soaking"].(soaking), c.err}
				w.rotateTwice(t)
				w.advance(24 * time.Hour)
				w.issuers["soaking"].traits.Soak = 0 // what the issuer counts is another matter
				w.rotate(t)
				w.advance(12 * time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					t1, _ := w.retirementOf(1)
					if text, _ := engine.StuckRemoval(t1, secretRef); (text != "") != c.stuck {
						wrong("people are told %q", text)
					}
					if r := w.rotationNumber(2); r.State != c.state {
						wrong("the rotation is %s, waiting for %q: %s", r.State, r.WaitingFor, r.Error)
					}
				})
			})
		})
	}
}
