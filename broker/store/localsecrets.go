package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/local"
)

// LocalStorage keeps the sealed versions of the embedded backend, one
// transaction per call.
type LocalStorage struct{ db *DB }

var _ local.Storage = LocalStorage{}

// LocalStorage returns the storage of the embedded backend.
func (db *DB) LocalStorage() LocalStorage { return LocalStorage{db} }

// Put implements local.Storage.
func (l LocalStorage) Put(ctx context.Context, ref backends.Ref, expect int, v local.Version) error {
	err := l.db.Update(ctx, func(tx *Tx) error {
		if err := tx.swapLocal(ctx, ref, expect, v.Number); err != nil {
			return err
		}
		return keyGone(tx.insert(ctx, `INSERT INTO local_versions (tenant, name, number, sealed, created_at)
			VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, ref.Tenant, ref.Name, v.Number, v.Sealed, micros(v.CreatedAt)), v.Sealed)
	})
	if err != nil {
		return fmt.Errorf("storing version %d of %s: %w", v.Number, ref, err)
	}
	return nil
}

// swapLocal makes number current where expect is, if it is greater than any
// number used so far; the current one is always the greatest. It leaves the
// secret's row locked.
func (tx *Tx) swapLocal(ctx context.Context, ref backends.Ref, expect, number int) error {
	if number <= expect {
		return fmt.Errorf("%w: version %d is not newer than version %d", backends.ErrConflict, number, expect)
	}
	if expect == 0 {
		return tx.insert(ctx, "INSERT INTO local_secrets (tenant, name, current) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
			ref.Tenant, ref.Name, number)
	}
	n, err := tx.t.exec(ctx, "UPDATE local_secrets SET current = $1 WHERE tenant = $2 AND name = $3 AND current = $4",
		number, ref.Tenant, ref.Name, expect)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: version %d is not current", backends.ErrConflict, expect)
	}
	return err
}

// Get implements local.Storage.
func (l LocalStorage) Get(ctx context.Context, ref backends.Ref, number int) (v local.Version, err error) {
	err = l.db.View(ctx, func(tx *Tx) error {
		if number == 0 {
			if number, err = tx.localCurrent(ctx, ref); err != nil {
				return err
			}
		}
		return tx.q.queryRow(ctx, `SELECT number, sealed, created_at, destroyed_at FROM local_versions
			WHERE tenant = $1 AND name = $2 AND number = $3`, ref.Tenant, ref.Name, number).
			Scan(&v.Number, &v.Sealed, instant{&v.CreatedAt}, instant{&v.DestroyedAt})
	})
	if err != nil {
		return local.Version{}, fmt.Errorf("reading %s: %w", ref, err)
	}
	return v, nil
}

func (tx *Tx) localCurrent(ctx context.Context, ref backends.Ref) (current int, err error) {
	err = tx.q.queryRow(ctx, "SELECT current FROM local_secrets WHERE tenant = $1 AND name = $2", ref.Tenant, ref.Name).Scan(&current)
	return current, err
}

// Describe implements local.Storage.
func (l LocalStorage) Describe(ctx context.Context, ref backends.Ref) (current int, versions []local.Version, err error) {
	err = l.db.View(ctx, func(tx *Tx) error {
		if current, err = tx.localCurrent(ctx, ref); err != nil {
			return err
		}
		versions, err = all(ctx, tx, func(r row) (v local.Version, err error) {
			err = r.Scan(&v.Number, instant{&v.CreatedAt}, instant{&v.DestroyedAt})
			return v, err
		}, `SELECT number, created_at, destroyed_at FROM local_versions
			WHERE tenant = $1 AND name = $2 ORDER BY number`, ref.Tenant, ref.Name)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("describing %s: %w", ref, err)
	}
	return current, versions, nil
}

// List implements local.Storage.
func (l LocalStorage) List(ctx context.Context, tenant, after string, limit int) (names []string, err error) {
	err = l.db.ViewOne(ctx, func(tx *Tx) error {
		name := "name" + tx.q.byteOrder()
		names, err = all(ctx, tx, scanString,
			"SELECT name FROM local_secrets WHERE tenant = $1 AND "+name+" > $2 ORDER BY "+name+""+atMost("$3"), tenant, after, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the secrets of tenant %s: %w", tenant, err)
	}
	return names, nil
}

// Destroy implements local.Storage.
func (l LocalStorage) Destroy(ctx context.Context, ref backends.Ref, number int, at time.Time) error {
	err := l.db.Update(ctx, func(tx *Tx) error {
		current, err := tx.localCurrent(ctx, ref)
		switch {
		case errors.Is(err, backends.ErrNotFound):
			return nil
		case err != nil:
			return err
		case current == number:
			return fmt.Errorf("%w: it is current", backends.ErrConflict)
		}
		// A current number only grows: what is not current now never will be.
		return tx.execOnly(ctx, `UPDATE local_versions SET sealed = NULL, destroyed_at = $1
			WHERE tenant = $2 AND name = $3 AND number = $4 AND destroyed_at IS NULL`, micros(at), ref.Tenant, ref.Name, number)
	})
	if err != nil {
		return fmt.Errorf("destroying version %d of %s: %w", number, ref, err)
	}
	return nil
}
