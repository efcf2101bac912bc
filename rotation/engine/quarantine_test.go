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
)

// keepOut puts the consumer app in quarantine, and lets go on what waits for it.
func (w *world) keepOut(t *testing.T) {
	t.Helper()
	w.quarantine(t, rotation.Quarantine{Kind: rotation.KeptConsumer, Name: "app"}, true)
	if err := w.nodes[1].engine.LetGo(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (w *world) quarantine(t *testing.T, q rotation.Quarantine, want bool) {
	t.Helper()
	before := len(w.store.state.quarantines.rows)
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) (err error) {
		q, err = e.Quarantine(ctx, tx, q, someone)
		return err
	})
	if anew := len(w.store.state.quarantines.rows) > before; anew != want || q.ID == "" || q.At.IsZero() {
		t.Errorf("in quarantine anew, %t: %+v", anew, q)
	}
}

func (w *world) letIn(t *testing.T) (lifted []rotation.Quarantine) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) (err error) {
		lifted, err = e.LiftQuarantine(ctx, tx, rotation.KeptConsumer, "app", someone)
		return err
	})
	return lifted
}

// A consumer in quarantine is told nothing, however long that lasts and whoever asks for
// it. Once it is lifted it is told of the newest version.
func TestNobodyTellsAConsumerInQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
		first := w.delivery(rotation.EventRotated)
		w.keepOut(t)
		w.rotate(t)
		w.advance(time.Minute)
		second := w.delivery(rotation.EventRotated)
		if second.State != rotation.DeliveryPending || !second.NextAttemptAt.IsZero() || second.Attempts != 0 {
			t.Errorf("what it is to be told: %+v", second)
		}
		for name, ask := range map[string]func(ctx context.Context, tx engine.Tx, e *engine.Engine) error{
			"a replay": func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				_, _, err := e.Redeliver(ctx, tx, second.ID, someone)
				return err
			},
			"a test": func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				_, err := e.TestConsumer(ctx, tx, "", "app", someone)
				return err
			},
			"that it is enabled": func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				return e.EnableConsumer(ctx, tx, "app", someone)
			},
		} {
			if err := w.ask(ask); !errors.Is(err, backends.ErrConflict) || !strings.Contains(err.Error(), "quarantine lift consumer app") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := w.nodes[0].engine.Acknowledge(context.Background(), first.ID, *a.claim(first, ""), someone); !errors.Is(err, backends.ErrDenied) || !strings.Contains(err.Error(), "in quarantine since") {
			t.Errorf("its acknowledgement: %v", err)
		}
		w.advance(engine.Uncollected + time.Hour)
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t)
		if lifted := w.letIn(t); len(lifted) != 1 || lifted[0].LiftedAt.IsZero() || lifted[0].LiftedBy != someone.By {
			t.Errorf("lifted: %+v", lifted)
		}
		w.advance(time.Minute)
		a.noticed()
		if len(a.told) == 0 || a.told[len(a.told)-1] != "rotated v3 g3" && a.told[0] != "rotated v3 g3" {
			t.Errorf("then it is told %q", a.told)
		}
		for _, what := range a.told {
			if strings.HasPrefix(what, "rotated v2") {
				t.Errorf("it is told of what is not current any more: %q", a.told)
			}
		}
		if again := w.letIn(t); len(again) != 0 {
			t.Errorf("lifted twice: %+v", again)
		}
	})
}

// An attempt that is under way when the quarantine begins is not repeated.
func TestWhatIsInFlightIsNotRepeatedInQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		a.answer = func(engine.Message) engine.Outcome {
			w.keepOut(t)
			return engine.Outcome{Next: time.Second, Down: true, Detail: "status 503"}
		}
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
		a.answer = nil
		w.advance(time.Hour)
		a.wantTold(t)
		if d := w.delivery(rotation.EventRotated); d.State != rotation.DeliveryPending || !d.NextAttemptAt.IsZero() {
			t.Errorf("it waits: %+v", d)
		}
		w.letIn(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
	})
}

// An overlap that waits for a consumer goes on without it.
func TestNobodyWaitsForAConsumerInQuarantine(t *testing.T) {
	for name, when := range map[string]time.Duration{"before the overlap is over": time.Minute, "while it is waited for": 30 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := withApp(acknowledging(rotation.RequireApplied), engine.Terms{})
				w.rotate(t)
				w.advance(time.Minute)
				w.rotate(t)
				w.advance(when)
				if r := w.rotationNumber(1); r.State != rotation.Overlap {
					t.Fatalf("the rotation is %s", r.State)
				}
				w.keepOut(t)
				w.advance(3 * time.Hour)
				if r := w.rotationNumber(1); r.State != rotation.Done {
					w.tellStory(t)
					t.Errorf("the rotation is %s and waits for %q", r.State, r.WaitingFor)
				}
			})
		})
	}
}

// What replaces compromised versions reaches only the others.
func TestReplacementDoesNotReachAConsumerInQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{NeedsValue: true})
		other := &app{w: w, last: map[rotation.Event]engine.Message{}}
		w.told["other"] = other
		w.define(func(d *rotation.Definition) { d.Consumers = []string{"app", "other"} })
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
		other.wantTold(t, "rotated v1 g1")
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			if _, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone}); err != nil {
				return err
			}
			_, err := e.Quarantine(ctx, tx, rotation.Quarantine{Kind: rotation.KeptConsumer, Name: "app"}, someone)
			return err
		})
		w.advance(2 * time.Hour)
		a.wantTold(t)
		if m := other.last[rotation.EventRotated]; m.Delivery.Version != 2 {
			t.Errorf("the other one is told %q", other.told)
		}
		w.letIn(t)
		w.advance(time.Minute)
		if m := a.last[rotation.EventRotated]; m.Delivery.Version != 2 || m.Value.IsZero() {
			t.Errorf("then it is told %q", a.told)
		}
	})
}

// Who collects gets nothing meanwhile, and afterwards all that has waited, however long.
func TestInboxInQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := withApp(calmPlan(), engine.Terms{Inbox: true})
		w.rotate(t)
		w.advance(time.Minute)
		collect := func(want int) {
			t.Helper()
			got, err := w.nodes[0].engine.Collect(context.Background(), "app", 10, collector("", anybody))
			if err != nil || len(got) != want {
				t.Errorf("collected %d, not %d: %v", len(got), want, err)
			}
		}
		w.keepOut(t)
		collect(0)
		w.advance(2 * engine.Uncollected)
		collect(0)
		w.letIn(t)
		w.advance(time.Minute)
		collect(1)
	})
}

// Once its quarantine is lifted a consumer is told also of what had been given up.
func TestWhoIsLetInIsToldOfWhatWasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		a.answer = func(engine.Message) engine.Outcome { return engine.Outcome{Next: -1, Detail: "status 400"} }
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
		a.answer = nil
		w.keepOut(t)
		w.letIn(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
		w.keepOut(t)
		w.letIn(t)
		w.advance(time.Minute)
		a.wantTold(t) // it knows
	})
}

// A consumer stays in quarantine until all of them are lifted; that of a role is no
// consumer's.
func TestQuarantinesOfSeveralIncidents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		w.quarantine(t, rotation.Quarantine{Kind: rotation.KeptRole, Name: "app"}, true)
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
		one := rotation.Quarantine{Kind: rotation.KeptConsumer, Name: "app", IncidentID: "one"}
		w.quarantine(t, one, true)
		w.quarantine(t, one, false)
		one.IncidentID = "two"
		w.quarantine(t, one, true)
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t)
		if lifted := w.letIn(t); len(lifted) != 2 {
			t.Errorf("lifted: %+v", lifted)
		}
		w.advance(time.Minute)
		a.wantTold(t, "rotated v2 g2")
	})
}
