package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/probe"
)

// strict is a probe of one server, which refuses what it is told to refuse and
// notes when it rejected which value.
type strict struct {
	prober
	refuses  func(value string) bool
	rejected map[string][]time.Time
}

func (p *strict) Addresses(context.Context) ([]string, error) { return []string{"10.0.0.1:443"}, nil }

func (p *strict) Try(ctx context.Context, t probe.Try) probe.Result {
	text, res := t.Value.Reveal()[valueField], p.prober.Try(ctx, t)
	if p.refuses != nil && p.refuses(text) {
		res.Verdict, res.Detail = rotation.Rejected, "status 401"
	}
	if res.Verdict == rotation.Rejected {
		p.rejected[text] = append(p.rejected[text], time.Now())
	}
	return res
}

// inARow is how many rejections of one value came without an hour between two of
// them, at most: that is what locks an account.
func (p *strict) inARow() (most int) {
	for _, times := range p.rejected {
		row := 0
		for i, at := range times {
			if i > 0 && at.Sub(times[i-1]) >= time.Hour {
				row = 0
			}
			row++
			most = max(most, row)
		}
	}
	return most
}

// calmPlan is one whose every time is told apart from the others.
func calmPlan() rotation.Plan {
	return rotation.Plan{Overlap: time.Hour, MaxOverlap: time.Hour,
		Verify:    rotation.Verify{Successes: 1, Interval: time.Second, Timeout: 2 * time.Minute},
		Confirm:   rotation.Confirm{Rejections: 1, Recheck: []time.Duration{time.Hour}},
		Emergency: rotation.Emergency{ReplaceWithin: time.Minute}}
}

// calmWorld is a world in which nothing goes wrong but what a test lets go wrong:
// two nodes, an issuer that finds by tag and a vault without stages.
func calmWorld(plan rotation.Plan, lockout int) (*world, *strict) {
	w := newWorld(1, true)
	w.rates, w.faulty, w.store.exclusive = map[string]float64{}, false, true
	w.furnish()
	p := &strict{prober: prober{w: w, lockout: lockout}, rejected: map[string][]time.Time{}}
	w.probe = p
	s := w.secret()
	s.Definition = rotation.Definition{Backend: "vault", Issuer: "finding", Probe: "probe", Plan: plan}
	w.store.state.secrets.put(s.ID, s)
	w.issuers["finding"].traits.MaxLive, w.issuers["finding"].slowest = 0, 0
	for i, name := range []string{"a", "b"} {
		w.boot(i, name, false)
	}
	return w, p
}

// ask lets an operator ask the first node for something.
func (w *world) ask(fn func(context.Context, engine.Tx, *engine.Engine) error) error {
	ctx := context.Background()
	return w.store.latest(ctx, func(tx engine.Tx) error { return fn(ctx, tx, w.nodes[0].engine) })
}

func (w *world) must(t *testing.T, fn func(context.Context, engine.Tx, *engine.Engine) error) {
	t.Helper()
	if err := w.ask(fn); err != nil {
		t.Fatal(err)
	}
}

func (w *world) rotate(t *testing.T) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
		_, err := e.Rotate(ctx, tx, secretID, rotation.TriggerManual, someone)
		return err
	})
}

// rotateTwice brings the secret to version 2, with version 1 in its overlap.
func (w *world) rotateTwice(t *testing.T) {
	t.Helper()
	for range 2 {
		w.rotate(t)
		w.advance(time.Minute)
	}
	if s := w.secret(); s.Current != 2 || w.rotationNumber(1).State != rotation.Overlap {
		w.tellStory(t)
		t.Fatalf("version %d is current and the rotation is %s", s.Current, w.rotationNumber(1).State)
	}
}

// rollBack asks for version 1 to come back.
func (w *world) rollBack(t *testing.T) (will string) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
		_, sentences, err := e.RollBack(ctx, tx, w.rotationNumber(1).ID, someone)
		will = strings.Join(sentences, "\n")
		return err
	})
	return will
}

func (w *world) freeze(t *testing.T) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
		_, _, err := e.Freeze(ctx, tx, someone)
		return err
	})
}

func (w *world) unfreeze(t *testing.T) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
		_, err := e.Unfreeze(ctx, tx, someone)
		return err
	})
}

// advance takes every step that is due within d, and lets d go by.
func (w *world) advance(d time.Duration) {
	end := time.Now().Add(d)
	for range 20000 {
		before := w.counts["steps"]
		if w.step(); w.counts["steps"] > before {
			continue
		}
		left := time.Until(end)
		if left <= 0 {
			return
		}
		if next := w.untilNext(); next > 0 {
			left = min(left, next)
		}
		w.pass(left)
	}
	w.violated("there is no end of it")
}

// event happens when a step is held at the point whose name begins with at.
type event struct {
	at string
	do func()
}

// stepRotation takes a step of rotation i (counted from 0) in the first node;
// the events happen in its course, in this order.
func (w *world) stepRotation(t *testing.T, i int, events ...event) {
	t.Helper()
	id := w.rotationNumber(i).ID
	w.course(t, func(ctx context.Context) error {
		_, err := w.nodes[0].engine.StepRotation(ctx, id)
		return err
	}, events)
}

func (w *world) stepRetirement(t *testing.T, version int, events ...event) {
	t.Helper()
	r, _ := w.retirementOf(version)
	w.course(t, func(ctx context.Context) error {
		_, err := w.nodes[0].engine.StepRetirement(ctx, r.ID)
		return err
	}, events)
}

func (w *world) course(t *testing.T, take func(context.Context) error, events []event) {
	t.Helper()
	w.rates["park"], w.faulty = 1, len(events) > 0
	w.start(w.nodes[0], "step", "step", take)
	for len(w.parked) > 0 {
		wk := w.parked[0]
		if len(events) > 0 && strings.HasPrefix(wk.at, events[0].at) {
			events[0].do()
			events = events[1:]
			w.faulty = len(events) > 0
		}
		w.resume(wk)
	}
	w.rates["park"], w.faulty = 0, false
	if len(events) > 0 {
		w.tellStory(t)
		t.Fatalf("the step was not held at %q", events[0].at)
	}
}

// withFault takes a step of rotation i while every request suffers from a fault.
func (w *world) withFault(t *testing.T, fault string, i int) {
	t.Helper()
	w.rates[fault], w.faulty = 1, true
	id := w.rotationNumber(i).ID
	w.start(w.nodes[0], "step", "step", func(ctx context.Context) error {
		_, err := w.nodes[0].engine.StepRotation(ctx, id)
		return err
	})
	w.rates[fault], w.faulty = 0, false
}

// rotationNumber returns the rotation that was the i-th to begin, from 0 on.
func (w *world) rotationNumber(i int) rotation.Rotation {
	return w.store.state.rotations.rows[w.store.state.rotations.order[i]]
}

// alive tells whether the issuer accepts a version.
func (w *world) alive(version int) bool {
	v, _ := w.version(version)
	c := w.credentialOf(v.Tag)
	return c != nil && c.revokedAt.IsZero()
}

// writeBehind lets the vault hold a version's value again, under an id of which
// the store knows nothing.
func (w *world) writeBehind(value backends.Value) {
	w.vault.add(value, "unknown")
	w.vault.current = len(w.vault.values)
}

func valueOf(text string) func(string) bool { return func(value string) bool { return value == text } }

func everything(string) bool { return true }

func (w *world) tellStory(t *testing.T) {
	t.Helper()
	t.Log(w.shorten(strings.Join(w.log, "\n")))
}

// verdict fails the test, with the story, if an invariant did not hold or check
// finds something.
func (w *world) verdict(t *testing.T, check func(wrong func(format string, args ...any))) {
	t.Helper()
	check(w.violated)
	if len(w.wrong) > 0 {
		w.tellStory(t)
		t.Fatal(strings.Join(w.wrong, "\n"))
	}
}
