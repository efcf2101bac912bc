package store_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
	_ "time/tzdata" // the zone that TestScheduledJobInAnotherZone asks for

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/engine"
)

type wake struct {
	ID string `json:"id"`
}

func (wake) Kind() string { return "wake" }

type worker struct {
	river.WorkerDefaults[wake]
	work func(ctx context.Context, id string) error
}

func (w *worker) Work(ctx context.Context, job *river.Job[wake]) error {
	return w.work(ctx, job.Args.ID)
}

func workersThat(work func(ctx context.Context, id string) error) *river.Workers {
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{work: work})
	return workers
}

func start(t *testing.T, db *store.DB, work func(ctx context.Context, id string) error) {
	t.Helper()
	if err := db.Start(t.Context(), workersThat(work), store.StartOptions{}); err != nil {
		t.Fatal(err)
	}
}

func job(id string, at time.Time) river.InsertManyParams {
	return river.InsertManyParams{Args: wake{id}, InsertOpts: &river.InsertOpts{ScheduledAt: at}}
}

func TestJobsGoWithTheirTransaction(t *testing.T) {
	boom := errors.New("boom")
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		worked := make(chan string, 10)
		start(t, db, func(ctx context.Context, id string) error {
			// The row that the job was committed with is there.
			err := db.View(ctx, func(tx *store.Tx) error { _, err := tx.Secret(ctx, id); return err })
			if err != nil {
				t.Error(err)
			}
			worked <- id
			return nil
		})
		err := db.Update(ctx, func(tx *store.Tx) error {
			return errors.Join(tx.Enqueue(ctx, job("rolled back", time.Time{})), boom)
		})
		if !errors.Is(err, boom) {
			t.Fatal(err)
		}
		s := addSecret(t, db, "a")
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.Enqueue(ctx), tx.Enqueue(ctx, job(s.ID, time.Time{}), job(s.ID, time.Time{})))
		})
		for range 2 {
			if id := <-worked; id != s.ID {
				t.Errorf("worked %q", id)
			}
		}
		if err := db.Stop(ctx); err != nil {
			t.Error(err)
		}
		if len(worked) != 0 {
			t.Errorf("worked also %q", <-worked)
		}
	})
}

// An emergency does not queue behind what is waiting already.
func TestUrgentJobsHaveWorkersOfTheirOwn(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		const workers = 2
		running, urgent, end := make(chan string), make(chan string), make(chan struct{})
		work := func(_ context.Context, id string) error {
			if id == "urgent" {
				urgent <- id
				return nil
			}
			select {
			case running <- id:
				<-end
			case <-end: // one that had to wait
			}
			return nil
		}
		if err := db.Start(t.Context(), workersThat(work), store.StartOptions{MaxWorkers: workers}); err != nil {
			t.Fatal(err)
		}
		update(t, db, func(tx *store.Tx) error {
			var jobs []river.InsertManyParams
			for range 10 * workers {
				jobs = append(jobs, job("waiting", time.Time{}))
			}
			return tx.Enqueue(t.Context(), jobs...)
		})
		for range workers {
			<-running
		}
		update(t, db, func(tx *store.Tx) error {
			return tx.Enqueue(t.Context(), river.InsertManyParams{Args: wake{"urgent"}, InsertOpts: &river.InsertOpts{Queue: engine.QueueUrgent}})
		})
		select {
		case <-urgent:
		case id := <-running:
			t.Errorf("%s came first", id)
		}
		close(end)
		if err := db.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A job may be enqueued before Start and after Stop.
func TestJobsWaitForAWorker(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		worked := make(chan string, 1)
		for _, id := range []string{"first", "second"} {
			update(t, db, func(tx *store.Tx) error { return tx.Enqueue(t.Context(), job(id, time.Time{})) })
			start(t, db, func(_ context.Context, id string) error { worked <- id; return nil })
			if got := <-worked; got != id {
				t.Errorf("worked %q, not %q", got, id)
			}
			if err := db.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

func testScheduledJob(t *testing.T, db *store.DB) {
	const ahead = 700 * time.Millisecond
	at := time.Now().Add(ahead)
	worked := make(chan time.Time, 1)
	update(t, db, func(tx *store.Tx) error { return tx.Enqueue(t.Context(), job("later", at)) })
	start(t, db, func(context.Context, string) error { worked <- time.Now(); return nil })
	select {
	case when := <-worked:
		if when.Before(at) {
			t.Errorf("%v early", at.Sub(when))
		}
	case <-time.After(30 * time.Second):
		t.Error("it never came")
	}
	if err := db.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestScheduledJob(t *testing.T) { forEachDB(t, testScheduledJob) }

// River's driver for SQLite has confused local time with UTC: hours early in
// the west, hours late in the east.
func TestScheduledJobInAnotherZone(t *testing.T) {
	const child = "KEYBROKER_TEST_ZONE"
	if zone := os.Getenv(child); zone != "" {
		if _, offset := time.Now().Zone(); offset == 0 {
			t.Fatalf("the zone %s is not in force", zone)
		}
		testScheduledJob(t, open(t, sqliteConfig(t)))
		return
	}
	for _, zone := range []string{"America/New_York", "Asia/Tokyo"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestScheduledJobInAnotherZone$")
		cmd.Env = append(os.Environ(), "TZ="+zone, child+"="+zone)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("in %s: %v\n%s", zone, err, out)
		}
	}
}

func TestStartAndStopUnderStress(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		workers := workersThat(func(context.Context, string) error { return nil })
		for range 5 {
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					if err := db.Start(t.Context(), workers, store.StartOptions{}); err != nil {
						t.Error(err)
					}
				})
				all.Go(func() {
					if err := db.Stop(t.Context()); err != nil {
						t.Error(err)
					}
				})
				all.Go(func() {
					err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.Enqueue(t.Context(), job("x", time.Time{})) })
					if err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		}
		for range 2 {
			if err := db.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestStopTellsRunningJobs(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		cfg.Logger = nil // River warns of what this test does
		db := open(t, cfg)
		running, told := make(chan struct{}), make(chan struct{})
		workers := workersThat(func(ctx context.Context, _ string) error {
			close(running)
			<-ctx.Done()
			close(told)
			return nil
		})
		if err := db.Start(t.Context(), workers, store.StartOptions{StopTimeout: time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		update(t, db, func(tx *store.Tx) error { return tx.Enqueue(t.Context(), job("x", time.Time{})) })
		<-running
		if err := db.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		<-told
	})
}

func TestStopGivesUpWithItsContext(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		cfg.Logger = nil
		db := open(t, cfg)
		running, end := make(chan struct{}), make(chan struct{})
		start(t, db, func(context.Context, string) error { // deaf to its context
			close(running)
			<-end
			return nil
		})
		update(t, db, func(tx *store.Tx) error { return tx.Enqueue(t.Context(), job("x", time.Time{})) })
		<-running
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := db.Close(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		close(end)
		if err := db.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A job that a dead process was working comes again, though River would wait
// for its rescue.
func TestReleaseLeasesHandsJobsOver(t *testing.T) {
	cfg := sqliteConfig(t)
	cfg.Logger = nil
	db := open(t, cfg)
	tries, end := make(chan string, 2), make(chan struct{})
	start(t, db, func(_ context.Context, id string) error { tries <- id; <-end; return nil })
	update(t, db, func(tx *store.Tx) error { return tx.Enqueue(t.Context(), job("x", time.Time{})) })
	<-tries
	if err := db.ReleaseLeases(t.Context(), "node/2"); err != nil { // as if another process had started
		t.Fatal(err)
	}
	if id := <-tries; id != "x" {
		t.Errorf("got %q", id)
	}
	close(end)
}
