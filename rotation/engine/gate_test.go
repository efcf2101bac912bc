package engine_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// gated is a calm world whose secret has a pair, a policy with room for one, and
// neighbours in both.
func gated(change func(*rotation.Definition)) *world {
	w, _ := calmWorld(calmPlan(), 0)
	w.define(change)
	return w
}

// define changes what the configuration says of the secret.
func (w *world) define(change func(*rotation.Definition)) {
	s := w.secret()
	change(&s.Definition)
	w.store.state.secrets.put(s.ID, s)
}

// neighbour puts another secret of the same definition into the store, with a rotation
// that has come to a state; its ids are ordered by its number.
func (w *world) neighbour(n int, state rotation.State, waitingFor string) (rotationID string) {
	s, now := w.secret(), time.Now()
	s.ID, s.Ref.Name, s.Current, s.LastVersion, s.NextDueAt = fmt.Sprint("neighbour-", n), fmt.Sprint("app/neighbour-", n), 0, 0, time.Time{}
	w.store.state.secrets.put(s.ID, s)
	r := rotation.Rotation{ID: fmt.Sprintf("00000000-neighbour-%d", n), SecretID: s.ID, Trigger: rotation.TriggerManual, State: state, WaitingFor: waitingFor, From: 1,
		Plan: s.Definition.Plan, CreatedAt: now, StepSince: now, NextAt: now.Add(1000 * time.Hour), OverlapUntil: now.Add(1000 * time.Hour), Revision: 1}
	w.store.state.rotations.put(r.ID, r)
	return r.ID
}

// leaves lets a neighbour's rotation end.
func (w *world) leaves(t *testing.T, id string) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
		_, _, err := e.Cancel(ctx, tx, id, someone)
		return err
	})
}

func (w *world) waitsFor(t *testing.T, i int, why string) rotation.Rotation {
	t.Helper()
	r := w.rotationOf(secretID, i)
	if r.State != rotation.Queued || r.WaitingFor != why {
		w.tellStory(t)
		t.Fatalf("the rotation is %s and waits for %q, want %q", r.State, r.WaitingFor, why)
	}
	return r
}

// rotationOf returns the rotation of a secret that was the i-th to begin.
func (w *world) rotationOf(secret string, i int) rotation.Rotation {
	for _, id := range w.store.state.rotations.order {
		if r := w.store.state.rotations.rows[id]; r.SecretID == secret {
			if i == 0 {
				return r
			}
			i--
		}
	}
	return rotation.Rotation{}
}

var (
	paired  = func(d *rotation.Definition) { d.Pair = "payments" }
	crowded = func(d *rotation.Definition) { d.Policy, d.MaxConcurrent = "standard", 2 }
)

// TestGatesHoldAndLetIn: who has to wait at a gate begins nothing, and begins as soon as
// another rotation has left it, without having asked again and again.
func TestGatesHoldAndLetIn(t *testing.T) {
	for name, c := range map[string]struct {
		define  func(*rotation.Definition)
		through []rotation.State // of the neighbours
		waits   string           // empty: for nothing
	}{
		"a pair that is minting":               {paired, []rotation.State{rotation.Minting}, rotation.WaitPair},
		"a pair in its overlap":                {paired, []rotation.State{rotation.Overlap}, rotation.WaitPair},
		"a pair that is queued":                {paired, []rotation.State{rotation.Queued}, ""},
		"a pair that is retiring":              {paired, []rotation.State{rotation.Retiring}, ""},
		"a policy that is full":                {crowded, []rotation.State{rotation.Minting, rotation.Verifying}, rotation.WaitConcurrency},
		"a policy with room":                   {crowded, []rotation.State{rotation.Publishing}, ""},
		"a policy whose others have published": {crowded, []rotation.State{rotation.Overlap, rotation.Overlap, rotation.Staging}, ""},
		"a policy without a limit":             {func(d *rotation.Definition) { d.Policy = "standard" }, []rotation.State{rotation.Minting, rotation.Minting}, ""},
		"another policy":                       {func(*rotation.Definition) {}, []rotation.State{rotation.Minting, rotation.Minting}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := gated(c.define)
				var neighbours []string
				for i, state := range c.through {
					neighbours = append(neighbours, w.neighbour(i, state, ""))
				}
				w.rotate(t)
				w.advance(time.Hour)
				if c.waits == "" {
					if s := w.secret(); s.Current != 1 {
						t.Fatalf("version %d is current", s.Current)
					}
					return
				}
				w.waitsFor(t, 0, c.waits)
				if steps := w.counts["steps"]; steps > 8 {
					t.Errorf("it took %d steps to wait an hour", steps)
				}
				if made := len(w.issuers["finding"].made); made > 0 {
					t.Errorf("%d credentials were made", made)
				}
				if state := c.through[0]; state == rotation.Overlap {
					w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error { // its overlap ends
						r, err := tx.Rotation(ctx, neighbours[0])
						if err != nil {
							return err
						}
						before := r
						r.RetireBegun(time.Now())
						if err := e.Moved(ctx, tx, before, r); err != nil {
							return err
						}
						return tx.SaveRotation(ctx, &r)
					})
				} else {
					w.leaves(t, neighbours[0])
				}
				w.advance(time.Second)
				if s := w.secret(); s.Current != 1 {
					w.tellStory(t)
					t.Errorf("a second after the other left version %d is current", s.Current)
				}
			})
		})
	}
}

// TestAGateThatIsTakenMeanwhileHolds: that it was open when it was looked at is not
// enough, and an emergency passes it all the same.
func TestAGateThatIsTakenMeanwhileHolds(t *testing.T) {
	for name, define := range map[string]func(*rotation.Definition){
		rotation.WaitPair:        paired,
		rotation.WaitConcurrency: func(d *rotation.Definition) { d.Policy, d.MaxConcurrent = "standard", 1 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := gated(define)
				w.rotate(t)
				w.stepRotation(t, 0, event{"transaction", func() { w.neighbour(1, rotation.Minting, "") }})
				w.advance(time.Minute)
				w.waitsFor(t, 0, name)
				if made := len(w.issuers["finding"].made); made > 0 {
					t.Errorf("%d credentials were made", made)
				}
			})
		})
	}
}

// TestTheOldestWaitsNoLonger: a newcomer does not take the room that somebody has waited
// for, and who gives its turn up passes it on.
func TestTheOldestWaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := gated(func(d *rotation.Definition) { d.Policy, d.MaxConcurrent = "standard", 1 })
		running := w.neighbour(1, rotation.Minting, "")
		older := w.neighbour(2, rotation.Queued, rotation.WaitConcurrency)
		w.rotate(t)
		w.advance(time.Minute)
		w.waitsFor(t, 0, rotation.WaitConcurrency)
		w.leaves(t, running)
		if r := w.store.state.rotations.rows[older]; r.NextAt.After(time.Now()) {
			t.Errorf("the one that waited longest looks again at %s", r.NextAt)
		}
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error { // ours asks for it too
			_, _, err := e.Retry(ctx, tx, w.rotationOf(secretID, 0).ID, someone)
			return err
		})
		ours := w.rotationOf(secretID, 0)
		if _, err := w.nodes[0].engine.StepRotation(context.Background(), ours.ID); err != nil {
			t.Fatal(err)
		}
		w.waitsFor(t, 0, rotation.WaitConcurrency)
		w.leaves(t, older)
		w.advance(time.Second)
		if s := w.secret(); s.Current != 1 {
			w.tellStory(t)
			t.Errorf("version %d is current", s.Current)
		}
	})
}

// TestAnEmergencyPassesEveryGateAndWindow.
func TestAnEmergencyPassesEveryGateAndWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := gated(func(d *rotation.Definition) {})
		w.rotate(t)
		w.advance(time.Minute)
		w.define(func(d *rotation.Definition) {
			d.Pair, d.Policy, d.MaxConcurrent, d.Window = "payments", "standard", 1, "Wed 02:00-03:00" // it is Saturday
		})
		w.neighbour(1, rotation.Minting, "")
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, err := e.Declare(ctx, tx, secretID, engine.Emergency{Asked: someone})
			return err
		})
		w.advance(time.Minute)
		if s := w.secret(); s.Current != 2 {
			w.tellStory(t)
			t.Errorf("version %d is current", s.Current)
		}
	})
}

// TestAWindowIsWaitedFor: what would begin outside of it begins as it opens, at once if
// somebody asks for that, and goes on when it closes.
func TestAWindowIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := gated(func(d *rotation.Definition) { d.Window, d.TimeZone = "Mon 02:00-02:30", "Europe/Berlin" }) // it is Saturday 00:00 UTC
		w.rotate(t)
		w.advance(time.Hour)
		opens := time.Date(2000, 1, 3, 1, 0, 0, 0, time.UTC)
		if r := w.waitsFor(t, 0, rotation.WaitWindow); !r.NextAt.Equal(opens) {
			t.Errorf("it looks again at %s, want %s", r.NextAt, opens)
		}
		if steps := w.counts["steps"]; steps > 2 {
			t.Errorf("it took %d steps to wait an hour", steps)
		}
		w.advance(time.Until(opens) - time.Second)
		if due := w.beginning(t); len(due.Rotations) != 0 {
			t.Error("it is to begin before the window opens")
		}
		w.pass(time.Second)
		if due := w.beginning(t); len(due.Rotations) != 1 {
			t.Error("nothing begins as the window opens")
		}
		w.advance(29 * time.Minute)
		if s := w.secret(); s.Current != 1 {
			t.Errorf("version %d is current", s.Current)
		}
		w.advance(2 * time.Minute) // it has closed
		ask := func(ignore bool) error {
			return w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				asked := someone
				asked.IgnoreWindow = ignore
				_, err := e.Rotate(ctx, tx, secretID, rotation.TriggerManual, asked)
				return err
			})
		}
		for _, ignore := range []bool{false, true} { // the second one finds the first in the queue
			if err := ask(ignore); err != nil {
				t.Fatal(err)
			}
			w.advance(time.Second)
		}
		if s, n := w.secret(), len(w.store.state.rotations.order); s.Current != 2 || n != 2 {
			t.Errorf("version %d is current, after %d rotations", s.Current, n)
		}
	})
}

func (w *world) beginning(t *testing.T) (due engine.Due) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, _ *engine.Engine) (err error) {
		due, err = tx.Beginning(ctx, time.Now(), 10)
		return err
	})
	return due
}

// TestOutlooksTellWhatIsWaitedFor, and what ends it.
func TestOutlooksTellWhatIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		define func(*rotation.Definition)
		want   rotation.Blocker
	}{
		"window": {func(d *rotation.Definition) { d.Window, d.TimeZone = "Mon 02:00-02:30", "Europe/Berlin" },
			rotation.Blocker{WaitingFor: "window", Detail: "its window (Mon 02:00-02:30) opens Mon 2000-01-03 02:00 Europe/Berlin",
				Mend: "it begins then, or now by `keybroker secret rotate app/key --ignore-window`"}},
		"pair": {paired, rotation.Blocker{WaitingFor: "pair", Detail: `rotation 00000000-neighbour-1 of another secret of its pair "payments" has not come to the end of its overlap`,
			Mend: "it begins in its turn, as soon as there is room; an emergency does not wait"}},
		"concurrency": {func(d *rotation.Definition) { d.Policy, d.MaxConcurrent = "standard", 1 },
			rotation.Blocker{WaitingFor: "concurrency", Detail: `as many secrets of policy "standard" are rotating as may at once (1): 00000000-neighbour-1`,
				Mend: "it begins in its turn, as soon as there is room; an emergency does not wait"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := gated(c.define)
				w.neighbour(1, rotation.Minting, "")
				for i := range 2 { // before anybody has asked for a rotation, and of the one in the queue
					o, err := w.nodes[0].engine.Outlook(context.Background(), secretID)
					if err != nil {
						t.Fatal(err)
					}
					if len(o.WhyNot) != 1 || o.WhyNot[0] != c.want {
						t.Errorf("it says %+v", o.WhyNot)
					}
					if i == 0 {
						w.rotate(t)
						w.advance(time.Minute)
					}
				}
			})
		})
	}
}
