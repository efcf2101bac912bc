package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/audit/sink"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
)

// journalType is the type of the one audit block that is no sink: the node's own file.
const journalType = "journal"

// journalConfig is audit "journal".
type journalConfig struct {
	MaxSize string        `hcl:"max_size,optional"` // of a segment, such as "128MiB"
	Keep    time.Duration `hcl:"keep,optional"`     // how long a segment is kept, at least; 0: for ever
}

const (
	minSegment = 1 << 20
	minKeep    = 24 * time.Hour
	// lowSegments is how many segments have to find room on the disk: with less, it is low.
	lowSegments = 4
)

func journalBlock() config.Type {
	return config.Type{
		New: func() any { return new(journalConfig) },
		Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			return c.Mistakes(cfg, cfg.(*journalConfig).validate())
		},
	}
}

func (c journalConfig) validate() error {
	var errs []error
	if size, err := sink.ParseSize(c.MaxSize); err != nil {
		errs = append(errs, err)
	} else if c.MaxSize != "" && size < minSegment {
		errs = append(errs, errors.New(`invalid: max_size is less than 1MiB: a segment is to have many records`))
	}
	if c.Keep != 0 && c.Keep < minKeep {
		errs = append(errs, errors.New(`invalid: keep is less than 24h: after a restore the broker looks up in it what has happened since; without it segments are kept for ever`))
	}
	return errors.Join(errs...)
}

// journalOf is how long segments become and how long they are kept.
func journalOf(cfg *config.Config) (maxSize int64, keep time.Duration) {
	for _, a := range cfg.AuditSinks {
		if j, ok := a.Config.(*journalConfig); ok {
			maxSize, _ = sink.ParseSize(j.MaxSize) // it was checked
			keep = j.Keep
		}
	}
	return maxSize, keep
}

// tellDamage raises an alert for what was found wrong with the journal, once.
func (d *Daemon) tellDamage(ctx context.Context) error {
	text := d.audit.Doubts()[journalType]
	if text == "" || text == d.toldDamage {
		return nil
	}
	err := d.db.Update(ctx, func(tx *store.Tx) error {
		return tx.RaiseAlert(ctx, store.Raise{Kind: alert.AuditLogDamaged, Subject: "audit log of " + nodeName() + ", node " + d.node,
			Text: "the audit log is not as it was written: " + text, Next: "keybroker audit verify " + d.opts.Config.DataDir})
	})
	if err != nil {
		return fmt.Errorf("raising an alert: %w", err)
	}
	d.toldDamage = text
	return nil
}

// auditTrouble tells of sinks that lack something, and of a disk that is nearly full.
func (d *Daemon) auditTrouble(add func(kind, tenant, what, next, format string, args ...any)) {
	for name, text := range d.audit.Doubts() {
		if name != journalType {
			add(alert.AuditSinkDown, "", name+" (incomplete)", "keybroker audit query", "the audit log in %s is not whole: %s", name, text)
		}
	}
	free, err := diskFree(d.opts.Config.DataDir)
	if least := uint64(lowSegments * d.audit.MaxSize()); err == nil && free < least {
		add(alert.AuditDiskLow, "", "data_dir", "df -h "+d.opts.Config.DataDir, "%d MiB are left where the audit log is, less than %d: where it cannot be written, nothing can be read", free>>20, least>>20)
	}
}

// refuseSharedFiles refuses copies of the log that would be written into each other, or
// into the log itself.
func refuseSharedFiles(cfg *config.Config) error {
	taken := map[string]string{}
	if dir, err := filepath.Abs(cfg.DataDir); err == nil {
		taken[filepath.Join(dir, auditFile)] = "the log itself"
	}
	for _, a := range cfg.AuditSinks {
		f, ok := a.Config.(*sink.File)
		if !ok {
			continue
		}
		path := filepath.Clean(f.Path)
		if other := taken[path]; other != "" {
			return fmt.Errorf("audit %q: path is that of %s: give each a file of its own", a.Name, other)
		}
		taken[path] = fmt.Sprintf("audit %q", a.Name)
	}
	return nil
}
