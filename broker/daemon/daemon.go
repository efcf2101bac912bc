package daemon

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/keys"
)

// Options are what a node is started with.
type Options struct {
	Config *config.Config
	// Load loads the configuration anew from where Config came from; nil: it cannot
	// be reloaded.
	Load   func() (*config.Config, *config.Diagnostics)
	Logger hclog.Logger
	// Listener replaces the one of the configuration; nil: listen there.
	Listener net.Listener
	// NewRootToken makes another root token, for those who lost all others; those
	// that exist stay valid. It is logged and audited, and raises an alert.
	NewRootToken bool

	// For tests: who is told of each step of a rotation of the seal, and other times.
	sealStep  func(step string) error
	sealTimes sealTimes
	// For tests: who is told of each step of a rotation of a signing key.
	signingStep func(step string) error
	// For tests: how often it is looked for what is worth an alert.
	alertEvery time.Duration
	// For tests: the clock of the engine; nil: now.
	engineNow func() time.Time
	// For tests: how many workers there are for deliveries; 0: as usual.
	pushWorkers int
	// For tests: how often it is looked for another certificate.
	certificateEvery time.Duration
}

const (
	auditFile       = "audit.jsonl"
	workers         = 128 // mostly waiting: for answers, or out a short wait
	jobTimeout      = time.Hour
	stopTimeout     = 10 * time.Second
	shutdownTimeout = 10 * time.Second
)

// Daemon is one node. Open it, Run it once, and it has closed itself.
type Daemon struct {
	opts      Options
	log       hclog.Logger
	db        *store.DB
	seals     *sealing
	audit     *audit.Log
	node      string // this node's id, in its audit log
	reportKey ed25519.PrivateKey
	engine    *engine.Engine
	broker    *broker.Broker
	authn     *authn.Callers
	keys      *keys.Checker
	pages     *broker.Pages
	parts     *parts
	setup     atomic.Pointer[setup] // in force
	config    configuration
	aftermath aftermath
	metrics   *metrics
	health    *health
	alerts    *alert.Runner
	queues    *queues // of triggers
	kit       kitKeeper
	signing   *signing
	wire      wire
	telemetry net.Listener // of the metrics; nil: they have none of their own
	closers   []func() error

	keptCheckpoint string // of the audit log, that is kept elsewhere
	toldDamage     string // of the audit log, that an alert was raised for

	reloading    chan struct{}   // one at a time
	serving      context.Context // ends when the node begins to stop: reloads are cut off
	stopServing  context.CancelFunc
	stopped      chan struct{}  // no reload any more
	retired      sync.WaitGroup // setups that were replaced and are not closed
	startedUnmet int            // conflicts at the start
}

// Open prepares a node: state opened and migrated, keys unsealed, secrets of the
// configuration reconciled into rows, the address bound. Nothing is rotated or
// served before Run. Its errors say how to mend what is wrong.
func Open(ctx context.Context, opts Options) (_ *Daemon, err error) {
	d := &Daemon{opts: opts, log: opts.Logger, metrics: newMetrics(), reloading: make(chan struct{}, 1), stopped: make(chan struct{})}
	d.serving, d.stopServing = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	for _, step := range []func(context.Context) error{d.openState, d.openKeys, d.listen, d.openComponents, d.beginAftermath, d.reconcile, d.history, d.compareAll, d.tellUnmet, d.issueRootToken, d.keepOut} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *Daemon) onClose(f func() error) { d.closers = append(d.closers, f) }

func (d *Daemon) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	d.closers = nil
	return errors.Join(errs...)
}

func (d *Daemon) openState(ctx context.Context) error {
	cfg := d.opts.Config
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("making data_dir: %w", err)
	}
	if cfg.Storage.Type != config.PostgreSQL {
		if info, err := os.Stat(cfg.Storage.Path); err != nil || info.Size() == 0 {
			if err := refuseLostData(cfg); err != nil {
				return err
			}
		}
	}
	var err error
	if d.db, err = store.Open(ctx, storeConfig(cfg, d.log)); err != nil {
		return err
	}
	d.onClose(func() error { return d.db.Close(context.WithoutCancel(ctx)) })
	if err := d.openSeals(ctx); err != nil {
		return err
	}
	d.metrics.watchStore(d.db)
	return d.openAudit(ctx)
}

func storeConfig(cfg *config.Config, logger hclog.Logger) store.Config {
	sc := store.Config{Logger: logger.Named("store")}
	if cfg.Storage.Type == config.PostgreSQL {
		sc.PostgresURL = cfg.Storage.URL
	} else {
		sc.SQLitePath = cfg.Storage.Path
	}
	return sc
}

func (d *Daemon) openSeals(ctx context.Context) error {
	d.seals = newSealing(d.db, d.log.Named("seal"))
	d.onClose(func() error { d.seals.close(); return nil })
	d.seals.tell(d.metrics.sealUsable, d.metrics.sealForgotten)
	d.seals.step = d.opts.sealStep
	if d.opts.sealTimes != (sealTimes{}) {
		d.seals.times = d.opts.sealTimes
	}
	return d.seals.start(ctx, d.opts.Config)
}

// refuseLostData refuses to begin anew where a broker has been at work: whatever
// it minted would be forgotten, and alive.
func refuseLostData(cfg *config.Config) error {
	path := filepath.Join(cfg.DataDir, auditFile)
	if there, err := audit.Exists(path); err != nil || !there {
		return err // without an audit log nothing has happened here
	}
	return fmt.Errorf("%w: the audit log %s tells of work, but the database %s is missing or empty: restore it, or move the audit log away to begin anew", backends.ErrNotFound, path, cfg.Storage.Path)
}

func (d *Daemon) openKeys(ctx context.Context) error {
	own := map[string][]byte{}
	for _, name := range []string{keyFingerprint, keyTokenPepper, keyAPIKeyPepper, keyCursors} {
		key, err := ownKey(ctx, d.db, d.seals.ring, name)
		if err != nil {
			return err
		}
		own[name] = key
	}
	seed, err := ownKey(ctx, d.db, d.seals.ring, keyReports)
	if err != nil {
		return err
	}
	d.reportKey = ed25519.NewKeyFromSeed(seed)
	pages, err := broker.NewPages(own[keyCursors])
	if err != nil {
		return err
	}
	d.pages = pages
	hasher, err := keys.NewHasher(keys.Pepper{Version: 1, Key: own[keyAPIKeyPepper]})
	if err != nil {
		return err
	}
	d.keys = keys.NewChecker(d.db.APIKeys(), hasher)
	d.authn = authn.NewCallers(authn.NewTokens(d.db, own[keyTokenPepper], now), d.audit, d.log.Named("authn"))
	d.signing = newSigning(d.db, d.seals, now, d.log.Named("signing"))
	d.signing.step = d.opts.signingStep
	fingerprint := fingerprinter(own[keyFingerprint])
	d.parts = &parts{db: d.db, sealer: d.seals.ring, hasher: hasher, check: d.keys, doubts: d.aftermath.doubts, logger: d.log, now: now, observer: d.metrics, node: d.node, signing: d.signing,
		mac: func(text string) string { return fingerprint("keybroker/config", text) }}
	d.engine = engine.New(engine.Config{Doubts: d.aftermath.doubts, Store: crashStore(d.db.Engine()), Sealer: sealer{d.seals.ring, d.seals}, Fingerprint: fingerprint, AuditHash: d.audit.Hash,
		Node: nodeName(), Now: d.opts.engineClock(), Logger: d.log.Named("engine"), Observer: d.metrics, Share: true})
	d.parts.open = d.engine.Open
	d.metrics.watchIssuers(d.engine)
	return nil
}

// now is the clock of the node: UTC, to the microsecond, as the store keeps it.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

func (o Options) engineClock() func() time.Time {
	if o.engineNow != nil {
		return o.engineNow
	}
	return now
}

func nodeName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "node"
	}
	return name
}

func (d *Daemon) openComponents(ctx context.Context) error {
	s, err := d.parts.build(ctx, d.opts.Config, nil)
	if err != nil {
		return err
	}
	if err := errors.Join(s.keepKeys(), d.signing.commit(ctx, s.cfg.Consumers)); err != nil {
		s.close()
		return err
	}
	d.onClose(func() error { d.setup.Load().close(); return nil })
	d.health = newHealth(d.metrics, d.log.Named("health"))
	d.openAlerts()
	d.broker = broker.New(broker.Config{Store: d.db, Engine: d.engine, Audit: d.audit, Authn: d.authn, Keys: d.keys, Pages: d.pages, Node: asNode{d}, Seal: asSealKeeper{d.seals}, Notifiers: asNotifiers{d}, Components: asComponents{d}, Signing: asSigning{d}, ReportSigner: d.reportKey, OfflineKit: d.offlineKit, Installation: d.installation(), Doubts: d.aftermath.doubts,
		Now: now, Logger: d.log.Named("broker")})
	d.queues = newQueues(d.broker.Take, d.log.Named("trigger"))
	d.use(s)
	d.tellTroubles(nil, s)
	return nil
}

func (d *Daemon) reconciler() *reconciler {
	return &reconciler{db: d.db, engine: d.engine, now: now, logger: d.log.Named("config")}
}

func (d *Daemon) reconcile(ctx context.Context) error {
	if err := d.db.ReleaseLeases(ctx, d.engine.Owner()); err != nil {
		return err
	}
	r := d.reconciler()
	changes, err := r.plan(ctx, d.opts.Config)
	if err != nil {
		return err
	}
	if err := d.db.UpdateLatest(ctx, func(tx *store.Tx) error { return r.apply(ctx, tx, changes) }); err != nil {
		return err
	}
	r.log(changes)
	return nil
}

// keepOut has the node know who is in quarantine before it serves anybody.
func (d *Daemon) keepOut(ctx context.Context) error { return d.broker.LookAtQuarantines(ctx) }

// Addr is the URL that the node is called at.
func (d *Daemon) Addr() string { return d.parts.source }

// Run works and serves until ctx ends, then stops in order: no new requests,
// jobs finished or cut off with their intents kept, the audit log written, the
// state closed. It returns nil after such a stop.
func (d *Daemon) Run(ctx context.Context) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	jobs := river.NewWorkers()
	d.engine.AddWorkers(jobs)
	if err := d.db.Start(work, jobs, store.StartOptions{MaxWorkers: workers, PushWorkers: d.opts.pushWorkers, JobTimeout: jobTimeout, StopTimeout: stopTimeout, Work: d.engine.Work}); err != nil {
		d.endReloads()
		return errors.Join(fmt.Errorf("starting workers: %w", err), d.close())
	}
	var background sync.WaitGroup
	for _, f := range []func(context.Context){d.engine.Run, d.health.run, d.pumpAudit, d.keepCheckpoints, d.prune, d.watchHistory, d.seals.run, d.signing.run, d.alerts.Run, d.followUnmet, d.followManaged, d.followQueues, d.watchCertificate, d.serveTelemetry, d.authn.SumRefusals, d.broker.RunTriggers, d.broker.FollowQuarantines, d.dropRootToken, d.keepOfflineKit} {
		background.Go(func() { f(work) })
	}
	stopping := make(chan struct{})
	srv := d.server(stopping)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(d.wire.listener) }()
	d.log.Info("keybroker is serving", "address", d.Addr(), "secrets", len(d.opts.Config.Secrets))

	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
	}
	d.log.Info("stopping")
	close(stopping)
	d.stopServing()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if shutErr := srv.Shutdown(grace); shutErr != nil {
		_ = srv.Close()
	}
	d.engine.Rest()
	stopErr := d.db.Stop(context.WithoutCancel(ctx))
	stopWork()
	background.Wait()
	d.endReloads()
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, stopErr, d.close())
}

// How long the feed of changes, the ids of inbound events, ended tokens and reads of
// retired versions are kept.
const (
	pruneEvery  = time.Hour
	keepChanges = 7 * 24 * time.Hour
	keepEvents  = 30 * 24 * time.Hour
	keepTokens  = 90 * 24 * time.Hour // after they have ended
	keepReads   = 90 * 24 * time.Hour
	// newestEvents is how many events of a trigger are kept that came to nothing, and
	// heldEvents how many while they may be evidence: whoever floods a trigger fills no disk.
	newestEvents = 10_000
	heldEvents   = 100_000
)

// prune forgets what is older than anybody looks back.
func (d *Daemon) prune(ctx context.Context) {
	t := time.NewTicker(pruneEvery)
	defer t.Stop()
	for {
		err := d.db.Update(ctx, func(tx *store.Tx) error { return d.pruneNow(ctx, tx) })
		if err != nil && ctx.Err() == nil {
			d.log.Warn("pruning failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// pruneNow forgets nothing while an incident holds what may be evidence, but for what came
// to nothing of floods of events.
func (d *Daemon) pruneNow(ctx context.Context, tx *store.Tx) error {
	held, err := tx.EvidenceHeld(ctx)
	if err != nil {
		return err
	}
	if held {
		return tx.ThinEvents(ctx, heldEvents)
	}
	return errors.Join(tx.PruneChanges(ctx, now().Add(-keepChanges)), tx.PruneEvents(ctx, now().Add(-keepEvents)), tx.ThinEvents(ctx, newestEvents),
		tx.PruneTokens(ctx, now().Add(-keepTokens)), tx.PruneReads(ctx, now().Add(-keepReads)))
}

// evidenceHeld tells the audit log whether its segments are evidence.
func (d *Daemon) evidenceHeld(ctx context.Context) (held bool, err error) {
	err = d.db.View(ctx, func(tx *store.Tx) (err error) {
		held, err = tx.EvidenceHeld(ctx)
		return err
	})
	return held, err
}

func (d *Daemon) pumpAudit(ctx context.Context) {
	d.audit.Pump(ctx, auditOutbox{d.db, d.node}, d.log.Named("audit"))
}
