package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/keys"
)

// APIKeys keeps what the api_key issuer mints, one transaction per call.
type APIKeys struct{ db *DB }

var (
	_ keys.Keys   = APIKeys{}
	_ keys.Lookup = APIKeys{}
)

// APIKeys returns the records of the api_key issuer.
func (db *DB) APIKeys() APIKeys { return APIKeys{db} }

const apiKeyColumns = "id, tenant, secret, version, tag, pepper_version, hash, created_at, revoked_at"

func scanAPIKey(r row) (k keys.Record, err error) {
	err = r.Scan(&k.ID, &k.Tenant, &k.Secret, &k.Version, &k.Tag, &k.PepperVersion, &k.Hash,
		instant{&k.CreatedAt}, instant{&k.RevokedAt})
	return k, err
}

// Create implements keys.Keys.
func (a APIKeys) Create(ctx context.Context, k keys.Record) error {
	err := a.db.Update(ctx, func(tx *Tx) error {
		err := tx.insert(ctx, "INSERT INTO api_keys ("+apiKeyColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
			k.ID, k.Tenant, k.Secret, k.Version, k.Tag, k.PepperVersion, k.Hash, micros(k.CreatedAt), nullMicros(k.RevokedAt))
		if errors.Is(err, backends.ErrConflict) {
			return tx.checkSameAPIKey(ctx, k, err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("storing API key %s: %w", k.ID, err)
	}
	return nil
}

// checkSameAPIKey returns nil if the record of k's tag is of the same key, else conflict.
func (tx *Tx) checkSameAPIKey(ctx context.Context, k keys.Record, conflict error) error {
	have, err := scanAPIKey(tx.q.queryRow(ctx,
		"SELECT "+apiKeyColumns+" FROM api_keys WHERE tenant = $1 AND tag = $2", k.Tenant, k.Tag))
	switch {
	case err == nil && bytes.Equal(have.Hash, k.Hash):
		return nil
	case err == nil || errors.Is(err, backends.ErrNotFound):
		return conflict
	}
	return err
}

// Revoke implements keys.Keys.
func (a APIKeys) Revoke(ctx context.Context, id string) error {
	err := a.db.Update(ctx, func(tx *Tx) error {
		n, err := tx.t.exec(ctx, "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2", micros(tx.now()), id)
		if err == nil && n == 0 {
			err = errMissing
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("revoking API key %s: %w", id, err)
	}
	return nil
}

// FindByTag implements keys.Keys.
func (a APIKeys) FindByTag(ctx context.Context, tag string) (found []keys.Record, err error) {
	err = a.db.ViewOne(ctx, func(tx *Tx) (err error) {
		found, err = all(ctx, tx, scanAPIKey, "SELECT "+apiKeyColumns+" FROM api_keys WHERE tag = $1 ORDER BY created_at, id", tag)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("finding API keys: %w", err)
	}
	return found, nil
}

// FindByHash implements keys.Lookup.
func (a APIKeys) FindByHash(ctx context.Context, hash []byte) (k keys.Record, err error) {
	err = a.db.ViewOne(ctx, func(tx *Tx) (err error) {
		k, err = scanAPIKey(tx.q.queryRow(ctx, "SELECT "+apiKeyColumns+" FROM api_keys WHERE hash = $1", hash))
		return err
	})
	if err != nil {
		return keys.Record{}, fmt.Errorf("looking an API key up: %w", err)
	}
	return k, nil
}
