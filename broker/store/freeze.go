package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

const settingFreeze = "freeze"

// Freeze returns who has frozen everything, or ErrNotFound if nothing is frozen.
func (tx *Tx) Freeze(ctx context.Context) (f rotation.Freeze, err error) {
	text, err := tx.Setting(ctx, settingFreeze)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return f, fmt.Errorf("reading setting %s: %w: it is no JSON", settingFreeze, backends.ErrInvalid)
	}
	return f, nil
}

// SetFreeze freezes everything; nil ends that.
func (tx *Tx) SetFreeze(ctx context.Context, f *rotation.Freeze) error {
	if f == nil {
		return tx.putSetting(ctx, settingFreeze, nil)
	}
	return tx.putSetting(ctx, settingFreeze, f)
}
