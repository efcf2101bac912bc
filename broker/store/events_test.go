package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
)

// inboundEvent is an event of a trigger.
func inboundEvent(id, trigger, key, outcome string, at time.Time) store.Event {
	return store.Event{ID: id, Trigger: trigger, Key: key, EventID: key, Outcome: outcome, ReceivedAt: at.UTC(), Reason: "a test", Names: []string{"app/key"},
		Matches: []store.EventMatch{{SecretID: "s1", Ref: backends.Ref{Tenant: "t", Name: "app/key"}, Versions: []int{2}, By: "value", Outcome: outcome}}, Actor: "trigger/" + trigger}
}

func TestEventsAreTakenOnce(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		first := inboundEvent("evt_1", "leak", "e1", "receiving", now)
		add := func(ev store.Event) (kept store.Event, repeated bool) {
			update(t, db, func(tx *store.Tx) (err error) {
				kept, repeated, err = tx.AddEvent(ctx, ev)
				return err
			})
			return kept, repeated
		}
		if _, repeated := add(first); repeated {
			t.Error("the first is repeated")
		}
		kept, repeated := add(inboundEvent("evt_2", "leak", "e1", "held", now.Add(time.Hour)))
		if !repeated || kept.ID != "evt_1" || kept.Repeats != 1 || !kept.LastAt.Equal(now.Add(time.Hour)) || kept.Outcome != "receiving" {
			t.Errorf("the second gave %+v, %v", kept, repeated)
		}
		if _, repeated := add(inboundEvent("evt_3", "other", "e1", "test", now)); repeated {
			t.Error("that of another trigger is repeated")
		}
		first.Outcome, first.Matches[0].Outcome = "acted", "acted"
		update(t, db, func(tx *store.Tx) error { return tx.SaveEvent(ctx, first) })
		first.Repeats, first.LastAt = 1, now.Add(time.Hour).UTC()
		same(t, "a saved event", read(t, db, func(tx *store.Tx) (store.Event, error) { return tx.Event(ctx, "evt_1") }), first)
		update(t, db, func(tx *store.Tx) error { return tx.ForgetEvent(ctx, "evt_1") })
		if ev := read(t, db, func(tx *store.Tx) (store.Event, error) { return tx.EventOf(ctx, "leak", "e1") }); ev.ID != "evt_1" {
			t.Errorf("what came to something was forgotten: %+v", ev)
		}
		update(t, db, func(tx *store.Tx) error { return tx.PruneEvents(ctx, now.Add(time.Second)) })
		err := db.View(ctx, func(tx *store.Tx) error { _, err := tx.Event(ctx, "evt_1"); return err })
		if !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("a pruned one: %v", err)
		}
	})
}

// Of what came to nothing only the newest are kept; what people decide on, or what was
// done, stays.
func TestEventsStayFew(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		update(t, db, func(tx *store.Tx) error {
			for i := range 20 {
				outcome := []string{"nothing_matched", "held", "test", "acted", "repeated"}[i%5]
				if _, _, err := tx.AddEvent(ctx, inboundEvent(fmt.Sprint("evt_", i), "leak", fmt.Sprint(i), outcome, now.Add(time.Duration(i)*time.Second))); err != nil {
					return err
				}
			}
			_, _, err := tx.AddEvent(ctx, inboundEvent("evt_receiving", "leak", "r", "receiving", now))
			return err
		})
		left := read(t, db, func(tx *store.Tx) ([]store.Event, error) { return tx.UnfinishedEvents(ctx, now.Add(time.Second), 10) })
		if len(left) != 1 || left[0].ID != "evt_receiving" {
			t.Errorf("unfinished are %+v", left)
		}
		update(t, db, func(tx *store.Tx) error { return tx.ThinEvents(ctx, 5) })
		list := func(f store.EventFilter) []store.Event {
			return read(t, db, func(tx *store.Tx) ([]store.Event, error) {
				items, _, err := tx.Events(ctx, f, store.Page{})
				return items, err
			})
		}
		old := 0
		for _, ev := range list(store.EventFilter{Trigger: "leak"}) {
			if ev.ReceivedAt.Before(now.Add(14*time.Second)) && ev.Outcome != "held" && ev.Outcome != "acted" && ev.Outcome != "receiving" {
				old++
			}
		}
		held := list(store.EventFilter{Trigger: "leak", Outcome: "held"})
		if acted := list(store.EventFilter{Outcome: "acted"}); old > 0 || len(held) != 4 || len(acted) != 4 || held[0].ID != "evt_16" {
			t.Errorf("%d old ones, %d held, %d acted are left", old, len(held), len(acted))
		}
		update(t, db, func(tx *store.Tx) error {
			if all, held, err := tx.CountEvents(ctx, "leak"); err != nil || all != 4+4+1+3 && all != 4+4+1+4 || held != 4 {
				t.Errorf("%d events, %d held: %v", all, held, err)
			}
			return nil
		})
	})
}

func TestActsOfATriggerAreKept(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		a, b := addSecret(t, db, "a"), addSecret(t, db, "b")
		one := store.EventAct{Trigger: "leak", EventID: "evt_1", SecretID: a.ID, Versions: []int{1, 2}, RotationID: "r1", IncidentID: "i1", At: now.UTC()}
		two := store.EventAct{Trigger: "leak", EventID: "evt_1", SecretID: b.ID, Versions: []int{3}, At: now.Add(time.Minute).UTC(), Applied: true}
		update(t, db, func(tx *store.Tx) error { return errors.Join(tx.AddEventAct(ctx, one), tx.AddEventAct(ctx, two)) })
		err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddEventAct(ctx, one) })
		if !errors.Is(err, backends.ErrConflict) {
			t.Errorf("the same once more: %v", err)
		}
		acts := func(trigger string, since time.Time) []store.EventAct {
			return read(t, db, func(tx *store.Tx) ([]store.EventAct, error) { return tx.EventActs(ctx, trigger, since) })
		}
		same(t, "all", acts("leak", now.Add(-time.Second)), []store.EventAct{one, two})
		same(t, "later ones", acts("leak", now), []store.EventAct{two})
		if others := acts("other", now.Add(-time.Second)); len(others) > 0 {
			t.Errorf("another trigger did %+v", others)
		}
	})
}
