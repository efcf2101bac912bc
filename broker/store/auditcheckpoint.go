package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// checkpointOf is the setting that has the newest signed checkpoint of a node's audit
// log, so that it shows there if the log itself is gone.
func checkpointOf(node string) string { return "audit/checkpoint/" + node }

// AuditCheckpoint returns the checkpoint of a node's audit log that was kept last, or
// ErrNotFound.
func (tx *Tx) AuditCheckpoint(ctx context.Context, node string) (note string, err error) {
	text, err := tx.Setting(ctx, checkpointOf(node))
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(text, &note); err != nil {
		return "", fmt.Errorf("reading the checkpoint of the audit log: %w", err)
	}
	return note, nil
}

// AuditCheckpoints returns those of all nodes that ever kept one, by node. It looks at all
// settings, which are few.
func (tx *Tx) AuditCheckpoints(ctx context.Context) (map[string]string, error) {
	prefix, notes := checkpointOf(""), map[string]string{}
	err := tx.q.query(ctx, func(r row) error {
		var name, note string
		if err := r.Scan(&name, fromJSON{&note}); err != nil {
			return err
		}
		notes[strings.TrimPrefix(name, prefix)] = note
		return nil
	}, "SELECT name, value FROM settings WHERE substr(name, 1, $1) = $2", len(prefix), prefix)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoints of the audit logs: %w", err)
	}
	return notes, nil
}

// SetAuditCheckpoint keeps a checkpoint in the place of the one before.
func (tx *Tx) SetAuditCheckpoint(ctx context.Context, node, note string) error {
	return tx.putSetting(ctx, checkpointOf(node), note)
}
