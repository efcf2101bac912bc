package store

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/riverqueue/river"
)

// hands work the jobs of this process's transactions that are due at once, after
// the commit and without taking them through the database: inserting, fetching
// and completing a job there costs more than most jobs do. Those that wait for a
// free hand wait in memory. What is lost with the process is what the sweep is
// for, as with a job that River loses.
type hands struct {
	work    func(context.Context, river.JobArgs)
	timeout time.Duration // of one job
	soft    time.Duration // that jobs have to finish once stopped
	log     *slog.Logger

	ctx    context.Context // of all jobs
	cancel context.CancelFunc
	busy   sync.WaitGroup

	mu     sync.Mutex
	queues map[string]*handQueue // as River's; nil once stopped
}

type handQueue struct {
	free    int
	waiting []river.JobArgs
}

func newHands(ctx context.Context, work func(context.Context, river.JobArgs), queues map[string]river.QueueConfig, timeout, soft time.Duration, log *slog.Logger) *hands {
	h := &hands{work: work, timeout: timeout, soft: soft, log: log, queues: map[string]*handQueue{}}
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for name, q := range queues {
		h.queues[name] = &handQueue{free: q.MaxWorkers}
	}
	return h
}

// takes tells whether a job is one for them.
func (h *hands) takes(job river.InsertManyParams, now time.Time) bool {
	if h == nil || job.InsertOpts != nil && job.InsertOpts.ScheduledAt.After(now) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.queues[queueOf(job)] != nil
}

func queueOf(job river.InsertManyParams) string {
	if job.InsertOpts == nil || job.InsertOpts.Queue == "" {
		return river.QueueDefault
	}
	return job.InsertOpts.Queue
}

// take begins a job, or keeps it until a hand is free. Once stopped they forget it.
func (h *hands) take(job river.InsertManyParams) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queues[queueOf(job)]
	if q == nil {
		return
	}
	q.waiting = append(q.waiting, job.Args)
	if q.free > 0 {
		q.free--
		h.busy.Go(func() { h.serve(q) })
	}
}

// serve works jobs of a queue until none waits.
func (h *hands) serve(q *handQueue) {
	for {
		h.mu.Lock()
		if len(q.waiting) == 0 {
			q.free++
			h.mu.Unlock()
			return
		}
		job := q.waiting[0]
		q.waiting = q.waiting[1:]
		h.mu.Unlock()
		h.do(job)
	}
}

func (h *hands) do(job river.JobArgs) {
	ctx, cancel := context.WithTimeout(h.ctx, h.timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // as River does
			h.log.Error("a job panicked", "kind", job.Kind(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	h.work(ctx, job)
}

// stop takes no more jobs, forgets those that wait, and waits for the others:
// their contexts end after h.soft, or when ctx ends, which is then the error.
func (h *hands) stop(ctx context.Context) error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	for _, q := range h.queues {
		q.waiting = nil
	}
	h.queues = nil
	h.mu.Unlock()

	done := make(chan struct{})
	go func() {
		h.busy.Wait()
		close(done)
	}()
	defer h.cancel()
	select {
	case <-done:
		return nil
	case <-time.After(h.soft):
		h.cancel()
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
