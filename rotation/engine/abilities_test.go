package engine_test

import (
	"context"
	"errors"
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
	fails error // of EndSessions
}

func (i *able) LastUsed(context.Context, issuer.Subject, issuer.Handle) (issuer.Use, error) {
	return i.uses, nil
}

func (i *able) EndSessions(context.Context, issuer.Subject, issuer.Handle) error {
	i.ended++
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

// With a single account the old value is tried before it ends, and is set again if
// the new one comes to nothing.
func TestASingleAccount(t *testing.T) {
	const old, bad = "version 1", "version 2"
	setup := func(t *testing.T) (*world, *strict) {
		t.Helper()
		w, p := calmWorld(calmPlan(), 0)
		w.under("single", func(d *rotation.Definition) { d.Plan.Overlap = 0 })
		w.issuers["single"].slowest = 0
		w.rotate(t)
		w.advance(time.Minute)
		if w.secret().Current != 1 {
			t.Fatal("there is no first version")
		}
		return w, p
	}
	t.Run("rotates and is proven", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _ := setup(t)
			w.rotate(t)
			w.advance(3 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				t1, _ := w.retirementOf(1)
				if t1.State != rotation.ProvenDead || t1.Before != rotation.Accepted || t1.LastAcceptedAt.IsZero() || t1.AlreadyRejected {
					wrong("%s (%s): %+v", old, t1.Why(), t1)
				}
				if r := w.rotationNumber(1); r.State != rotation.Done || !w.alive(2) {
					wrong("the rotation is %s: %s", r.State, r.Error)
				}
			})
		})
	})
	t.Run("is set again where the new one does not work", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, p := setup(t)
			p.refuses = func(value string) bool { return strings.HasPrefix(value, "prepared-kb-"+w.rotationNumber(1).ID) }
			w.rotate(t)
			w.advance(24 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				if r := w.rotationNumber(1); r.State != rotation.Failed || w.counts["put back"] == 0 {
					wrong("the rotation is %s: %s", r.State, r.Error)
				}
				if !w.alive(1) || w.alive(2) || w.secret().Current != 1 {
					wrong("%s is alive: %v, %s: %v", old, w.alive(1), bad, w.alive(2))
				}
			})
		})
	})
	t.Run("is set again where the rotation is cancelled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, p := setup(t)
			p.refuses = func(value string) bool { return strings.HasPrefix(value, "prepared-kb-"+w.rotationNumber(1).ID) }
			w.rotate(t)
			w.advance(10 * time.Second)
			w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				_, will, err := e.Cancel(ctx, tx, w.rotationNumber(1).ID, someone)
				if !strings.Contains(strings.Join(will, "\n"), "set again") {
					return errors.Join(err, errors.New("it does not say that the old value is set again"))
				}
				return err
			})
			w.advance(24 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				if r := w.rotationNumber(1); r.State != rotation.Cancelled || !w.alive(1) || w.alive(2) {
					wrong("the rotation is %s: %s", r.State, r.Error)
				}
			})
		})
	})
	t.Run("is not set again in an emergency", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _ := setup(t)
			w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone})
				return err
			})
			w.advance(24 * time.Hour)
			w.verdict(t, func(wrong func(string, ...any)) {
				t1, _ := w.retirementOf(1)
				if w.alive(1) || !w.alive(2) || t1.State != rotation.ProvenDead || w.counts["put back"] > 0 {
					wrong("%s is %s, put back %d times", old, t1.State, w.counts["put back"])
				}
			})
		})
	})
}

// A pair alternates, and waits while both of its accounts are in use; an emergency
// does not wait, and ends what it displaces in order.
func TestAPairOfAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.under("pair", nil)
		w.issuers["pair"].slowest = 0
		w.rotateTwice(t)
		one, _ := w.version(1)
		two, _ := w.version(2)
		if one.Slot != "a" || two.Slot != "b" || !w.alive(1) || !w.alive(2) {
			t.Fatalf("slots %q and %q", one.Slot, two.Slot)
		}
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error { // the current one alone, in the overlap
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone, Versions: []int{2}})
			return err
		})
		w.advance(time.Second)
		w.verdict(t, func(wrong func(string, ...any)) {
			if three, _ := w.version(3); three.Slot != "a" || w.alive(1) {
				wrong("the replacement went to %q", three.Slot)
			}
		})
		w.advance(24 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			for _, n := range []int{1, 2} {
				if r, ok := w.retirementOf(n); !ok || r.State != rotation.ProvenDead {
					wrong("version %d is %q", n, r.State)
				}
			}
			if w.secret().Current != 3 || !w.alive(3) {
				wrong("version %d is current", w.secret().Current)
			}
		})
	})
}
