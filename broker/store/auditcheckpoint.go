package store

import (
	"context"
	"encoding/json"
	"fmt"
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

// SetAuditCheckpoint keeps a checkpoint in the place of the one before.
func (tx *Tx) SetAuditCheckpoint(ctx context.Context, node, note string) error {
	return tx.putSetting(ctx, checkpointOf(node), note)
}
