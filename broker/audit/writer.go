package audit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// run is the one goroutine that writes. All that waits when it comes round is written
// at once.
func (l *Log) run() {
	var syncing sync.WaitGroup
	syncing.Go(l.syncLoop)
	defer close(l.ended)
	t := time.NewTicker(signEvery)
	defer t.Stop()
	for {
		select {
		case <-l.kick:
			l.writeQueue()
			continue
		case <-t.C:
			l.tick()
			continue
		case <-l.stop:
		}
		break
	}
	l.writeQueue()
	close(l.syncs.stop)
	syncing.Wait()
	var err error
	l.writing.watch(func() { err = l.journal.close() })
	if err == nil {
		l.publish(l.journal.progressed())
	}
	_ = l.settle(err) // Close tells
}

// settle keeps how writing went.
func (l *Log) settle(err error) error {
	if err != nil {
		err = fmt.Errorf("%w: writing the audit log: %w", backends.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if (l.failed == nil) != (err == nil) && !l.closed {
		if err != nil {
			l.cfg.Logger.Error("the audit log cannot be written; requests that no sink takes the record of are refused", "error", err)
		} else {
			l.cfg.Logger.Info("the audit log can be written again")
		}
	}
	l.failed = err
	return err
}

// writeQueue writes what waits, in parts.
func (l *Log) writeQueue() {
	for {
		l.mu.Lock()
		var taken []*batch
		size, more := 0, false
		for size < maxBatch && len(l.queue) > 0 {
			more = true
			b := l.queue[0]
			l.queue = l.queue[1:]
			for _, q := range b.lines {
				l.queued -= len(q.body)
				size += len(q.body)
			}
			if b.take() {
				taken = append(taken, b)
			}
		}
		l.mu.Unlock()
		if len(taken) == 0 {
			if !more {
				return
			}
			continue
		}
		l.writeBatches(taken)
	}
}

// writeBatches writes batches at once, with what is held before them, and answers
// those that need no sync.
func (l *Log) writeBatches(all []*batch) {
	l.mu.Lock()
	lines := append([]queued(nil), l.held...)
	l.mu.Unlock()
	held := len(lines)
	for _, b := range all {
		lines = append(lines, b.lines...)
		if b.sign {
			l.journal.signedAt = time.Time{} // it is due
		}
	}
	err := l.write(lines, held)
	var waiting []*batch
	for _, b := range all {
		if err != nil || !b.sync {
			b.done <- err
		} else {
			waiting = append(waiting, b)
		}
	}
	if j := l.journal; err == nil {
		l.syncs.want(j.file, j.progressed(), waiting)
	}
}

// write appends lines, of which the first were held.
func (l *Log) write(lines []queued, held int) error {
	j := l.journal
	var err error
	l.writing.watch(func() {
		if l.syncs.failed.Swap(false) {
			j.drop()
			j.fresh = true // what could not be synced is in doubt: what follows is not joined to it
		}
		err = j.append(lines)
	})
	if err = l.settle(err); err != nil {
		return err
	}
	l.mu.Lock()
	for _, q := range l.held[:held] {
		l.heldBy -= len(q.body)
	}
	l.held = l.held[held:]
	l.mu.Unlock()
	return nil
}

// tick signs what is not signed yet, tries again what failed, and looks whether the
// file is still where it was.
func (l *Log) tick() {
	j := l.journal
	l.mu.Lock()
	again := l.failed != nil && len(l.held) > 0
	l.mu.Unlock()
	if j.moved() {
		l.writing.watch(func() { j.file.whole.Store(j.file.sync() == nil) })
		j.drop()
		again = true
	}
	if again || j.unsigned > 0 || len(j.pending) > 0 {
		l.writeBatches(nil)
	}
	if len(j.keeping) > 0 && len(j.pending) == 0 && j.file != nil {
		var err error
		l.writing.watch(func() {
			if err = j.file.sync(); err == nil {
				err = j.keepCuts()
			}
		})
		if err != nil {
			l.cfg.Logger.Warn("keeping what was cut off the audit log failed; it is tried again", "error", err)
		}
	}
}

// syncer is the goroutine that makes lines outlive the machine's power: all that were
// written when it comes round at once, and those that nobody waits for within a second.
type syncer struct {
	failed atomic.Bool // the newest sync: what is in the file is in doubt
	busy   stopwatch
	stop   chan struct{}
	kick   chan struct{}

	mu   sync.Mutex
	jobs []syncJob // of one file each, in the order in which they were written
}

// syncJob is what is not synced of a file, and who waits for that.
type syncJob struct {
	file    *file
	upTo    progressed
	waiting []*batch
}

// want asks for a file to be synced; waiting is answered then, by that file alone.
func (s *syncer) want(f *file, upTo progressed, waiting []*batch) {
	s.mu.Lock()
	if n := len(s.jobs); n > 0 && s.jobs[n-1].file == f {
		s.jobs[n-1].upTo, s.jobs[n-1].waiting = upTo, append(s.jobs[n-1].waiting, waiting...)
	} else {
		s.jobs = append(s.jobs, syncJob{f, upTo, waiting})
	}
	s.mu.Unlock()
	if len(waiting) > 0 {
		wake(s.kick)
	}
}

func (l *Log) syncLoop() {
	s := &l.syncs
	t := time.NewTicker(signEvery)
	defer t.Stop()
	for {
		select {
		case <-s.kick:
		case <-t.C:
		case <-s.stop:
			l.sync()
			return
		}
		l.sync()
	}
}

func (l *Log) sync() {
	s := &l.syncs
	s.mu.Lock()
	jobs := s.jobs
	s.jobs = nil
	s.mu.Unlock()
	for _, job := range jobs {
		var err error
		s.busy.watch(func() { err = job.file.sync() })
		if err != nil {
			s.failed.Store(true)
			err = l.settle(err)
		} else {
			l.publish(job.upTo)
		}
		for _, b := range job.waiting {
			b.done <- err
		}
	}
}

// stopwatch knows how long something has been going on.
type stopwatch struct{ since atomic.Int64 } // Unix ns; 0: nothing is

func (w *stopwatch) watch(f func()) {
	w.since.Store(time.Now().UnixNano())
	defer w.since.Store(0)
	f()
}

func (w *stopwatch) longer(than time.Duration) bool {
	since := w.since.Load()
	return since != 0 && time.Since(time.Unix(0, since)) > than
}
