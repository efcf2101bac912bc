package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/engine"
)

// River's settings. A job is only a wake-up: the row is the truth and a sweep
// enqueues again what was lost, so jobs are kept for a short time and tried a
// few times only.
const (
	fetchCooldown   = 20 * time.Millisecond // least time between two fetches
	jobRetention    = 5 * time.Minute       // of finished jobs, for people who look
	jobAttempts     = 5
	defaultTimeout  = 5 * time.Minute
	defaultSoftStop = 10 * time.Second
	defaultUrgent   = 2048 // mostly waiting, too: for answers, and between two rounds of a proof. Shares bound them (see package engine)
	defaultPush     = 4096 // mostly waiting, too: for answers. Lanes bound them (see package engine)
	// soon is how far ahead a job is put straight into the queue, where it is
	// found within the poll interval. River moves the others there every 5 s.
	soon = time.Minute
)

// StartOptions are how jobs are worked.
type StartOptions struct {
	MaxWorkers int // jobs at once; 0: 16 on SQLite, 32 on PostgreSQL
	// UrgentWorkers is how many jobs of engine.QueueUrgent are worked besides, so
	// that they never wait behind others; 0: 2048.
	UrgentWorkers int
	// PushWorkers is how many of engine.QueuePush; 0: 4096.
	PushWorkers int
	JobTimeout  time.Duration // after which a job's context ends, unless its worker says otherwise; 0: 5 min
	StopTimeout time.Duration // that running jobs have to finish in Stop before their contexts end; 0: 10 s
	// Work does what the worker of a job does. With it as many jobs again that are
	// due at once, and come from transactions of this process, are worked without
	// going through the database; nil: none.
	Work func(ctx context.Context, args river.JobArgs)
}

// Start begins to work jobs, until Stop. Starting what is started does nothing.
func (db *DB) Start(ctx context.Context, workers *river.Workers, opts StartOptions) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return fmt.Errorf("starting workers: %w: the store is closed", backends.ErrUnavailable)
	}
	if db.runner != nil {
		return nil
	}
	timeout := orDefault(opts.JobTimeout, defaultTimeout)
	cfg := &river.Config{
		Queues: map[string]river.QueueConfig{
			river.QueueDefault: {MaxWorkers: opts.MaxWorkers},
			engine.QueueUrgent: {MaxWorkers: orDefault(opts.UrgentWorkers, defaultUrgent)},
			engine.QueuePush:   {MaxWorkers: orDefault(opts.PushWorkers, defaultPush)},
		},
		Workers:                     workers,
		Logger:                      db.log,
		FetchCooldown:               fetchCooldown,
		MaxAttempts:                 jobAttempts,
		JobTimeout:                  timeout,
		RescueStuckJobsAfter:        timeout + time.Minute,
		SoftStopTimeout:             orDefault(opts.StopTimeout, defaultSoftStop),
		CompletedJobRetentionPeriod: jobRetention,
		CancelledJobRetentionPeriod: jobRetention,
		DiscardedJobRetentionPeriod: time.Hour,
	}
	r, err := db.driver.newRunner(cfg)
	if err != nil {
		return fmt.Errorf("starting workers: %w: %w", backends.ErrInvalid, err)
	}
	// River would take the end of ctx for an order to stop.
	if err := r.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("starting workers: %w: %w", backends.ErrUnavailable, err)
	}
	db.runner = r
	if opts.Work != nil {
		db.hands.Store(newHands(ctx, opts.Work, cfg.Queues, timeout, cfg.SoftStopTimeout, db.log))
	}
	return nil
}

// Stop takes no more jobs and waits for those that run: their contexts end
// after StopTimeout, or at once when ctx ends, which is then the error.
// Stopping what is stopped does nothing; Start may follow.
func (db *DB) Stop(ctx context.Context) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.runner == nil {
		return nil
	}
	handsStopped := make(chan error, 1)
	go func() { handsStopped <- db.hands.Load().stop(ctx) }()
	err := db.runner.Stop(ctx)
	if err != nil && ctx.Err() != nil {
		// The jobs are told; whoever calls Stop again can see them end.
		if again := db.runner.StopAndCancel(ctx); again == nil {
			err = nil
		}
	}
	if err = errors.Join(err, <-handsStopped); err != nil {
		return fmt.Errorf("stopping workers: %w: %w", backends.ErrUnavailable, err)
	}
	db.runner = nil
	db.hands.Store(nil)
	return nil
}

// Enqueue commits wake-ups with the transaction: River's jobs, or what is handed
// over right after the commit (see hands).
func (tx *Tx) Enqueue(ctx context.Context, jobs ...river.InsertManyParams) error {
	var params []river.InsertManyParams
	for _, job := range jobs {
		if tx.hands.takes(job, tx.now()) {
			tx.handed = append(tx.handed, job)
			continue
		}
		params = append(params, river.InsertManyParams{Args: job.Args, InsertOpts: wholeMilliseconds(job.InsertOpts, tx.now())})
	}
	if len(params) == 0 {
		return nil
	}
	results, err := tx.t.enqueue(ctx, params)
	if err != nil {
		return fmt.Errorf("enqueuing jobs: %w", err)
	}
	for _, r := range results {
		if r.UniqueSkippedAsDuplicate || r.Job.State != rivertype.JobStateScheduled || r.Job.ScheduledAt.After(tx.now().Add(soon)) {
			continue
		}
		if _, err := tx.t.exec(ctx, "UPDATE river_job SET state = 'available' WHERE id = $1 AND state = 'scheduled'", r.Job.ID); err != nil {
			return fmt.Errorf("enqueuing jobs: %w", err)
		}
	}
	return nil
}

// wholeMilliseconds rounds a job's time up to what riversqlite can store, so
// that no job comes before its row is due. What is due already takes no time.
func wholeMilliseconds(o *river.InsertOpts, now time.Time) *river.InsertOpts {
	if o == nil || o.ScheduledAt.IsZero() {
		return o
	}
	up := *o
	if !o.ScheduledAt.After(now) {
		up.ScheduledAt = time.Time{}
		return &up
	}
	if up.ScheduledAt = o.ScheduledAt.UTC().Truncate(time.Millisecond); up.ScheduledAt.Before(o.ScheduledAt) {
		up.ScheduledAt = up.ScheduledAt.Add(time.Millisecond)
	}
	return &up
}

// ReleaseLeases ends the leases of intents that do not belong to owner, and
// hands the jobs that were being worked to whoever comes. It is called once,
// before Start, by a process that has just opened the store: on SQLite it is the
// only one, so everything under way belongs to a predecessor that is dead. On
// PostgreSQL other nodes may be alive and ReleaseLeases does nothing: leases run
// out by themselves. Intents stay: what was begun must be recovered.
func (db *DB) ReleaseLeases(ctx context.Context, owner string) error {
	if !db.driver.exclusive() {
		return nil
	}
	err := db.Update(ctx, func(tx *Tx) error {
		return errors.Join(
			tx.releaseRotations(ctx, owner),
			tx.releaseRetirements(ctx, owner),
			tx.releasePlacements(ctx, owner),
			tx.execOnly(ctx, "UPDATE deliveries SET lease_until = NULL, revision = revision + 1 WHERE lease_until IS NOT NULL"),
			tx.execOnly(ctx, "UPDATE river_job SET state = 'available' WHERE state = 'running'"),
		)
	})
	if err != nil {
		return fmt.Errorf("releasing leases: %w", err)
	}
	return nil
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}
