package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

const (
	// closeAfter is when a replaced setup is closed. No effect that began with it
	// runs by then: the engine cuts each off after a minute. Whoever reads from a
	// vault so slow is served from the sealed copy.
	closeAfter    = 2 * time.Minute
	reloadTimeout = 2 * time.Minute
	// How long, and how often, it is looked whether a commit was made whose answer
	// was lost.
	lookTimeout = time.Minute
	lookEvery   = time.Second
	// unmetEvery is how often a node that was started with conflicts looks whether
	// they are over.
	unmetEvery = time.Minute
)

// configuration is what the node knows of its configuration beside the setup.
type configuration struct {
	mu       sync.Mutex
	loadedAt time.Time
	last     *client.ReloadOutcome
}

// Reload takes the configuration into use that Options.Load gives now: wholly, or
// not at all. It is refused, as a *broker.RefusedConfig with everything that is
// wrong, if it has mistakes, changes what takes a restart, lacks what is under way
// and needs it, or cannot be set up; the configuration of before then stays in
// force, and the rows are as they were. Effects under way finish with the
// components that they began with; plans and definitions of rotations under way
// stay, while credentials, addresses and timeouts of a block are its new ones.
//
// One reload is made at a time; others wait. The rows of all secrets change in one
// transaction, and the components are exchanged after it: a process that dies in
// between reconciles the same configuration when it starts.
func (d *Daemon) Reload(ctx context.Context) (client.Reload, error) {
	return d.reload(ctx, "keybroker", false)
}

func (d *Daemon) reload(ctx context.Context, by string, dryRun bool) (client.Reload, error) {
	if d.opts.Load == nil {
		return client.Reload{}, fmt.Errorf("%w: this node was started with a configuration that cannot be loaded again", backends.ErrUnsupported)
	}
	if err := d.beginReload(ctx); err != nil {
		return client.Reload{}, err
	}
	defer func() { <-d.reloading }()
	// Whoever asked may leave, which must not cut the commit off.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reloadTimeout)
	defer cancel()
	defer context.AfterFunc(d.serving, cancel)() // a node that stops does not wait for it
	out, err := d.exchange(ctx, by, dryRun)
	if !dryRun {
		d.reloaded(by, out, err)
	}
	return out, err
}

// beginReload waits until nobody else is exchanging the setup. Whoever has begun ends it
// by receiving from reloading.
func (d *Daemon) beginReload(ctx context.Context) error {
	select {
	case d.reloading <- struct{}{}:
		return nil
	case <-d.serving.Done():
		return fmt.Errorf("%w: the node is stopping", backends.ErrUnavailable)
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for another reload: %w", backends.ErrUnavailable, ctx.Err())
	}
}

// exchange loads and checks, and unless that is all replaces the setup.
func (d *Daemon) exchange(ctx context.Context, by string, dryRun bool) (client.Reload, error) {
	out := client.Reload{DryRun: dryRun, At: now(), Changes: []client.ConfigChange{}, Warnings: []client.ConfigFinding{}}
	before := d.setup.Load()
	cfg, diags := d.opts.Load()
	if diags.HasErrors() {
		return out, broker.RefuseConfig(backends.ErrInvalid, findings(diags, hcl.DiagError)...)
	}
	out.Warnings = append(out.Warnings, findings(diags, hcl.DiagWarning)...)
	changes, err := d.reconciler().plan(ctx, cfg)
	if err != nil {
		return out, refused(err)
	}
	problems := fixed(before.cfg, cfg)
	err = d.db.View(ctx, func(tx *store.Tx) error {
		wants, err := underWay(ctx, tx)
		if err != nil {
			return err
		}
		refused, lacking := wants.judge(before.cfg, cfg)
		problems = append(problems, refused...)
		warnings, err := wants.slighted(ctx, tx, before.cfg, cfg)
		out.Warnings = append(append(out.Warnings, lacking...), warnings...)
		return err
	})
	if err != nil {
		return out, refused(err)
	}
	if len(problems) > 0 {
		return out, broker.RefuseConfig(backends.ErrConflict, problems...)
	}
	next, err := d.parts.build(ctx, cfg, before)
	if err != nil {
		return out, refused(fmt.Errorf("setting up: %w", err))
	}
	for _, c := range changes {
		out.Changes = append(out.Changes, client.ConfigChange{Change: c.kind, Kind: client.KindSecret, Name: c.ref.String()})
	}
	out.Changes = append(out.Changes, before.changedBlocks(next)...)
	out.Warnings = append(out.Warnings, next.unfilled()...)
	if dryRun {
		next.close()
		return out, nil
	}
	if err := d.commit(ctx, by, before, next, changes); err != nil && !d.committed(err, cfg, changes) {
		next.close()
		return out, err
	}
	if err := d.signing.look(ctx); err != nil {
		d.log.Warn("new consumers are told nothing before their signing keys can be read", "error", err)
	}
	d.use(next)
	d.retire(before)
	d.tellTroubles(before, next)
	d.reconciler().log(changes)
	d.lookAtUnmet(ctx)
	if err := d.engine.Reconfigured(ctx); err != nil {
		d.log.Warn("not everything that waits for the new configuration was woken: it looks again by itself", "error", err)
	}
	return out, nil
}

// commit changes the rows, unless something has begun meanwhile that the new
// configuration does not have what it needs for.
func (d *Daemon) commit(ctx context.Context, by string, before, next *setup, changes []change) error {
	if err := d.signing.ready(ctx, next.cfg.Consumers); err != nil {
		return refused(err)
	}
	err := d.db.UpdateLatest(ctx, func(tx *store.Tx) error {
		// First the rows: whoever begins a rotation meanwhile has read them before.
		r := d.reconciler()
		r.catalog = next.catalog
		if err := r.apply(ctx, tx, changes); err != nil {
			return err
		}
		wants, err := underWay(ctx, tx)
		if err != nil {
			return err
		}
		if problems, _ := wants.judge(before.cfg, next.cfg); len(problems) > 0 {
			return broker.RefuseConfig(backends.ErrConflict, problems...)
		}
		if err := errors.Join(next.keepKeys(), d.signing.keep(ctx, tx, next.cfg.Consumers)); err != nil {
			return err
		}
		return tx.AddAudit(ctx, rotation.AuditEvent{At: now(), Actor: by, Action: "config.apply", Path: "sys/config", Outcome: "ok",
			Detail: map[string]string{"secrets_changed": fmt.Sprint(len(changes)), "secrets": fmt.Sprint(len(next.cfg.Secrets))}})
	})
	if err != nil {
		return refused(err)
	}
	return nil
}

// committed finds out what became of a commit whose answer was lost: it was made if
// nothing of its changes is left to be made. Where there were none, nothing depends
// on it.
func (d *Daemon) committed(err error, cfg *config.Config, changes []change) bool {
	if len(changes) == 0 || !errors.Is(err, backends.ErrUnavailable) {
		return false
	}
	ctx, cancel := context.WithTimeout(d.serving, lookTimeout)
	defer cancel()
	for {
		left, err := d.reconciler().plan(ctx, cfg)
		if err == nil {
			return len(left) == 0
		}
		select {
		case <-ctx.Done():
			d.log.Named("config").Error("it is not known whether the rows of a configuration were committed; the next reload or start puts them right", "error", err)
			return false
		case <-time.After(lookEvery):
		}
	}
}

// use puts a setup in force, for whatever begins from now on.
func (d *Daemon) use(s *setup) {
	d.useComponents(s)
	d.signing.use(s.cfg)
	d.alerts.SetRules(alertRules(s))
	if err := d.audit.SetSinks(filepath.Join(s.cfg.DataDir, auditCursorDir), s.sinks); err != nil {
		d.log.Error("the audit log is sent to no sink", "error", err)
	}
	d.audit.Retain(journalOf(s.cfg))
	d.wire.apply(s.cfg)
	d.config.mu.Lock()
	defer d.config.mu.Unlock()
	d.config.loadedAt = now()
	d.metrics.loadedAt.SetToCurrentTime()
}

// useComponents puts the components of a setup in force.
func (d *Daemon) useComponents(s *setup) {
	d.engine.SetCatalog(crashCatalog(s.catalog))
	d.broker.SetRules(s.rules(d.health.down))
	d.health.watch(s.catalog.Backends)
	d.queues.use(s.queues)
	d.setup.Store(s)
}

// retire closes a setup that was replaced, once nothing can be using it.
func (d *Daemon) retire(s *setup) {
	d.retired.Go(func() {
		t := time.NewTimer(closeAfter)
		defer t.Stop()
		select {
		case <-t.C:
		case <-d.stopped:
		}
		s.close()
	})
}

// endReloads cuts off a reload under way, lets no other begin, and closes the
// setups that were replaced.
func (d *Daemon) endReloads() {
	d.stopServing()
	d.reloading <- struct{}{} // never given back
	close(d.stopped)
	d.retired.Wait()
}

// reloaded tells everybody how a reload ended.
func (d *Daemon) reloaded(by string, out client.Reload, err error) {
	log := d.log.Named("config")
	outcome := &client.ReloadOutcome{At: now(), By: by, OK: err == nil}
	for _, w := range out.Warnings {
		log.Warn("the configuration: "+w.What, "remedy", w.Remedy, "file", w.File, "line", w.Line)
	}
	if err == nil {
		d.metrics.reloadOK.Set(1)
		log.Info("the configuration was reloaded", "by", by, "changes", len(out.Changes), "warnings", len(out.Warnings))
	} else {
		d.metrics.reloadOK.Set(0)
		outcome.Error = err.Error()
		if r, ok := errors.AsType[*broker.RefusedConfig](err); ok {
			outcome.Problems = r.Problems()
		}
		for _, p := range outcome.Problems {
			log.Error("the configuration: "+p.What, "remedy", p.Remedy, "file", p.File, "line", p.Line)
		}
		log.Error("the configuration was not reloaded; that of before stays in force", "by", by, "problems", len(outcome.Problems), "error", err)
		auditErr := d.audit.Write(d.serving, audit.Record{AuditEvent: rotation.AuditEvent{At: outcome.At, Actor: by, Action: "config.apply", Path: "sys/config", Outcome: "failed",
			Detail: map[string]string{"problems": fmt.Sprint(len(outcome.Problems))}}}, audit.Synced)
		if auditErr != nil {
			log.Error("a refused reload is not in the audit log", "error", auditErr)
		}
	}
	d.config.mu.Lock()
	defer d.config.mu.Unlock()
	d.config.last = outcome
}

// refused makes of any error one that says what is in force.
func refused(err error) error {
	if _, ok := errors.AsType[*broker.RefusedConfig](err); ok {
		return err
	}
	class := backends.Class(err)
	if class == nil {
		class = backends.ErrUnavailable
	}
	var problems []client.ConfigFinding
	each := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		each = many.Unwrap()
	}
	for _, one := range each {
		problems = append(problems, client.ConfigFinding{What: one.Error()})
	}
	return broker.RefuseConfig(class, problems...)
}

// findings are the diagnostics of one severity.
func findings(diags *config.Diagnostics, severity hcl.DiagnosticSeverity) []client.ConfigFinding {
	var out []client.ConfigFinding
	for _, diag := range diags.All() {
		if diag.Severity != severity {
			continue
		}
		f := client.ConfigFinding{What: diag.Summary, Remedy: diag.Detail}
		if diag.Subject != nil {
			f.File, f.Line = diag.Subject.Filename, diag.Subject.Start.Line
		}
		out = append(out, f)
	}
	return out
}

// unmet tells which needs of what is under way the configuration in force does not meet.
func (d *Daemon) unmet(ctx context.Context) ([]client.ConfigFinding, error) {
	out := []client.ConfigFinding{}
	err := d.db.View(ctx, func(tx *store.Tx) error {
		wants, err := underWay(ctx, tx)
		_, lacking := wants.judge(nil, d.setup.Load().cfg)
		out = append(out, lacking...)
		return err
	})
	return out, err
}

// tellUnmet logs what a node is started without. It starts all the same, and counts
// as ready: an outage of everything would be worse than a rotation that waits.
func (d *Daemon) tellUnmet(ctx context.Context) error {
	found, err := d.unmet(ctx)
	if err != nil {
		return err
	}
	for _, f := range found {
		d.log.Named("config").Error("the configuration lacks what is under way; it waits: "+f.What, "remedy", f.Remedy)
	}
	d.metrics.conflicts.Set(float64(len(found)))
	d.startedUnmet = len(found)
	return nil
}

// followUnmet keeps the metric of conflicts for as long as there are any: a reload
// makes none.
func (d *Daemon) followUnmet(ctx context.Context) {
	t := time.NewTicker(unmetEvery)
	defer t.Stop()
	for left := d.startedUnmet; left > 0; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			left = d.lookAtUnmet(ctx)
		}
	}
}

// lookAtUnmet counts the conflicts for the metric.
func (d *Daemon) lookAtUnmet(ctx context.Context) int {
	found, err := d.unmet(ctx)
	if err != nil {
		return 1 // look again; the store's own troubles are told elsewhere
	}
	d.metrics.conflicts.Set(float64(len(found)))
	return len(found)
}

// asNode is the Daemon as the Broker sees it.
type asNode struct{ d *Daemon }

// Reload implements broker.Node.
func (n asNode) Reload(ctx context.Context, by string, dryRun bool) (client.Reload, error) {
	return n.d.reload(ctx, by, dryRun)
}

// Configuration implements broker.Node.
func (n asNode) Configuration(ctx context.Context) (client.Configuration, error) {
	conflicts, err := n.d.unmet(ctx)
	c := &n.d.config
	c.mu.Lock()
	defer c.mu.Unlock()
	return client.Configuration{LoadedAt: c.loadedAt, LastReload: c.last, Conflicts: conflicts}, err
}
