package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// app is a consumer that does as it is told.
type app struct {
	w      *world
	terms  engine.Terms
	answer func(m engine.Message) engine.Outcome // nil: received
	told   []string                              // the events, with version and generation
	last   map[rotation.Event]engine.Message
}

func (a *app) Terms() engine.Terms { return a.terms }

func (a *app) hear(m engine.Message) {
	d := m.Delivery
	a.told = append(a.told, fmt.Sprintf("%s v%d g%d", strings.TrimPrefix(string(d.Event), "secret."), d.Version, d.Generation))
	a.last[d.Event] = m
}

func (a *app) Deliver(_ context.Context, m engine.Message) engine.Outcome {
	a.hear(m)
	if a.answer == nil {
		return engine.Outcome{Received: true}
	}
	return a.answer(m)
}

func (a *app) Compose(_ context.Context, m engine.Message) (engine.Envelope, error) {
	a.hear(m)
	return engine.Envelope{Body: []byte(m.Delivery.ID)}, nil
}

// fingerprint is what proves that somebody has the version that a delivery tells of.
func (a *app) fingerprint(d rotation.Delivery) string {
	v, _ := a.w.version(d.Version)
	return rotation.Fingerprint(d.ID, backends.NewValue(map[string]string{valueField: a.w.credentialOf(v.Tag).value}))
}

func (a *app) claim(d rotation.Delivery, instance string) *engine.Claim {
	return &engine.Claim{Applied: true, Generation: d.Generation, Instance: instance, Fingerprint: a.fingerprint(d)}
}

// noticed drops from what it was told what a later notice of the same version may have
// taken the place of: in this world all of it comes in one instant.
func (a *app) noticed() {
	a.told = slices.DeleteFunc(a.told, func(what string) bool {
		return strings.HasPrefix(what, "retiring") || strings.HasPrefix(what, "retired")
	})
}

// wantSaid checks that there was a delivery of each of these events of a version.
func (w *world) wantSaid(t *testing.T, version int, events ...rotation.Event) {
	t.Helper()
	for _, event := range events {
		said := 0
		for _, id := range w.store.state.deliveries.order {
			if d := w.store.state.deliveries.rows[id]; d.Event == event && d.Version == version {
				said++
			}
		}
		if said != 1 {
			t.Errorf("there are %d deliveries of %s of version %d", said, event, version)
		}
	}
}

// withApp is a calm world whose secret has one consumer, app.
func withApp(plan rotation.Plan, terms engine.Terms) (*world, *app) {
	w, _ := calmWorld(plan, 0)
	a := &app{w: w, terms: terms, last: map[rotation.Event]engine.Message{}}
	w.told = map[string]engine.Deliverer{"app": a}
	w.define(func(d *rotation.Definition) { d.Consumers = []string{"app"} })
	for i, name := range []string{"a", "b"} {
		w.boot(i, name, false)
	}
	return w, a
}

func (a *app) wantTold(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(a.told, want) {
		a.w.tellStory(t)
		t.Errorf("it was told\n%q\nwant\n%q", a.told, want)
	}
	a.told = nil
}

// delivery is the newest one of an event.
func (w *world) delivery(event rotation.Event) (newest rotation.Delivery) {
	for _, id := range w.store.state.deliveries.order {
		if d := w.store.state.deliveries.rows[id]; d.Event == event {
			newest = d
		}
	}
	return newest
}

func acknowledging(require rotation.Requirement) rotation.Plan {
	plan := calmPlan()
	plan.Overlap, plan.MaxOverlap = 10*time.Minute, 10*time.Hour
	plan.Acknowledgement = rotation.Acknowledgement{Require: require, Timeout: 10 * time.Hour, Hold: true}
	return plan
}

// A consumer is told of all that becomes of a version, in the order of generations.
func TestConsumerIsToldWhatBecomesOfAVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		w.rotateTwice(t)
		a.wantTold(t, "rotated v1 g1", "rotated v2 g2")
		w.advance(100 * time.Minute)
		a.noticed()
		a.wantTold(t, "proven_dead v1 g2")
		w.wantSaid(t, 1, rotation.EventRetiring, rotation.EventRetired)
		c := w.credentialOf(func() string { v, _ := w.version(1); return v.Tag }())
		c.revokedAt = time.Time{}
		w.advance(2 * time.Hour)
		w.wantSaid(t, 1, rotation.EventResurrected)
		a.told = nil
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone, Versions: []int{2}})
			return err
		})
		w.advance(2 * time.Hour)
		a.noticed()
		if !slices.Contains(a.told, "emergency v2 g2") {
			t.Errorf("it is told %q in an emergency", a.told)
		}
		a.told = slices.DeleteFunc(a.told, func(what string) bool { return strings.Contains(what, " v1 ") || strings.HasPrefix(what, "emergency") })
		a.wantTold(t, "rotated v3 g3", "proven_dead v2 g3")
		w.wantSaid(t, 2, rotation.EventEmergency, rotation.EventRetired)
		if m := a.last[rotation.EventEmergency]; m.Delivery.Trigger != rotation.TriggerEmergency || m.Delivery.Reason != someone.Reason {
			t.Errorf("the emergency: %+v", m.Delivery)
		}
	})
}

func TestConsumerIsToldOfARollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{NeedsValue: true})
		w.rotateTwice(t)
		a.told = nil
		w.rollBack(t)
		w.advance(time.Minute)
		a.wantTold(t, "rolled_back v1 g3")
		m := a.last[rotation.EventRolledBack]
		if v, _ := w.version(1); m.Value.Reveal()[valueField] != w.credentialOf(v.Tag).value || m.Previous == nil || m.Previous.Number != 2 {
			t.Errorf("it is told of version %d beside %+v", m.Published.Number, m.Previous)
		}
	})
}

// Of other events it is told only if it wants to be.
func TestConsumerChoosesItsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{Events: []rotation.Event{rotation.EventProvenDead}})
		w.rotateTwice(t)
		w.advance(2 * time.Hour)
		a.wantTold(t, "rotated v1 g1", "rotated v2 g2", "proven_dead v1 g2")
	})
}

// What never worked anywhere is nobody's business.
func TestConsumerIsNotToldOfWhatWasNeverPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		w.rotate(t)
		w.stepRotation(t, 0)
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, _, err := e.Cancel(ctx, tx, w.rotationNumber(0).ID, someone)
			return err
		})
		w.advance(2 * time.Hour)
		a.wantTold(t)
	})
}

// An overlap waits for what its plan asks of the consumers: that they have received the
// version, have fetched it, or that all of their instances use it.
func TestOverlapWaitsForTheAcknowledgement(t *testing.T) {
	fetch := func(t *testing.T, w *world, version int) {
		t.Helper()
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			return e.Fetched(ctx, tx, secretID, "app", version)
		})
	}
	acknowledge := func(t *testing.T, w *world, a *app, instance string) {
		t.Helper()
		d := w.delivery(rotation.EventRotated)
		if _, err := w.nodes[1].engine.Acknowledge(context.Background(), d.ID, *a.claim(d, instance), someone); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		require   rotation.Requirement
		instances int
		steps     []func(t *testing.T, w *world, a *app) // the last one is enough
	}{
		{rotation.RequireFetched, 1, []func(*testing.T, *world, *app){
			func(t *testing.T, w *world, _ *app) { fetch(t, w, 1) },
			func(t *testing.T, w *world, _ *app) { fetch(t, w, 2) },
		}},
		{rotation.RequireFetched, 1, []func(*testing.T, *world, *app){
			func(t *testing.T, w *world, a *app) { acknowledge(t, w, a, "") },
		}},
		{rotation.RequireApplied, 2, []func(*testing.T, *world, *app){
			func(t *testing.T, w *world, _ *app) { fetch(t, w, 2) },
			func(t *testing.T, w *world, a *app) { acknowledge(t, w, a, "one") },
			func(t *testing.T, w *world, a *app) { acknowledge(t, w, a, "one") },
			func(t *testing.T, w *world, a *app) { acknowledge(t, w, a, "two") },
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, a := withApp(acknowledging(tt.require), engine.Terms{Instances: tt.instances})
			w.rotate(t)
			w.advance(time.Minute)
			w.rotate(t)
			w.advance(30 * time.Minute) // the overlap itself is over
			for i, step := range tt.steps {
				if r := w.rotationNumber(1); r.State != rotation.Overlap || r.WaitingFor != rotation.WaitAcknowledgment {
					t.Fatalf("%s, before step %d: the rotation is %s and waits for %q", tt.require, i, r.State, r.WaitingFor)
				}
				step(t, w, a)
				w.advance(time.Minute)
			}
			w.advance(3 * time.Hour)
			if r := w.rotationNumber(1); r.State != rotation.Done {
				w.tellStory(t)
				t.Errorf("%s: the rotation is %s and waits for %q", tt.require, r.State, r.WaitingFor)
			}
		})
	}
}

// Nobody is taken to use a version without having it.
func TestAppliedTakesTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(acknowledging(rotation.RequireApplied), engine.Terms{})
		var claim func(d rotation.Delivery) *engine.Claim
		a.answer = func(m engine.Message) engine.Outcome {
			return engine.Outcome{Received: true, Claim: claim(m.Delivery)}
		}
		claim = func(d rotation.Delivery) *engine.Claim { return a.claim(d, "") }
		w.rotate(t)
		w.advance(time.Minute)
		first := w.delivery(rotation.EventRotated)
		if first.State != rotation.DeliveryApplied || first.Error != "" {
			t.Fatalf("who has it: %+v", first)
		}
		for name, wrong := range map[string]func(c *engine.Claim, d rotation.Delivery){
			"without a fingerprint":        func(c *engine.Claim, _ rotation.Delivery) { c.Fingerprint = "" },
			"with that of another one":     func(c *engine.Claim, _ rotation.Delivery) { c.Fingerprint = a.fingerprint(first) },
			"of an earlier generation":     func(c *engine.Claim, _ rotation.Delivery) { c.Generation-- },
			"with something made up of it": func(c *engine.Claim, d rotation.Delivery) { c.Fingerprint = strings.ToUpper(a.fingerprint(d)) },
		} {
			claim = func(d rotation.Delivery) *engine.Claim {
				c := a.claim(d, "")
				wrong(c, d)
				return c
			}
			w.rotate(t)
			w.advance(time.Minute)
			d := w.delivery(rotation.EventRotated)
			if d.State != rotation.DeliveryReceived || !d.AppliedAt.IsZero() || d.Error == "" {
				t.Errorf("%s: it is %s, error %q", name, d.State, d.Error)
			}
			_, err := w.nodes[0].engine.Acknowledge(context.Background(), d.ID, *claim(d), someone)
			if !errors.Is(err, backends.ErrConflict) && !errors.Is(err, backends.ErrInvalid) {
				t.Errorf("%s, by the API: %v", name, err)
			}
			if _, err := w.nodes[0].engine.Acknowledge(context.Background(), d.ID, *a.claim(d, ""), someone); err != nil { // it has it after all
				t.Errorf("%s, then with it: %v", name, err)
			}
			if d := w.delivery(rotation.EventRotated); d.State != rotation.DeliveryApplied || d.Error != "" {
				t.Errorf("%s, then with it: %s %q", name, d.State, d.Error)
			}
			w.advance(3 * time.Hour)
		}
	})
}

// A consumer that wants no more deliveries gets none, until somebody enables it or it is
// somewhere else. Nothing is lost meanwhile.
func TestConsumerThatIsGoneIsNotToldUntilItIsEnabled(t *testing.T) {
	for name, enable := range map[string]func(t *testing.T, w *world, a *app){
		"enabled": func(t *testing.T, w *world, _ *app) {
			t.Helper()
			w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				return e.EnableConsumer(ctx, tx, "app", someone)
			})
		},
		"somewhere else": func(t *testing.T, w *world, a *app) {
			t.Helper()
			a.terms.Endpoint = "elsewhere"
			w.boot(0, "a", false)
			if err := w.nodes[0].engine.Sweep(context.Background()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a := withApp(calmPlan(), engine.Terms{Endpoint: "here"})
				a.answer = func(engine.Message) engine.Outcome {
					return engine.Outcome{Gone: true, Next: -1, Detail: "status 410"}
				}
				w.rotate(t)
				w.advance(time.Minute)
				if d := w.delivery(rotation.EventRotated); d.State != rotation.DeliveryDead {
					t.Fatalf("what was answered 410 is %s", d.State)
				}
				a.told, a.answer = nil, nil
				w.rotate(t)
				w.advance(10 * time.Minute)
				a.wantTold(t)
				_, _, err := func() (d rotation.Delivery, will []string, err error) {
					err = w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) (err error) {
						d, will, err = e.Redeliver(ctx, tx, w.delivery(rotation.EventRotated).ID, someone)
						return err
					})
					return d, will, err
				}()
				if !errors.Is(err, backends.ErrConflict) || !strings.Contains(err.Error(), "consumer enable app") {
					t.Errorf("a replay: %v", err)
				}
				enable(t, w, a)
				w.advance(time.Minute)
				a.wantTold(t, "rotated v2 g2")
			})
		})
	}
}

// What nobody collects, or is enabled for, is given up in the end.
func TestWhatNobodyCollectsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := withApp(calmPlan(), engine.Terms{Inbox: true})
		w.rotate(t)
		w.advance(engine.Uncollected - time.Hour)
		if d := w.delivery(rotation.EventRotated); d.State != rotation.DeliveryPending {
			t.Fatalf("it is %s: %s", d.State, d.Error)
		}
		w.pass(2 * time.Hour)
		w.advance(time.Minute)
		if d := w.delivery(rotation.EventRotated); d.State != rotation.DeliveryDead || d.Error == "" {
			t.Errorf("it is %s: %q", d.State, d.Error)
		}
	})
}

func anybody(context.Context, rotation.Delivery) (bool, error) { return true, nil }

func nobody(context.Context, rotation.Delivery) (bool, error) { return false, nil }

func collector(instance string, may func(context.Context, rotation.Delivery) (bool, error)) engine.Collector {
	return engine.Collector{Instance: instance, May: may, Asked: someone}
}

// An inbox hands out the same message until it is acknowledged, and only one of a secret
// at a time.
func TestInboxHandsOutUntilItIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(acknowledging(rotation.RequireApplied), engine.Terms{Inbox: true, NeedsValue: true})
		collect := func(want int) []engine.Collected {
			t.Helper()
			got, err := w.nodes[0].engine.Collect(context.Background(), "app", 10, collector("", anybody))
			if err != nil || len(got) != want {
				w.tellStory(t)
				t.Fatalf("collected %d, not %d: %v", len(got), want, err)
			}
			return got
		}
		collect(0)
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t) // nobody pushes
		first := collect(1)[0]
		if string(first.Body) != first.Delivery.ID || a.last[rotation.EventRotated].Value.IsZero() {
			t.Errorf("handed out: %q", first.Body)
		}
		collect(0) // it was handed out just now
		w.advance(31 * time.Second)
		if again := collect(1)[0]; again.Delivery.ID != first.Delivery.ID || again.Delivery.Attempts != 2 {
			t.Errorf("again: %+v", again.Delivery)
		}
		w.rotate(t)
		w.advance(time.Second)
		collect(0) // an older generation is on its way
		w.advance(5 * time.Second)
		second := collect(1)[0].Delivery
		if second.Generation != 2 {
			t.Errorf("it hands out generation %d", second.Generation)
		}
		if _, err := w.nodes[1].engine.Acknowledge(context.Background(), second.ID, engine.Claim{Generation: 2}, someone); err != nil {
			t.Fatal(err)
		}
		if d := w.delivery(rotation.EventRotated); d.State != rotation.DeliveryReceived {
			t.Errorf("received, it is %s", d.State)
		}
		w.advance(time.Minute)
		collect(0)
		if _, err := w.nodes[0].engine.Collect(context.Background(), "app", 10, collector("", nobody)); err != nil {
			t.Error(err)
		}
		a.terms.Inbox = false
		if _, err := w.nodes[0].engine.Collect(context.Background(), "app", 10, collector("", anybody)); !errors.Is(err, backends.ErrConflict) {
			t.Errorf("the inbox of who has a webhook: %v", err)
		}
	})
}

// Each instance is handed the message until it has acknowledged it, and then it is over:
// whoever takes the place of one, or has said so already, changes nothing.
func TestInboxOfSeveralInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(acknowledging(rotation.RequireApplied), engine.Terms{Inbox: true, NeedsValue: true, Instances: 3})
		collect := func(instance string, want int) (got []engine.Collected) {
			t.Helper()
			got, err := w.nodes[0].engine.Collect(context.Background(), "app", 10, collector(instance, anybody))
			if err != nil || len(got) != want {
				w.tellStory(t)
				t.Fatalf("%q collected %d, not %d: %v", instance, len(got), want, err)
			}
			return got
		}
		says := func(c engine.Claim, d rotation.Delivery, state rotation.DeliveryState, acks int) {
			t.Helper()
			d, err := w.nodes[1].engine.Acknowledge(context.Background(), d.ID, c, someone)
			all, err2 := (&memTx{s: w.store, readOnly: true}).Acks(context.Background(), d.ID)
			if err != nil || err2 != nil || d.State != state || len(all) != acks || d.ReceivedAt.IsZero() || !d.Lease.IsZero() {
				t.Errorf("after %q: %s with %d acknowledgements, leased until %s: %v %v", c.Instance, d.State, len(all), d.Lease, err, err2)
			}
		}
		w.rotate(t)
		w.advance(time.Minute)
		d := collect("a", 1)[0].Delivery
		collect("b", 0) // it is on its way to another one
		says(*a.claim(d, "a"), d, rotation.DeliveryPending, 1)
		collect("a", 0)
		collect("", 0) // as of a consumer of one instance
		collect("b", 1)
		says(engine.Claim{Generation: 1, Instance: "b"}, d, rotation.DeliveryPending, 2)
		says(*a.claim(d, "a"), d, rotation.DeliveryPending, 2)
		collect("b", 0)
		says(*a.claim(d, "b"), d, rotation.DeliveryPending, 2)
		if d := w.delivery(rotation.EventRotated); !d.AppliedAt.IsZero() {
			t.Errorf("two of three: %+v", d)
		}
		collect("c", 1)
		says(engine.Claim{Generation: 1, Instance: "c"}, d, rotation.DeliveryReceived, 3)
		collect("d", 0)
		says(engine.Claim{Generation: 1, Instance: "d"}, d, rotation.DeliveryReceived, 3)
		says(*a.claim(d, "e"), d, rotation.DeliveryApplied, 4) // it has taken the place of c
		for i := range 50 {
			says(*a.claim(d, fmt.Sprintf("f%d", i)), d, rotation.DeliveryApplied, 4)
		}
	})
}

// What not all instances collect is given up in the end, which says why.
func TestInboxThatAnInstanceLeavesFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{Inbox: true, Instances: 2})
		w.rotate(t)
		w.advance(time.Minute)
		got, err := w.nodes[0].engine.Collect(context.Background(), "app", 1, collector("a", anybody))
		if err != nil || len(got) != 1 {
			t.Fatalf("%d: %v", len(got), err)
		}
		if _, err := w.nodes[0].engine.Acknowledge(context.Background(), got[0].Delivery.ID, *a.claim(got[0].Delivery, "a"), someone); err != nil {
			t.Fatal(err)
		}
		w.advance(engine.Uncollected + time.Hour)
		if d := w.delivery(rotation.EventRotated); d.State != rotation.DeliveryDead || !strings.Contains(d.Error, "not all 2 instances") {
			t.Errorf("it is %s: %q", d.State, d.Error)
		}
	})
}

// What may not be handed out, however much, hides nothing that comes after it.
func TestInboxBehindMuchThatIsWithheld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := withApp(calmPlan(), engine.Terms{Inbox: true})
		w.rotate(t)
		w.advance(time.Minute)
		e := w.nodes[0].engine
		var last rotation.Delivery
		for i := range 250 { // of versions of their own: none takes another's place
			last = rotation.Delivery{ID: fmt.Sprintf("notice-%03d", i), SecretID: secretID, Ref: secretRef, Consumer: "app", Event: rotation.EventRetired,
				Version: 100 + i, Generation: 1, State: rotation.DeliveryPending, Instances: 1, CreatedAt: time.Now(), Since: time.Now(), Revision: 1}
			w.store.state.deliveries.put(last.ID, last)
		}
		got, err := e.Collect(context.Background(), "app", 10, collector("", func(_ context.Context, d rotation.Delivery) (bool, error) { return d.ID == last.ID, nil }))
		if err != nil || len(got) != 1 || got[0].Delivery.ID != last.ID {
			t.Errorf("%d: %v", len(got), err)
		}
	})
}

// What may not be handed out to the caller stays as it is.
func TestInboxKeepsWhatTheCallerMayNotHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{Inbox: true})
		w.rotate(t)
		w.advance(time.Minute)
		before := w.delivery(rotation.EventRotated)
		got, err := w.nodes[0].engine.Collect(context.Background(), "app", 1, collector("", nobody))
		if len(got) > 0 || err != nil || w.delivery(rotation.EventRotated) != before {
			t.Errorf("handed out %d: %v", len(got), err)
		}
		a.wantTold(t)
	})
}

// Consumers are told of a rotation ahead of time, once.
func TestConsumersAreToldOfARotationAheadOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		w.define(func(d *rotation.Definition) {
			d.Schedule, d.NoticeBefore = daily, 5*time.Hour
			d.Plan.Overlap, d.Plan.MaxOverlap = time.Minute, time.Minute
			d.Plan.Confirm.Recheck = nil
		})
		w.rotate(t)
		w.advance(time.Minute)
		w.reschedule(t)
		a.told = nil
		pass := func(d time.Duration) {
			t.Helper()
			for end := time.Now().Add(d); time.Now().Before(end); {
				if err := w.nodes[0].engine.Tick(context.Background()); err != nil {
					t.Fatal(err)
				}
				w.advance(time.Minute)
			}
		}
		pass(2 * time.Hour) // due at 3: it is later than five hours before already
		a.wantTold(t, "rotating v1 g1")
		if m := a.last[rotation.EventRotating]; m.Delivery.DueAt.UTC().Format("02 15:04") != "01 03:00" {
			t.Errorf("due at %s", m.Delivery.DueAt)
		}
		w.reschedule(t) // a reload works out the same
		pass(2 * time.Hour)
		a.noticed()
		a.wantTold(t, "rotated v2 g2", "proven_dead v1 g2")
		pass(17 * time.Hour)
		a.wantTold(t)
		pass(2 * time.Hour)
		a.wantTold(t, "rotating v2 g2")
	})
}

// Somebody tries the way to a consumer.
func TestTestOfAConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{Events: []rotation.Event{}, NeedsValue: true})
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.TestConsumer(ctx, tx, "acme", "app", someone)
			_, nobody := e.TestConsumer(ctx, tx, "acme", "nobody", someone)
			if !errors.Is(nobody, backends.ErrNotFound) {
				t.Errorf("one that there is not: %v", nobody)
			}
			return err
		})
		w.advance(time.Minute)
		d := w.delivery(rotation.EventTest)
		if d.State != rotation.DeliveryReceived || len(a.told) != 1 || !a.last[rotation.EventTest].Value.IsZero() {
			t.Errorf("it is %s: %q", d.State, a.told)
		}
		err := w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, _, err := e.Redeliver(ctx, tx, d.ID, someone)
			return err
		})
		if !errors.Is(err, backends.ErrConflict) {
			t.Errorf("a replay: %v", err)
		}
	})
}

// Who becomes a consumer of a secret is told of its current version, once.
func TestNewConsumerIsToldOfTheCurrentVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		w.define(func(d *rotation.Definition) { d.Consumers = nil })
		welcome := func() {
			t.Helper()
			w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				s, err := tx.Secret(ctx, secretID)
				return errors.Join(err, e.Welcome(ctx, tx, s, nil))
			})
			w.advance(time.Minute)
		}
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t)
		w.define(func(d *rotation.Definition) { d.Consumers = []string{"app"} })
		welcome()
		a.wantTold(t, "rotated v1 g1")
		welcome()
		a.wantTold(t)
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v2 g2")
		w.define(func(d *rotation.Definition) { d.Consumers = nil })
		w.advance(2 * time.Hour)
		w.rotate(t)
		w.advance(time.Minute)
		a.told = nil
		w.define(func(d *rotation.Definition) { d.Consumers = []string{"app"} })
		welcome() // it missed a generation
		a.wantTold(t, "rotated v3 g3")
	})
}

// What waits for a consumer that was pushed to can be collected as soon as it collects,
// and the other way round.
func TestConsumerThatCollectsFromNowOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		a.answer = func(engine.Message) engine.Outcome {
			return engine.Outcome{Next: 5 * time.Hour, Detail: "no connection", Down: true}
		}
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
		reload := func(inbox bool) {
			t.Helper()
			a.terms.Inbox = inbox
			w.boot(0, "a", false)
			if err := w.nodes[0].engine.Sweep(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		reload(true)
		if d := w.delivery(rotation.EventRotated); !d.NextAttemptAt.IsZero() { // long polls look for what has no time
			t.Errorf("it waits until %s", d.NextAttemptAt)
		}
		got, err := w.nodes[0].engine.Collect(context.Background(), "app", 10, collector("", anybody))
		if err != nil || len(got) != 1 {
			t.Fatalf("collected %d: %v", len(got), err)
		}
		a.told, a.answer = nil, nil
		w.pass(time.Minute)
		reload(false)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
	})
}

// A consumer that was taken out of a secret holds nothing up, and is given no version.
func TestConsumerThatWasTakenOutHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(acknowledging(rotation.RequireApplied), engine.Terms{})
		w.rotateTwice(t)
		w.advance(time.Hour)
		if r := w.rotationNumber(1); r.WaitingFor != rotation.WaitAcknowledgment {
			t.Fatalf("the rotation is %s and waits for %q", r.State, r.WaitingFor)
		}
		w.define(func(d *rotation.Definition) { d.Consumers = nil })
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			s, err := tx.Secret(ctx, secretID)
			return errors.Join(err, e.Welcome(ctx, tx, s, nil))
		})
		w.advance(2 * time.Hour)
		if r := w.rotationNumber(1); r.State != rotation.Done {
			w.tellStory(t)
			t.Errorf("the rotation is %s and waits for %q", r.State, r.WaitingFor)
		}
		a.told = nil
		w.define(func(d *rotation.Definition) { d.Consumers = []string{"app"} })
		w.rotate(t)
		w.stepRotation(t, 2) // it has begun with the consumer
		w.define(func(d *rotation.Definition) { d.Consumers = nil })
		w.advance(time.Minute)
		if s := w.secret(); s.Current != 3 {
			t.Fatalf("version %d is current", s.Current)
		}
		a.wantTold(t)
	})
}

// A rotation that was forced, and takes its time or fails, is told of once.
func TestConsumersAreToldOnceOfAForcedRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		w.define(func(d *rotation.Definition) { d.MaxAge, d.NoticeBefore = 24*time.Hour, 5*time.Hour })
		w.rotate(t)
		w.advance(time.Minute)
		w.reschedule(t)
		a.told = nil
		w.down["vault"] = true
		for range 28 * 60 {
			if err := w.nodes[0].engine.Tick(context.Background()); err != nil {
				t.Fatal(err)
			}
			w.advance(time.Minute)
		}
		a.wantTold(t, "rotating v1 g1")
	})
}

// What waits for a consumer that was taken out of the secret, or is another tenant's by
// now, is sent to nobody.
func TestNothingIsSentToWhoIsNoConsumerAnyMore(t *testing.T) {
	for name, change := range map[string]func(w *world, a *app){
		"taken out": func(w *world, _ *app) { w.define(func(d *rotation.Definition) { d.Consumers = nil }) },
		"another tenant's": func(w *world, a *app) {
			a.terms.Tenant = "somebody else"
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a := withApp(calmPlan(), engine.Terms{NeedsValue: true})
				a.answer = func(engine.Message) engine.Outcome {
					return engine.Outcome{Next: 10 * time.Minute, Detail: "status 503"}
				}
				w.rotate(t)
				w.advance(time.Minute)
				a.wantTold(t, "rotated v1 g1")
				change(w, a)
				w.advance(time.Hour)
				a.wantTold(t)
				if d := w.delivery(rotation.EventRotated); d.State != rotation.DeliveryDead || !strings.Contains(d.Error, "consumer of") {
					t.Errorf("it is %s: %q", d.State, d.Error)
				}
			})
		})
	}
}

// A consumer that was disabled for long is told of the current version all the same, and
// for as long as one that was not; so is one whose delivery is replayed.
func TestScheduleBeginsAnewWithEnablingAndReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{Endpoint: "here"})
		a.answer = func(engine.Message) engine.Outcome {
			return engine.Outcome{Gone: true, Next: -1, Detail: "status 410"}
		}
		w.rotate(t)
		w.advance(time.Minute)
		w.rotate(t)
		w.advance(2 * time.Hour)
		w.pass(100 * time.Hour)
		w.advance(time.Minute)
		a.told, a.answer = nil, nil
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			return e.EnableConsumer(ctx, tx, "app", someone)
		})
		w.advance(time.Minute)
		if !slices.Contains(a.told, "rotated v2 g2") || a.last[rotation.EventRotated].Age > time.Minute {
			t.Errorf("it is told %q, at the age of %s", a.told, a.last[rotation.EventRotated].Age)
		}
		w.pass(100 * time.Hour)
		a.told, a.terms.Instances = nil, 2
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			d, _, err := e.Redeliver(ctx, tx, w.delivery(rotation.EventRotated).ID, someone)
			if d.Instances != 2 {
				t.Errorf("%d instances are to acknowledge what is replayed", d.Instances)
			}
			return err
		})
		w.advance(time.Minute)
		a.wantTold(t, "rotated v2 g2")
		if a.last[rotation.EventRotated].Age > time.Minute {
			t.Errorf("replayed, its age is %s", a.last[rotation.EventRotated].Age)
		}
	})
}

// A consumer is told by the terms of the configuration that makes it one.
func TestNewConsumerIsToldByItsOwnTerms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		w.define(func(d *rotation.Definition) { d.Consumers = nil })
		w.rotate(t)
		w.advance(time.Minute)
		w.define(func(d *rotation.Definition) { d.Consumers = []string{"new"} })
		next := &engine.Catalog{Consumers: map[string]engine.Deliverer{"new": &app{w: w, terms: engine.Terms{Instances: 3, Inbox: true}}}}
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			s, err := tx.Secret(ctx, secretID)
			return errors.Join(err, e.Welcome(ctx, tx, s, next))
		})
		if d := w.delivery(rotation.EventRotated); d.Instances != 3 || !d.NextAttemptAt.IsZero() {
			t.Errorf("%d instances are to acknowledge it, next attempt %s", d.Instances, d.NextAttemptAt)
		}
		a.wantTold(t)
	})
}

// An endpoint that says that it is gone disables no other, which the consumer has by now.
func TestGoneIsAboutTheEndpointThatSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{Endpoint: "old"})
		other := &app{w: w, terms: engine.Terms{Endpoint: "new"}, last: map[rotation.Event]engine.Message{}}
		waiting := rotation.Delivery{ID: "waiting", SecretID: secretID, Ref: secretRef, Consumer: "app", Event: rotation.EventRetired, Version: 9, Generation: 1,
			State: rotation.DeliveryPending, CreatedAt: time.Now(), Since: time.Now(), NextAttemptAt: time.Now().Add(time.Hour), Revision: 1}
		w.store.state.deliveries.put(waiting.ID, waiting)
		a.answer = func(engine.Message) engine.Outcome { // it is configured anew meanwhile
			w.told = map[string]engine.Deliverer{"app": other}
			for _, n := range w.nodes {
				n.engine.SetCatalog(&engine.Catalog{Consumers: w.told})
			}
			return engine.Outcome{Gone: true, Next: -1, Detail: "status 410"}
		}
		w.rotate(t)
		w.advance(time.Minute)
		if d := w.store.state.deliveries.rows[waiting.ID]; d.NextAttemptAt.IsZero() {
			t.Error("what waits for the new one is held, too")
		}
		w.boot(0, "a", false)
		w.boot(1, "b", false)
		w.rotate(t)
		w.advance(time.Minute)
		other.wantTold(t, "rotated v2 g2")
	})
}

// Of several instances each says which one it is: who does not say is none of them.
func TestInstanceSaysWhichOneItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(acknowledging(rotation.RequireApplied), engine.Terms{Instances: 2})
		a.answer = func(m engine.Message) engine.Outcome {
			return engine.Outcome{Received: true, Claim: a.claim(m.Delivery, "")}
		}
		w.rotate(t)
		w.advance(time.Minute)
		d := w.delivery(rotation.EventRotated)
		if d.State != rotation.DeliveryReceived || !strings.Contains(d.Error, "instance") {
			t.Errorf("it is %s: %q", d.State, d.Error)
		}
		if _, err := w.nodes[0].engine.Acknowledge(context.Background(), d.ID, *a.claim(d, ""), someone); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("acknowledged without a name: %v", err)
		}
		acks, err := (&memTx{s: w.store, readOnly: true}).Acks(context.Background(), d.ID)
		if err != nil || len(acks) > 0 {
			t.Errorf("acknowledgements %+v: %v", acks, err)
		}
	})
}

// A test that arrives shows that the way is open: what waits is tried at once.
func TestTestThatArrivesHastensWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		a.answer = func(engine.Message) engine.Outcome {
			return engine.Outcome{Next: 5 * time.Hour, Detail: "status 401"}
		}
		w.rotate(t)
		w.advance(time.Minute)
		a.wantTold(t, "rotated v1 g1")
		a.answer = nil
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.TestConsumer(ctx, tx, secretRef.Tenant, "app", someone)
			return err
		})
		w.advance(time.Minute)
		a.wantTold(t, "consumer.test v0 g0", "rotated v1 g1")
	})
}

// A rotation that was forced and failed is tried again before long: nobody is told of each
// try ahead of it.
func TestConsumersAreNotToldOfEachTryOfAForcedRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		w.define(func(d *rotation.Definition) { d.MaxAge, d.NoticeBefore = 24*time.Hour, 5*time.Hour })
		w.rotate(t)
		w.advance(time.Minute)
		w.reschedule(t)
		a.told = nil
		w.probe.(*strict).refuses = func(string) bool { return true } // no new credential works
		for range 30 * 60 {
			if err := w.nodes[0].engine.Tick(context.Background()); err != nil {
				t.Fatal(err)
			}
			w.advance(time.Minute)
		}
		failed := 0
		for _, id := range w.store.state.rotations.order {
			if w.store.state.rotations.rows[id].State == rotation.Failed {
				failed++
			}
		}
		if failed < 3 {
			t.Errorf("%d rotations have failed", failed)
		}
		a.wantTold(t, "rotating v1 g1")
	})
}

// A consumer whose endpoint is left alone is tried once more when an emergency has
// replaced its credential, and at once after that no more than any other.
func TestAnEmergencyIsToldToWhoIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := withApp(calmPlan(), engine.Terms{})
		a.answer = func(engine.Message) engine.Outcome {
			return engine.Outcome{Next: time.Second, Down: true, Detail: "connection refused"}
		}
		w.rotate(t)
		w.advance(10 * time.Minute) // by now it is left alone for five minutes at a time
		a.answer, a.told = nil, nil // it is back
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone})
			return err
		})
		w.advance(20 * time.Second)
		if !slices.Contains(a.told, "rotated v2 g2") {
			w.tellStory(t)
			t.Errorf("it was told %q", a.told)
		}
	})
}
