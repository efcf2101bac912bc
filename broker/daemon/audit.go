package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/hcl/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/audit/sink"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
)

// What of the audit log is in data_dir beside the journal.
const (
	nodeIDFile          = "node-id"
	auditCheckpointFile = "audit.checkpoint" // the newest, as it was signed
	auditCursorDir      = "audit-cursors"
)

// keepCheckpointEvery is how often the newest checkpoint is kept elsewhere than in the
// journal itself.
const keepCheckpointEvery = 5 * time.Second

// auditSinkTypes are the types of sinks, by their first label.
var auditSinkTypes = map[string]auditSinkType{
	"file":          sinkOf[sink.File](),
	"syslog":        sinkOf[sink.Syslog](),
	"splunk_hec":    sinkOf[sink.Splunk](),
	"elasticsearch": sinkOf[sink.Elasticsearch](),
	"http":          sinkOf[sink.HTTP](),
	"witness":       sinkOf[sink.Witness](),
	journalType:     {Type: journalBlock()},
}

// auditSinkType is how a sink's block is read, and how the sink is made.
type auditSinkType struct {
	config.Type
	open func(cfg any, node string) (audit.Sink, error)
}

func sinkOf[C sink.Config]() auditSinkType {
	return auditSinkType{
		Type: config.Type{
			New: func() any { return new(C) },
			Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
				return c.Mistakes(cfg, (*cfg.(*C)).Validate())
			},
		},
		open: func(cfg any, node string) (audit.Sink, error) { return (*cfg.(*C)).Open(node) },
	}
}

// auditSinks makes those of a setup. They hold nothing until they are used, and are
// closed by the log.
func (p *parts) auditSinks(s, before *setup) error {
	s.sinks = map[string]audit.Sink{}
	if err := refuseSharedFiles(s.cfg); err != nil {
		return err
	}
	for _, a := range s.cfg.AuditSinks {
		if a.Type == journalType {
			continue
		}
		t, ok := auditSinkTypes[a.Type]
		if !ok {
			return unknownType("audit", a.Type)
		}
		err := component(s, before, block{"audit", a.Name}, s.sinks, before.sinks, func() (audit.Sink, func(), error) {
			made, err := t.open(a.Config, p.node)
			return made, nil, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// openAudit opens the audit log of this node, which has an id of its own for as long as
// its data_dir lives.
func (d *Daemon) openAudit(ctx context.Context) error {
	dir := d.opts.Config.DataDir
	var err error
	if d.node, err = nodeIDIn(dir); err != nil {
		return err
	}
	d.db.AuditInto(d.node)
	cfg := audit.Config{Path: filepath.Join(dir, auditFile), Node: d.node, Now: now, Logger: d.log.Named("audit")}
	if cfg.HashKey, err = ownKey(ctx, d.db, d.seals.ring, keyAuditHash); err != nil {
		return err
	}
	if cfg.SigningSeed, err = ownKey(ctx, d.db, d.seals.ring, keyAuditSigning); err != nil {
		return err
	}
	if cfg.Known, err = d.knownCheckpoint(ctx, cfg); err != nil {
		return err
	}
	cfg.MaxSize, cfg.Keep = journalOf(d.opts.Config)
	if d.audit, err = audit.Open(cfg); err != nil {
		return err
	}
	d.audit.HoldWhile(d.evidenceHeld)
	d.onClose(func() error {
		return errors.Join(d.audit.Close(), d.keepCheckpoint(context.WithoutCancel(ctx)))
	})
	d.metrics.watchAudit(d.audit, dir)
	if err := d.tellDamage(ctx); err != nil {
		d.log.Error("nobody was told that the audit log is damaged; it is tried again", "error", err)
	}
	return nil
}

// nodeIDIn returns the id that a node is known by in its audit log.
func nodeIDIn(dir string) (string, error) {
	path := filepath.Join(dir, nodeIDFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		id := uuid.NewString()
		err = privatefile.Create(path, func(w io.Writer) error {
			_, err := io.WriteString(w, id+"\n")
			return err
		})
		text = []byte(id)
	}
	if err != nil {
		return "", fmt.Errorf("the id of this node: %w", err)
	}
	id := trimNewline(text)
	if uuid.Validate(id) != nil {
		return "", fmt.Errorf("%w: %s does not hold the id of a node; without the file the node takes another, and begins a log of its own", backends.ErrInvalid, path)
	}
	return id, nil
}

// knownCheckpoint is the newest that is kept beside the journal or in the store. One
// that another installation has signed is none.
func (d *Daemon) knownCheckpoint(ctx context.Context, cfg audit.Config) (string, error) {
	var kept string
	err := d.db.View(ctx, func(tx *store.Tx) (err error) {
		kept, err = tx.AuditCheckpoint(ctx, d.node)
		return err
	})
	if err != nil && !errors.Is(err, backends.ErrNotFound) {
		return "", err
	}
	beside, err := os.ReadFile(filepath.Join(d.opts.Config.DataDir, auditCheckpointFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the checkpoint of the audit log: %w", err)
	}
	newest, bad := audit.NewestOf(cfg, kept, string(beside))
	for _, err := range bad {
		d.log.Error("a checkpoint of the audit log that is kept is not believed", "error", err)
	}
	return newest, nil
}

// keepCheckpoints keeps the newest checkpoint where it outlives the journal, until ctx
// ends.
func (d *Daemon) keepCheckpoints(ctx context.Context) {
	t := time.NewTicker(keepCheckpointEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := d.keepCheckpoint(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("keeping the checkpoint of the audit log failed", "error", err)
		}
		if err := d.tellDamage(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("nobody was told that the audit log is damaged; it is tried again", "error", err)
		}
	}
}

// keepCheckpoint is called by one at a time.
func (d *Daemon) keepCheckpoint(ctx context.Context) error {
	note := d.audit.Checkpoint().Note
	if note == "" || note == d.keptCheckpoint {
		return nil
	}
	err := privatefile.Replace(filepath.Join(d.opts.Config.DataDir, auditCheckpointFile), func(w io.Writer) error {
		_, err := io.WriteString(w, note)
		return err
	})
	if err != nil {
		return err
	}
	err = d.db.Update(ctx, func(tx *store.Tx) error {
		switch before, err := tx.AuditCheckpoint(ctx, d.node); {
		case err == nil && !d.audit.Extends(before):
			return fmt.Errorf("%w: the store has a checkpoint of this node that its audit log does not have: does another node run with the same %s?", backends.ErrConflict, nodeIDFile)
		case err != nil && !errors.Is(err, backends.ErrNotFound):
			return err
		}
		return tx.SetAuditCheckpoint(ctx, d.node, note)
	})
	if err == nil {
		d.keptCheckpoint = note
	}
	return err
}

// auditMetrics are what is known of the audit log at each scrape.
type auditMetrics struct {
	log                         *audit.Log
	dir                         string
	lag, up, held, signed, free *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (a *auditMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{a.lag, a.up, a.held, a.signed, a.free} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (a *auditMetrics) Collect(out chan<- prometheus.Metric) {
	s := a.log.Status()
	out <- prometheus.MustNewConstMetric(a.held, prometheus.GaugeValue, float64(s.Held))
	out <- prometheus.MustNewConstMetric(a.signed, prometheus.CounterValue, float64(a.log.Checkpoint().Size))
	if free, err := diskFree(a.dir); err == nil {
		out <- prometheus.MustNewConstMetric(a.free, prometheus.GaugeValue, float64(free))
	}
	journal := 1.0
	if a.log.Down()["journal"] != "" {
		journal = 0
	}
	out <- prometheus.MustNewConstMetric(a.up, prometheus.GaugeValue, journal, "journal")
	for _, sink := range s.Sinks {
		up := 1.0
		if sink.Error != "" {
			up = 0
		}
		out <- prometheus.MustNewConstMetric(a.up, prometheus.GaugeValue, up, sink.Name)
		out <- prometheus.MustNewConstMetric(a.lag, prometheus.GaugeValue, float64(sink.Lag), sink.Name)
	}
}

func (m *metrics) watchAudit(log *audit.Log, dir string) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("keybroker_audit_"+name, help, labels, nil)
	}
	m.registry.MustRegister(&auditMetrics{log: log, dir: dir,
		lag:    desc("sink_lag_records", "Records of the journal that a sink was not sent yet.", "sink"),
		up:     desc("sink_up", "Whether records can be written to a sink (1) or not (0); journal is the node's own file.", "sink"),
		held:   desc("held_records", "Records that only sinks have, because the journal cannot be written."),
		signed: desc("signed_records_total", "Records that a signed checkpoint covers."),
		free:   desc("disk_free_bytes", "Bytes that are left where the audit log of the node is.")})
}
