package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Sealer encrypts what the broker must keep of a value, bound to ad.
// Implementations may call a KMS and are never called inside a transaction. Open
// returns bytes of the caller's own, and Seal keeps none: they are cleared after use.
type Sealer interface {
	Seal(ctx context.Context, plaintext, ad []byte) ([]byte, error)
	Open(ctx context.Context, sealed, ad []byte) ([]byte, error)
}

// Readier is a Sealer that can tell beforehand whether what it seals will be kept; its
// error says what is waited for.
type Readier interface {
	Ready(ctx context.Context) error
}

// Config is what an Engine is made of; every field is required unless it says otherwise.
type Config struct {
	Store       Store
	Sealer      Sealer
	Fingerprint func(tenant, value string) string // keyed; the same value of one tenant gives the same text
	AuditHash   func(text string) string          // keyed: what the audit log has in the place of a secret text; nil: nothing
	Node        string                            // name of this node, for the proof
	Now         func() time.Time
	Logger      hclog.Logger
	Observer    Observer // may be nil
	// Doubts tells whether a version may have been replaced in a time that the store has
	// lost: it is written over nothing by itself. It may be nil.
	Doubts func(ref backends.Ref, version int) bool
	// Share lets deliveries that are under way at the same time share transactions.
	Share bool
}

// Observer is told of what metrics count. Its methods return at once.
type Observer interface {
	RotationEnded(trigger rotation.Trigger, state rotation.State, took time.Duration)
	RetirementProven(latency time.Duration)
	RetirementState(state rotation.RetirementState)
	DeliveryAttempted(outcome string)
	DriftFound(backend string, kind rotation.DriftKind)
}

// Engine drives what the store holds. Its methods are safe for concurrent use.
type Engine struct {
	Config
	owner    string // node and start: whose intents are ours
	catalog  atomic.Pointer[Catalog]
	breakers breakers
	runs     runs
	lanes    lanes
	shares   shares
	pushes   *together   // the transactions of deliveries
	held     atomic.Bool // see Hold
	// unsettled: what waits for consumers may wait for others than the catalog has.
	unsettled atomic.Bool
	rest      chan struct{} // closed by Rest
	resting   sync.Once
}

// New returns an engine that does nothing before its workers run.
func New(cfg Config) *Engine {
	e := &Engine{Config: cfg, owner: cfg.Node + "/" + uuid.NewString(), runs: newRuns(), lanes: lanes{m: map[string]*lane{}}, shares: shares{m: map[string]*share{}},
		pushes:   &together{store: cfg.Store, alone: !cfg.Share},
		breakers: breakers{m: map[string]*breaker{}}, rest: make(chan struct{})}
	e.catalog.Store(&Catalog{})
	return e
}

// Owner names this engine's run: intents with another owner are somebody else's.
func (e *Engine) Owner() string { return e.owner }

// SetCatalog replaces the components that definitions name. Effects under way
// finish with those they began with.
func (e *Engine) SetCatalog(c *Catalog) {
	before := e.catalog.Swap(c)
	e.forgetBreakers(before, c)
	e.forgetLanes(before, c)
	e.unsettled.Store(true)
}

// Rest makes workers leave waits to the rows, however short they are, so that the
// store can be stopped as soon as the effects under way are over.
func (e *Engine) Rest() { e.resting.Do(func() { close(e.rest) }) }

// Times of the engine. An effect is cut off after effectTimeout; its lease is
// longer, so that nobody recovers an effect that is still running.
const (
	effectTimeout = 60 * time.Second
	lease         = 90 * time.Second
	sweepEvery    = 10 * time.Second
	// inlineWait is the longest wait that a worker sits out. It is short: a worker
	// that waits for a dead vault is none for anybody else.
	inlineWait = time.Second
	// sweptWait is the longest wait that takes a job; one that is longer still ends
	// by the sweep, which is late enough not to matter to it.
	sweptWait = 2 * time.Minute
	// lookTimeout bounds looking whether a vault can be used, before anything is begun.
	lookTimeout = 3 * time.Second
	sweepLimit  = 10_000
	tryTimeout  = 20 * time.Second
)

type (
	rotationJob struct {
		ID string `json:"id"`
	}
	retirementJob struct {
		ID string `json:"id"`
	}
	deliveryJob struct {
		ID       string `json:"id"`
		Consumer string `json:"consumer"`
		SecretID string `json:"secret_id"`
	}
	scheduleJob struct {
		ID string `json:"id"`
	}
	placementJob struct {
		ID string `json:"id"`
	}
)

// Kind names the job in River's table.
func (rotationJob) Kind() string   { return "rotation" }
func (retirementJob) Kind() string { return "retirement" }
func (deliveryJob) Kind() string   { return "delivery" }
func (scheduleJob) Kind() string   { return "schedule" }
func (placementJob) Kind() string  { return "placement" }

// AddWorkers registers the engine's workers; call it once, before the store starts.
func (e *Engine) AddWorkers(w *river.Workers) {
	addWorker[rotationJob](e, w)
	addWorker[retirementJob](e, w)
	addWorker[deliveryJob](e, w)
	addWorker[scheduleJob](e, w)
	addWorker[placementJob](e, w)
	addWorker[incidentJob](e, w)
}

func addWorker[T river.JobArgs](e *Engine, w *river.Workers) {
	river.AddWorker(w, river.WorkFunc(func(ctx context.Context, j *river.Job[T]) error {
		e.Work(ctx, j.Args)
		return nil
	}))
}

// Work does what a job is for.
func (e *Engine) Work(ctx context.Context, args river.JobArgs) {
	if e.heldBack(ctx, args) {
		return
	}
	switch j := args.(type) {
	case rotationJob:
		e.work(ctx, j.Kind(), j.ID, e.stepRotation)
	case retirementJob:
		e.work(ctx, j.Kind(), j.ID, e.stepRetirement)
	case deliveryJob:
		e.push(ctx, DueDelivery(j))
	case scheduleJob:
		e.work(ctx, j.Kind(), j.ID, e.stepSchedule)
	case placementJob:
		e.work(ctx, j.Kind(), j.ID, e.stepPlacement)
	case incidentJob:
		e.work(First(ctx), j.Kind(), j.ID, e.stepIncident)
	}
}

// QueueUrgent has workers of its own, for emergencies and whatever revokes and
// proves: that never waits for a worker which is busy with something else.
const QueueUrgent = "urgent"

// QueuePush has workers of its own, for deliveries: consumers that hang keep nobody else
// waiting.
const QueuePush = "push"

// wakeUp is a job at a time, now if that is zero.
func wakeUp(args river.JobArgs, at time.Time, urgent bool) river.InsertManyParams {
	opts := &river.InsertOpts{MaxAttempts: 1}
	if urgent {
		opts.Queue = QueueUrgent
	}
	if !at.IsZero() {
		opts.ScheduledAt = at.UTC()
	}
	return river.InsertManyParams{Args: args, InsertOpts: opts}
}

// stepResult says how a record stands after one step of it.
type stepResult struct {
	again  bool      // go on at once
	until  time.Time // else look again then; zero: when woken
	job    river.JobArgs
	urgent bool
}

// work takes one record forward until it must wait. It never fails the job: the
// row is the truth, and whatever is still due is found by the sweep.
func (e *Engine) work(ctx context.Context, kind, id string, step func(context.Context, string) (stepResult, error)) {
	key := kind + id
	wake, mine := e.runs.enter(key)
	if !mine {
		return // whoever is at it has been told to look again
	}
	left := false
	defer func() {
		if !left { // a step panicked
			e.runs.drop(key)
		}
	}()
	for !left {
		e.drive(ctx, kind, id, wake, step)
		left = e.runs.leave(ctx, key)
	}
}

// drive takes steps until there is nothing to do now.
func (e *Engine) drive(ctx context.Context, kind, id string, wake <-chan struct{}, step func(context.Context, string) (stepResult, error)) {
	conflicts := 0
	for ctx.Err() == nil {
		res, err := step(ctx, id)
		switch {
		case errors.Is(err, backends.ErrConflict) && conflicts < 20:
			conflicts++ // somebody moved the row: read it again
			continue
		case errors.Is(err, backends.ErrNotFound):
			e.Logger.Warn("woken for what is not there", "kind", kind, "id", id)
			return
		case err != nil && ctx.Err() == nil:
			e.Logger.Error("step failed; the sweep will take it up again", "kind", kind, "id", id, "error", err)
			e.runs.putOff(kind+id, e.Now())
			return
		}
		conflicts = 0
		if res.again {
			continue
		}
		if !e.sitOut(ctx, kind+id, wake, res) {
			return
		}
	}
}

// sitOut waits for a short time or a wake-up; false: leave it to a job.
func (e *Engine) sitOut(ctx context.Context, key string, wake <-chan struct{}, res stepResult) bool {
	select {
	case <-wake:
		return true
	default:
	}
	now := e.Now()
	d := res.until.Sub(now)
	e.runs.came(key, now)
	if res.until.IsZero() || d > sweptWait {
		return false
	}
	if d > inlineWait {
		if !e.runs.plan(key, res.until) {
			return false
		}
		if err := e.Store.Update(ctx, func(tx Tx) error { return tx.Enqueue(ctx, wakeUp(res.job, res.until, res.urgent)) }); err != nil {
			e.Logger.Warn("scheduling a wake-up failed; the sweep will do", "error", err)
			e.runs.unplan(key)
		}
		return false
	}
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-wake:
		return true
	case <-e.rest:
		return false
	case <-ctx.Done():
		return false
	}
}

// Run sweeps at once and every 10 s, and starts what is due every second, until ctx ends.
func (e *Engine) Run(ctx context.Context) {
	sweep, tick := time.NewTicker(sweepEvery), time.NewTicker(tickEvery)
	defer sweep.Stop()
	defer tick.Stop()
	e.sweepAll(ctx)
	orphansAt := e.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			if now := e.Now(); now.Sub(orphansAt).Abs() >= orphansEvery {
				if _, err := e.SweepOrphans(ctx); err != nil && ctx.Err() == nil {
					e.Logger.Error("sweeping orphans failed", "error", err)
				}
				orphansAt = now
			}
			e.sweepAll(ctx)
		case <-tick.C:
			if err := e.Tick(ctx); err != nil && ctx.Err() == nil {
				e.Logger.Error("looking for what begins failed", "error", err)
			}
		}
	}
}

func (e *Engine) sweepAll(ctx context.Context) {
	if err := e.Sweep(ctx); err != nil && ctx.Err() == nil {
		e.Logger.Error("sweeping failed", "error", err)
	}
}

// Sweep enqueues a wake-up for everything whose time has come and that no
// worker of this process is at.
func (e *Engine) Sweep(ctx context.Context) error {
	now := e.Now()
	var due Due
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		due, err = tx.Due(ctx, now, sweepLimit)
		return err
	})
	if err != nil {
		return fmt.Errorf("looking for what is due: %w", err)
	}
	e.settle(ctx)
	e.runs.forget(now.Add(-time.Hour))
	return e.wakeDue(ctx, due, now)
}

// settle looks after what waits for consumers without a time, or with one that it should
// not have.
func (e *Engine) settle(ctx context.Context) {
	err := e.settleConsumers(ctx)
	if err == nil && e.unsettled.Swap(false) {
		if err = e.settleInboxes(ctx); err != nil {
			e.unsettled.Store(true)
		}
	}
	if err != nil && ctx.Err() == nil {
		e.Logger.Error("what waits for consumers could not be looked after; the next sweep will", "error", err)
	}
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// audit commits one engine step for the audit log.
func (e *Engine) audit(ctx context.Context, tx Tx, ref backends.Ref, action, outcome string, detail map[string]string) error {
	return e.auditValue(ctx, tx, ref, action, outcome, detail, nil)
}

// auditValue is audit for what was done with a value, of which the log has keyed hashes.
func (e *Engine) auditValue(ctx context.Context, tx Tx, ref backends.Ref, action, outcome string, detail, hashes map[string]string) error {
	version, _ := strconv.Atoi(detail["version"]) // 0: of none in particular
	return tx.AddAudit(ctx, rotation.AuditEvent{At: e.Now(), Tenant: ref.Tenant, Actor: "keybroker",
		Action: action, Path: ref.Name, Outcome: outcome, Secret: ref.String(), Version: version, Detail: detail, Hashes: hashes})
}

// hashes are the keyed hashes of a value's fields, so that who has had a value that
// leaked can be asked of the audit log. They are numbered in the order of the fields'
// names, which themselves say too much.
func (e *Engine) hashes(v backends.Value) map[string]string {
	if e.AuditHash == nil {
		return nil
	}
	all, fields := map[string]string{}, v.Reveal()
	for i, name := range slices.Sorted(maps.Keys(fields)) {
		all["field."+strconv.Itoa(i+1)] = e.AuditHash(fields[name])
	}
	return all
}
