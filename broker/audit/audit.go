// Package audit writes the audit log: one JSON line for each request, answer and step,
// chained by hashes, signed, and sent to wherever the operator wants it.
//
// The journal is a file on this node. Requests are written to it before anything is
// done: what cannot be written is refused. What the engine does is committed with the
// change itself to an outbox in the store, and Pump moves it here; a crash in between
// repeats lines, never loses one, and a repeated line has the same "seq".
//
// Every line has the hash of the one before, and within a second a checkpoint follows:
// the signed root of the Merkle tree (RFC 6962) over all lines so far. Verify finds
// what was changed since, wherever it is run; docs/audit.md has the format.
//
// Sinks are sent the journal's lines at their own pace: the journal is their queue.
// While it cannot be written, records go to them directly, and to it later.
package audit

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// DefaultMaxSize is how many bytes a segment of the journal has before the next is begun.
const DefaultMaxSize = 128 << 20

const (
	defaultTimeout = 5 * time.Second
	maxBatch       = 1 << 20  // bytes that are written at once, roughly
	maxQueued      = 32 << 20 // bytes that wait to be written
	maxHeld        = 16 << 20 // bytes that sinks have and the journal does not
)

// Config is what a Log is opened with. Path, Node and the keys are required.
type Config struct {
	Path string // of the newest segment; the others stand beside it
	Node string // what checkpoints call this log, with "keybroker/audit/" before it
	// HashKey is what sensitive strings are hashed with, SigningSeed what checkpoints are
	// signed by: 32 bytes each, the same for all nodes of an installation.
	HashKey, SigningSeed []byte
	// Known is the newest checkpoint that is kept elsewhere, so that it shows if lines
	// are gone; empty: none.
	Known   string
	MaxSize int64         // bytes of a segment; 0 = DefaultMaxSize
	Keep    time.Duration // how long a segment is kept, at least; 0: for ever
	Timeout time.Duration // for a disk that hangs; 0 = 5 s
	// SinkTimeout is for a sink that hangs; 0 = 30 s, or 5 s where a request waits for it.
	SinkTimeout time.Duration
	Now         func() time.Time
	Logger      hclog.Logger
}

// Log is the audit log of one node. It is safe for concurrent use.
type Log struct {
	cfg    Config
	signer *signer
	sinks  sinks

	maxSize, keep atomic.Int64                                        // bytes; ns
	holding       atomic.Pointer[func(context.Context) (bool, error)] // nil: nobody does
	searching     chan struct{}                                       // as many queries as may run at once

	mu     sync.Mutex
	queue  []*batch
	queued int
	held   []queued // what sinks were given directly and the journal lacks
	heldBy int      // bytes of it
	failed error    // of the newest write or sync; nil: it worked
	newest int64    // of the outbox
	signed Checkpoint
	size   int64 // lines
	at     position
	closed bool

	kick, ended chan struct{}
	stop        chan struct{}
	pruning     sync.WaitGroup
	changed     chan struct{} // closed and replaced when there are more lines
	writing     stopwatch
	syncs       syncer
	journal     *journal // of the writing goroutine alone
}

// position is up to where the journal can be read.
type position struct {
	first  int64 // of the segment that is written; -1: nothing can be read
	offset int64
}

// batch is what one caller waits for.
type batch struct {
	lines []queued
	sync  bool
	sign  bool        // everything before it
	taken atomic.Bool // by the writer, or given up by the caller
	done  chan error

	failed bool // for who submitted it: it was not written, and will not be
}

// Open opens or creates the journal, and makes it whole after a crash.
func Open(cfg Config) (*Log, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	s, err := newSigner(cfg.Node, cfg.SigningSeed)
	if err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, signer: s, searching: make(chan struct{}, maxSearches), kick: make(chan struct{}, 1), ended: make(chan struct{}), stop: make(chan struct{}), changed: make(chan struct{})}
	l.sinks.log = l
	l.Retain(cfg.MaxSize, cfg.Keep)
	l.syncs.kick, l.syncs.stop = make(chan struct{}, 1), make(chan struct{})
	j := &journal{path: cfg.Path, signer: s, maxSize: &l.maxSize, now: cfg.Now, logger: cfg.Logger}
	var known Checkpoint
	if cfg.Known != "" {
		if known, err = OpenCheckpoint(cfg.Known, s); err != nil {
			return nil, fmt.Errorf("opening the audit log: the checkpoint that is kept: %w", err)
		}
	}
	l.journal = j
	err = j.open(known)
	if err == nil {
		err = j.file.sync() // what a process that was killed had written
	}
	if err != nil {
		j.drop()
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	if err := j.confess(); err != nil {
		cfg.Logger.Error("what opening the audit log has found cannot be written to it yet; it is tried again", "error", err)
	}
	l.publish(j.progressed())
	go l.run()
	l.pruning.Go(l.pruneLoop)
	return l, nil
}

// progressed is how far a journal has come.
type progressed struct {
	seq    int64
	size   int64 // lines
	newest Checkpoint
	at     position
}

func (j *journal) progressed() progressed {
	p := progressed{j.seq, j.tree.size, j.newest, position{j.first, j.offset}}
	if !j.regular {
		p.at = position{first: -1}
	}
	return p
}

// publish tells everybody how far the journal has come for good.
func (l *Log) publish(p progressed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest, l.size, l.signed, l.at = p.seq, p.size, p.newest, p.at
	close(l.changed)
	l.changed = make(chan struct{})
}

// Newest returns the highest sequence number of the outbox that the log has, 0 if none.
func (l *Log) Newest() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// Checkpoint returns the newest one; the zero one if nothing was ever written.
func (l *Log) Checkpoint() Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.signed
}

// PublicKey is what checkpoints are verified by.
func (l *Log) PublicKey() string { return l.signer.public }

// Origin is the name of this log in its checkpoints.
func (l *Log) Origin() string { return l.signer.Name() }

// Hash is what the log has in the place of a sensitive string.
func (l *Log) Hash(text string) string {
	mac := hmac.New(sha256.New, l.cfg.HashKey)
	mac.Write([]byte(text))
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}

// Write appends one record and returns when it is as durable as asked for. An
// error (ErrUnavailable) means that it may not be in the log: what it tells of must
// not happen. It comes within Config.Timeout where the disk hangs, and later by what
// the sinks take, which are tried then. ctx ends the waiting, not the writing.
func (l *Log) Write(ctx context.Context, rec Record, d Durability) error {
	b := body{AuditEvent: rec.AuditEvent}
	if len(rec.Sensitive) > 0 {
		b.Hashes = make(map[string]string, len(rec.Sensitive)+len(rec.Hashes))
		maps.Copy(b.Hashes, rec.Hashes)
		for name, text := range rec.Sensitive {
			b.Hashes[name] = l.Hash(text)
		}
	}
	text, err := b.encode()
	if err != nil {
		return err
	}
	given, err := l.submit(ctx, &batch{lines: []queued{{body: text}}, sync: d == Synced})
	if err == nil || ctx.Err() != nil {
		return err
	}
	if !given.failed && !given.take() { // it is being written, however long that takes
		return err
	}
	return l.instead(ctx, text, err)
}

// take tells whether nobody has taken the batch before.
func (b *batch) take() bool { return b.taken.CompareAndSwap(false, true) }

// Sign signs and syncs all that was written, and returns the newest checkpoint. Where
// that cannot be done now it is the one of before, with an error.
func (l *Log) Sign(ctx context.Context) (Checkpoint, error) {
	_, err := l.submit(ctx, &batch{sync: true, sign: true})
	return l.Checkpoint(), err
}

// submit hands a batch to the writer and waits.
func (l *Log) submit(ctx context.Context, b *batch) (*batch, error) {
	b.done = make(chan error, 1)
	size := 0
	for _, q := range b.lines {
		size += len(q.body)
	}
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		return b, fmt.Errorf("%w: the audit log is closed", backends.ErrUnavailable)
	case l.queued+size > maxQueued && l.queued > 0 || l.hangs():
		l.mu.Unlock()
		return b, errHangs
	}
	l.queue, l.queued = append(l.queue, b), l.queued+size
	l.mu.Unlock()
	wake(l.kick)
	timer := time.NewTimer(l.cfg.Timeout)
	defer timer.Stop()
	select {
	case err := <-b.done:
		b.failed = err != nil
		return b, err
	case <-ctx.Done():
		return b, fmt.Errorf("%w: writing the audit log: %w", backends.ErrUnavailable, context.Cause(ctx))
	case <-timer.C:
		return b, errHangs
	}
}

var errHangs = fmt.Errorf("%w: writing the audit log: the disk does not answer", backends.ErrUnavailable)

// hangs tells whether the disk has been waited for longer than anybody should.
func (l *Log) hangs() bool {
	return l.writing.longer(l.cfg.Timeout) || l.syncs.busy.longer(l.cfg.Timeout)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Check tells whether the log can be written. It costs nothing while writing
// works; after a failure it tries again, by a line of its own.
func (l *Log) Check(now time.Time) error {
	l.mu.Lock()
	failed := l.failed
	l.mu.Unlock()
	if failed == nil && !l.hangs() {
		return nil
	}
	text, err := body{AuditEvent: rotation.AuditEvent{At: now, Kind: rotation.AuditStep, Actor: "keybroker", Action: actionResume, Path: "sys/audit", Outcome: "ok"}}.encode()
	if err != nil {
		return err
	}
	b, err := l.submit(context.Background(), &batch{lines: []queued{{body: text}}, sync: true})
	b.take() // it is not worth being written later
	return err
}

// Close signs and syncs what is there, gives the sinks a moment to take it, and closes
// them. They go on from where they are when the log is opened again.
func (l *Log) Close() error {
	l.mu.Lock()
	again := l.closed
	l.closed = true
	l.mu.Unlock()
	if again {
		return nil
	}
	close(l.stop)
	timer := time.NewTimer(2 * l.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-l.ended:
	case <-timer.C:
		l.sinks.close(0)
		return errHangs // its goroutines wait for the disk; nobody can end that
	}
	l.sinks.close(lastMoment)
	l.pruning.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.failed, backends.ErrUnavailable) {
		return fmt.Errorf("closing the audit log: %w", l.failed)
	}
	return nil
}

// instead gives a record that the journal did not take to the sinks, and keeps it for
// the journal, within bounds. It returns cause if no sink confirms it.
func (l *Log) instead(ctx context.Context, text []byte, cause error) error {
	l.mu.Lock()
	full := l.closed || l.heldBy+len(text) > maxHeld
	l.mu.Unlock()
	if full || !l.sinks.direct(ctx, text) {
		return cause
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.heldBy = append(l.held, queued{body: text}), l.heldBy+len(text)
	return nil
}

// Status is how the log and its sinks are.
type Status struct {
	Held  int // records that sinks have and the journal does not
	Sinks []SinkStatus
}

// Status tells how the log and its sinks are.
func (l *Log) Status() Status {
	l.mu.Lock()
	held := len(l.held)
	l.mu.Unlock()
	return Status{Held: held, Sinks: l.sinks.status()}
}

// Down returns why what cannot be written to cannot, by the name of the sink;
// "journal" is the log's own file.
func (l *Log) Down() map[string]string {
	down := map[string]string{}
	l.mu.Lock()
	if l.failed != nil {
		down["journal"] = l.failed.Error()
	}
	l.mu.Unlock()
	if l.hangs() {
		down["journal"] = errHangs.Error()
	}
	for _, s := range l.sinks.status() {
		if s.Error != "" {
			down[s.Name] = s.Error
		}
	}
	return down
}

// Unsure tells whether a sink may be down that Down does not name: one that was not
// tried yet, or that fails since just now.
func (l *Log) Unsure() bool {
	for _, f := range l.sinks.running() {
		if f.unsure() {
			return true
		}
	}
	return false
}

// Doubts tells what is wrong although everything works, by the name of the sink;
// "journal" is the log's own file. What is told of the journal was found since this
// process began, and stays until it ends.
func (l *Log) Doubts() map[string]string {
	doubts := map[string]string{}
	if said := l.journal.said.Load(); said != nil {
		doubts["journal"] = *said
	}
	for _, s := range l.sinks.status() {
		if s.Doubt != "" {
			doubts[s.Name] = s.Doubt
		}
	}
	return doubts
}

// Sinks names the sinks that there are.
func (l *Log) Sinks() []string { return slices.Sorted(maps.Keys(l.sinks.running())) }
