package store

import (
	"context"
	"encoding/json"
	"fmt"
)

// Setting returns a setting of the installation, or ErrNotFound.
func (tx *Tx) Setting(ctx context.Context, name string) (value []byte, err error) {
	if err := tx.q.queryRow(ctx, "SELECT value FROM settings WHERE name = $1", name).Scan(&value); err != nil {
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

// putSetting stores a setting as JSON; nil removes it.
func (tx *Tx) putSetting(ctx context.Context, name string, value any) error {
	if value == nil {
		if err := tx.execOnly(ctx, "DELETE FROM settings WHERE name = $1", name); err != nil {
			return fmt.Errorf("removing setting %s: %w", name, err)
		}
		return nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding setting %s: %w", name, err)
	}
	err = tx.execOnly(ctx, "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, text)
	if err != nil {
		return fmt.Errorf("storing setting %s: %w", name, err)
	}
	return nil
}
