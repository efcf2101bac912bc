package store

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// SealKey is a key-encryption key, wrapped. The one with the highest Number seals.
type SealKey struct {
	ID        string
	Number    int64
	CreatedAt time.Time
	Wrappings []Wrapping
}

// Wrapping is a key-encryption key as one seal wraps it.
type Wrapping struct {
	Seal    string // its id
	Wrapped []byte
	// Earlier is what Wrapped has replaced: kept, since that may have been good after
	// all, until SettleWrapping. PutWrapping ignores it.
	Earlier   []byte
	CreatedAt time.Time
}

// SealKeys returns the key-encryption keys, the newest first.
func (tx *Tx) SealKeys(ctx context.Context) ([]SealKey, error) {
	keys, err := all(ctx, tx, func(r row) (k SealKey, err error) {
		var id []byte
		err = r.Scan(&id, &k.Number, instant{&k.CreatedAt})
		k.ID = string(id)
		return k, err
	}, "SELECT id, number, created_at FROM seal_keys ORDER BY number DESC")
	if err != nil {
		return nil, fmt.Errorf("reading the seal's keys: %w", err)
	}
	for i := range keys {
		keys[i].Wrappings, err = all(ctx, tx, func(r row) (w Wrapping, err error) {
			err = r.Scan(&w.Seal, &w.Wrapped, &w.Earlier, instant{&w.CreatedAt})
			return w, err
		}, "SELECT seal, wrapped, earlier, created_at FROM seal_wrappings WHERE kek = $1 ORDER BY seal", []byte(keys[i].ID))
		if err != nil {
			return nil, fmt.Errorf("reading who wraps the key %s: %w", keys[i].ID, err)
		}
	}
	return keys, nil
}

// AddSealKey adds a key with its wrappings; from the commit on it is the one that
// seals. Its Number is the highest there was and one. ErrConflict if somebody else
// takes that number at the same time.
func (tx *Tx) AddSealKey(ctx context.Context, k SealKey) error {
	var highest int64
	err := tx.q.queryRow(ctx, "SELECT COALESCE(MAX(number), 0) FROM seal_keys").Scan(&highest)
	if err == nil {
		err = tx.insert(ctx, "INSERT INTO seal_keys (id, number, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
			[]byte(k.ID), highest+1, micros(k.CreatedAt))
	}
	if err != nil {
		return fmt.Errorf("adding the key %s: %w", k.ID, err)
	}
	for _, w := range k.Wrappings {
		if err := tx.PutWrapping(ctx, k.ID, w); err != nil {
			return err
		}
	}
	return nil
}

// HasSealKey tells whether the store knows a key: what others seal it refuses.
func (tx *Tx) HasSealKey(ctx context.Context, id string) (bool, error) {
	var n int
	if err := tx.q.queryRow(ctx, "SELECT COUNT(*) FROM seal_keys WHERE id = $1", []byte(id)).Scan(&n); err != nil {
		return false, fmt.Errorf("looking for the key %s: %w", id, err)
	}
	return n > 0, nil
}

// PutWrapping stores what a seal wraps a key as. What it replaces is kept as Earlier,
// or what that one had replaced, if it was never settled.
func (tx *Tx) PutWrapping(ctx context.Context, kek string, w Wrapping) error {
	err := tx.execOnly(ctx, `INSERT INTO seal_wrappings (kek, seal, wrapped, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (kek, seal) DO UPDATE SET earlier = COALESCE(seal_wrappings.earlier, seal_wrappings.wrapped),
			wrapped = excluded.wrapped, created_at = excluded.created_at`,
		[]byte(kek), w.Seal, w.Wrapped, micros(w.CreatedAt))
	if err != nil {
		return fmt.Errorf("storing the key %s as %s wraps it: %w", kek, w.Seal, err)
	}
	return nil
}

// SettleWrapping makes good the one of the two wrappings w that a seal has opened,
// Wrapped or Earlier, and forgets the other. If w is not what the store has any more,
// nothing happens.
func (tx *Tx) SettleWrapping(ctx context.Context, kek string, w Wrapping, good []byte) error {
	err := tx.execOnly(ctx, "UPDATE seal_wrappings SET wrapped = $1, earlier = NULL WHERE kek = $2 AND seal = $3 AND wrapped = $4",
		good, []byte(kek), w.Seal, w.Wrapped)
	if err != nil {
		return fmt.Errorf("settling how %s wraps the key %s: %w", w.Seal, kek, err)
	}
	return nil
}

// RemoveSealKey removes a key. ErrConflict while it seals anything: the database
// itself refuses to forget a key that a row needs.
func (tx *Tx) RemoveSealKey(ctx context.Context, id string) error {
	err := tx.execOnly(ctx, "DELETE FROM seal_wrappings WHERE kek = $1", []byte(id))
	if err == nil {
		err = tx.execOnly(ctx, "DELETE FROM seal_keys WHERE id = $1", []byte(id))
	}
	if err != nil {
		return fmt.Errorf("removing the key %s: %w", id, err)
	}
	return nil
}

// SealedBy counts the sealed values by the id of the key that seals them.
func (tx *Tx) SealedBy(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	for _, t := range sealedTables {
		err := tx.q.query(ctx, func(r row) error {
			var id []byte
			var n int
			err := r.Scan(&id, &n)
			counts[string(id)] += n
			return err
		}, "SELECT sealed_by, COUNT(*) FROM "+t.name+" WHERE sealed_by IS NOT NULL GROUP BY sealed_by")
		if err != nil {
			return nil, fmt.Errorf("counting sealed values of %s: %w", t.name, err)
		}
	}
	return counts, nil
}

// SealedValue is one sealed value, wherever it is.
type SealedValue struct {
	Table  string
	Ref    backends.Ref // of an own key the name alone; of a signing key its consumer
	Number int          // of the version
	Sealed []byte

	id    string // of the secret or the signing key, where the table has it
	bound []byte // what a signing key is bound to
}

// AssociatedData is what the value is bound to.
func (v SealedValue) AssociatedData() []byte {
	switch v.Table {
	case ownKeys:
		return ownKeyBinding(v.Ref.Name)
	case signingKeys:
		return v.bound
	}
	return backends.AssociatedData(v.Ref, v.Number, v.Table+".sealed")
}

// sealedTable is a table with a column "sealed".
type sealedTable struct {
	name    string
	columns string // as scan reads them
	from    string
	order   []string // the primary key, its values those of key
	scan    func(row, *SealedValue) error
	key     func(SealedValue) []any
}

// sealedTables are all places of sealed values. Whoever adds one adds it here.
var sealedTables = []sealedTable{
	{
		name: ownKeys, columns: "name, sealed", from: ownKeys, order: []string{"name"},
		scan: func(r row, v *SealedValue) error { return r.Scan(&v.Ref.Name, &v.Sealed) },
		key:  func(v SealedValue) []any { return []any{v.Ref.Name} },
	},
	{
		name: "versions", columns: "v.secret_id, v.tenant, s.name, v.number, v.sealed",
		from: "versions v JOIN secrets s ON s.id = v.secret_id", order: []string{"v.secret_id", "v.number"},
		scan: func(r row, v *SealedValue) error {
			return r.Scan(&v.id, &v.Ref.Tenant, &v.Ref.Name, &v.Number, &v.Sealed)
		},
		key: func(v SealedValue) []any { return []any{v.id, v.Number} },
	},
	{
		name: "local_versions", columns: "tenant, name, number, sealed", from: "local_versions", order: []string{"tenant", "name", "number"},
		scan: func(r row, v *SealedValue) error { return r.Scan(&v.Ref.Tenant, &v.Ref.Name, &v.Number, &v.Sealed) },
		key:  func(v SealedValue) []any { return []any{v.Ref.Tenant, v.Ref.Name, v.Number} },
	},
	{
		name: signingKeys, columns: signingKeyColumns, from: signingKeys, order: []string{"id"},
		scan: func(r row, v *SealedValue) error {
			k, err := scanSigningKey(r)
			v.id, v.Ref, v.Sealed, v.bound = k.ID, backends.Ref{Tenant: k.Tenant, Name: k.Consumer}, k.Sealed, k.AssociatedData()
			return err
		},
		key: func(v SealedValue) []any { return []any{v.id} },
	},
}
