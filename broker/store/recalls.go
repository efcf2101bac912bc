package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
)

const settingRecalls = "recalls"

// Recall is a version that was being revoked when the store lost its last commits.
type Recall struct {
	Ref     backends.Ref `json:"ref"`
	Version int          `json:"version"`
}

// Recalls returns the versions that are still to be revoked again.
func (tx *Tx) Recalls(ctx context.Context) (list []Recall, err error) {
	text, err := tx.Setting(ctx, settingRecalls)
	if errors.Is(err, backends.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("reading setting %s: %w: it is no JSON", settingRecalls, backends.ErrInvalid)
	}
	return list, nil
}

// SetRecalls replaces the list.
func (tx *Tx) SetRecalls(ctx context.Context, list []Recall) error {
	if len(list) == 0 {
		return tx.putSetting(ctx, settingRecalls, nil)
	}
	return tx.putSetting(ctx, settingRecalls, list)
}
