package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/broker/store"
)

// startWithHands starts workers that must not be needed beside hands that do work.
func startWithHands(t *testing.T, db *store.DB, opts store.StartOptions, work func(ctx context.Context, id string)) {
	t.Helper()
	opts.Work = func(ctx context.Context, args river.JobArgs) { work(ctx, args.(wake).ID) }
	workers := workersThat(func(_ context.Context, id string) error {
		t.Errorf("job %s went through the database", id)
		return nil
	})
	if err := db.Start(t.Context(), workers, opts); err != nil {
		t.Fatal(err)
	}
}

func TestHandsTakeWhatIsCommitted(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		cfg.Logger = nil // which is told of the panic
		db := open(t, cfg)
		s := addSecret(t, db, "a")
		worked := make(chan string, 10)
		startWithHands(t, db, store.StartOptions{MaxWorkers: 1}, func(ctx context.Context, id string) {
			err := db.View(ctx, func(tx *store.Tx) error { _, err := tx.Secret(ctx, s.ID); return err })
			if err != nil {
				t.Error(err)
			}
			worked <- id
			if id == "1" {
				panic("it may")
			}
		})
		boom := errors.New("boom")
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			return errors.Join(tx.Enqueue(t.Context(), job("0", time.Time{})), boom)
		})
		if !errors.Is(err, boom) {
			t.Error(err)
		}
		for _, id := range []string{"1", "2", "3"} {
			update(t, db, func(tx *store.Tx) error { return tx.Enqueue(t.Context(), job(id, time.Now())) })
		}
		for _, want := range []string{"1", "2", "3"} {
			if id := <-worked; id != want {
				t.Errorf("got %s, want %s", id, want)
			}
		}
		if err := db.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What waits for a free hand is forgotten when they stop, as by a process that
// dies: the sweep finds it. What comes later goes through the database.
func TestHandsStop(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		cfg.Logger = nil
		db := open(t, cfg)
		running, told := make(chan struct{}), make(chan struct{})
		startWithHands(t, db, store.StartOptions{MaxWorkers: 1, StopTimeout: time.Millisecond}, func(ctx context.Context, id string) {
			if id != "first" {
				t.Errorf("%s was worked", id)
				return
			}
			close(running)
			<-ctx.Done()
			close(told)
		})
		update(t, db, func(tx *store.Tx) error {
			return tx.Enqueue(t.Context(), job("first", time.Time{}), job("waits", time.Time{}))
		})
		<-running
		if err := db.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		<-told
		update(t, db, func(tx *store.Tx) error { return tx.Enqueue(t.Context(), job("later", time.Time{})) })
		worked := make(chan string)
		start(t, db, func(_ context.Context, id string) error { worked <- id; return nil })
		if id := <-worked; id != "later" {
			t.Errorf("got %s", id)
		}
	})
}
