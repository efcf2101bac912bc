package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlitecodes "modernc.org/sqlite/lib"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/engine"
)

const ownKeys = "own_keys"

// keyGone gives the refusal of a sealed value its own error, where the store has
// forgotten the key that seals it: it is sealed anew, and nobody else is in the way.
// A row with a sealed value refers to nothing else that could be missing.
func keyGone(err error, sealed []byte) error {
	missing := false
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		missing = e.Code() == sqlitecodes.SQLITE_CONSTRAINT_FOREIGNKEY
	}
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		missing = e.Code == "23503" && strings.HasSuffix(e.ConstraintName, "sealed_by_fkey") // foreign_key_violation
	}
	if sealed == nil || !missing {
		return err
	}
	return fmt.Errorf("%w: %v", engine.ErrKeyGone, err)
}

// ownKeyBinding is what one of the broker's own keys is bound to when it is sealed.
func ownKeyBinding(name string) []byte { return []byte("keybroker/own_keys/" + name) }

// OwnKeyOrAdd returns one of the broker's own keys, sealed. If there is none it
// stores what seal makes of the associated data that the key is bound to: nodes that
// start together agree on the one that came first.
func (db *DB) OwnKeyOrAdd(ctx context.Context, name string, seal func(ad []byte) ([]byte, error)) (SealedValue, error) {
	v := SealedValue{Table: ownKeys, Ref: backends.Ref{Name: name}}
	err := db.Update(ctx, func(tx *Tx) error {
		err := tx.ownKey(ctx, &v)
		if !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		fresh, err := seal(v.AssociatedData())
		if err != nil {
			return err
		}
		if err := tx.execOnly(ctx, "INSERT INTO own_keys (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, fresh); err != nil {
			return keyGone(err, fresh)
		}
		return tx.ownKey(ctx, &v)
	})
	if err != nil {
		return SealedValue{}, fmt.Errorf("keeping %s: %w", name, err)
	}
	return v, nil
}

func (tx *Tx) ownKey(ctx context.Context, v *SealedValue) error {
	return tx.q.queryRow(ctx, "SELECT sealed FROM own_keys WHERE name = $1", v.Ref.Name).Scan(&v.Sealed)
}

// OwnKeys lists the broker's own keys, sealed.
func (tx *Tx) OwnKeys(ctx context.Context) ([]SealedValue, error) {
	values, err := all(ctx, tx, func(r row) (SealedValue, error) {
		v := SealedValue{Table: ownKeys}
		err := r.Scan(&v.Ref.Name, &v.Sealed)
		return v, err
	}, "SELECT name, sealed FROM own_keys ORDER BY name")
	if err != nil {
		return nil, fmt.Errorf("reading the broker's own keys: %w", err)
	}
	return values, nil
}

// SealedValues lists all sealed values, or, where notBy is not empty, those that
// another key than notBy seals. Its pages are of at most page.Limit values of one
// table, so one may be empty that is not the last.
func (tx *Tx) SealedValues(ctx context.Context, notBy string, page Page) ([]SealedValue, string, error) {
	at, after, err := sealedAt(page)
	if err != nil {
		return nil, "", fmt.Errorf("listing sealed values: %w", err)
	}
	t := sealedTables[at]
	f := &filter{}
	f.and("sealed IS NOT NULL")
	if notBy != "" {
		f.and("sealed_by <> $?", []byte(notBy))
	}
	if after != nil {
		f.and("("+strings.Join(t.order, ", ")+") > ("+strings.TrimSuffix(strings.Repeat("$?, ", len(after)), ", ")+")", after...)
	}
	limit := f.arg(page.limit())
	values, err := all(ctx, tx, func(r row) (SealedValue, error) {
		v := SealedValue{Table: t.name}
		err := t.scan(r, &v)
		return v, err
	}, "SELECT "+t.columns+" FROM "+t.from+f.where()+" ORDER BY "+strings.Join(t.order, ", ")+atMost(limit), f.args...)
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("listing sealed values of %s: %w", t.name, err)
	case len(values) == page.limit():
		return values, sealedCursor(at, values[len(values)-1]), nil
	case at+1 < len(sealedTables):
		return values, cursor(at+1, "", "", 0), nil
	}
	return values, "", nil
}

// sealedCursor names a value by its table and all that a key is made of there.
func sealedCursor(table int, v SealedValue) string {
	first := v.id
	if first == "" {
		first = v.Ref.Tenant
	}
	return cursor(table, first, v.Ref.Name, v.Number)
}

// sealedAt gives the table that a page is of, and the key it begins after; nil: at
// the beginning.
func sealedAt(page Page) (table int, after []any, err error) {
	var v SealedValue
	var first string
	given, err := page.decode(&table, &first, &v.Ref.Name, &v.Number)
	if err != nil || table < 0 || table >= len(sealedTables) {
		return 0, nil, errCursor
	}
	if !given || first == "" && v.Ref.Name == "" {
		return table, nil, nil
	}
	v.id, v.Ref.Tenant = first, first
	return table, sealedTables[table].key(v), nil
}

// SwapSealed puts fresh in the place of v.Sealed, and tells whether it was still
// there.
func (tx *Tx) SwapSealed(ctx context.Context, v SealedValue, fresh []byte) (bool, error) {
	for _, t := range sealedTables {
		if t.name != v.Table {
			continue
		}
		f := &filter{}
		set := f.arg(fresh)
		for i, column := range t.order {
			f.and(strings.TrimPrefix(column, "v.")+" = $?", t.key(v)[i])
		}
		f.and("sealed = $?", v.Sealed)
		n, err := tx.t.exec(ctx, "UPDATE "+t.name+" SET sealed = "+set+f.where(), f.args...)
		if err != nil {
			return false, fmt.Errorf("replacing a sealed value of %s: %w", t.name, keyGone(err, fresh))
		}
		return n == 1, nil
	}
	return false, fmt.Errorf("%w: there are no sealed values in %q", backends.ErrInvalid, v.Table)
}
