package store

import (
	"context"
	"fmt"
)

// Setting returns a setting of the installation, or ErrNotFound.
func (tx *Tx) Setting(ctx context.Context, name string) (value []byte, err error) {
	if err := tx.t.queryRow(ctx, "SELECT value FROM settings WHERE name = $1", name).Scan(&value); err != nil {
		return nil, fmt.Errorf("reading setting %s: %w", name, err)
	}
	return value, nil
}

// PutSettingIfAbsent stores a setting unless there is one, and returns the one
// that is there now: nodes that start together agree on it.
func (tx *Tx) PutSettingIfAbsent(ctx context.Context, name string, value []byte) ([]byte, error) {
	err := tx.execOnly(ctx, "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, value)
	if err != nil {
		return nil, fmt.Errorf("storing setting %s: %w", name, err)
	}
	return tx.Setting(ctx, name)
}
