package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// open opens an incident of the world's secret, and returns it with its target.
func (w *world) open(t *testing.T, versions ...int) (i rotation.Incident, target rotation.Target, reused bool) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) (err error) {
		i = rotation.Incident{State: rotation.IncidentOpen, Cause: rotation.IncidentDeclared, Actor: someone.By, Reason: "leaked"}
		if reused, err = e.OpenIncident(ctx, tx, &i, []rotation.Target{{SecretID: secretID, Versions: versions}}, nil); err != nil {
			return err
		}
		target, err = tx.Target(ctx, i.ID, secretID)
		return err
	})
	return i, target, reused
}

func (w *world) tally(t *testing.T, id string) (n rotation.Tally) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, _ *engine.Engine) (err error) {
		n, err = tx.Tally(ctx, id)
		return err
	})
	return n
}

// A version that never was takes none of the others with it.
func TestAVersionThatNeverWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := withApp(calmPlan(), engine.Terms{})
		w.rotate(t)
		w.advance(time.Minute)
		i, target, _ := w.open(t, 1, 99)
		if target.State != rotation.TargetDeclared || !strings.Contains(target.Error, "no version 99") {
			t.Errorf("%+v", target)
		}
		w.advance(time.Hour)
		if n := w.tally(t, i.ID); n.Versions != 1 || n.Proven != 1 {
			t.Errorf("%+v", n)
		}
		err := w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.OpenIncident(ctx, tx, &rotation.Incident{State: rotation.IncidentOpen}, []rotation.Target{{SecretID: secretID, Versions: []int{99}}}, nil)
			return err
		})
		if !errors.Is(err, engine.ErrNothingAlive) {
			t.Errorf("an incident of nothing: %v", err)
		}
	})
}

// Who replays what leaked once replaces nothing: it is tried again, that is all. And the
// incident that is declared again while it lasts is the same one.
func TestWhatLeakedBeforeReplacesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := withApp(calmPlan(), engine.Terms{})
		w.rotate(t)
		w.advance(time.Minute)
		first, _, _ := w.open(t, 1)
		again, _, reused := w.open(t, 1)
		if !reused || again.ID != first.ID {
			t.Errorf("declared again it is another one: %+v", again)
		}
		w.advance(time.Hour)
		if v := w.secret().Current; v != 2 {
			t.Fatalf("version %d is current", v)
		}
		replayed, target, reused := w.open(t, 1)
		if reused || target.State != rotation.TargetAlreadyDead || target.RotationID != "" {
			t.Errorf("replayed: %+v, reused %v", target, reused)
		}
		w.advance(time.Hour)
		if n := w.tally(t, replayed.ID); n.AlreadyDead != 1 || n.Versions != 0 || w.secret().Current != 2 {
			t.Errorf("after the replay: %+v, version %d is current", n, w.secret().Current)
		}
	})
}

// What was revoked without anybody being asked for a proof is not called dead.
func TestWhatNobodyProvedIsNotCalledDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := calmPlan()
		plan.Confirm.None = true
		w, _ := withApp(plan, engine.Terms{})
		w.define(func(d *rotation.Definition) { d.Probe = "" })
		w.rotate(t)
		w.advance(time.Minute)
		i, _, _ := w.open(t, 1)
		w.advance(time.Hour)
		if n := w.tally(t, i.ID); n.Contained != 0 || n.Proven != 0 || n.Unprovable != 1 {
			t.Errorf("%+v", n)
		}
		w.advance(30 * 24 * time.Hour)
		if _, target, _ := w.open(t, 1); target.State != rotation.TargetUnprovable {
			t.Errorf("%+v", target)
		}
	})
}
