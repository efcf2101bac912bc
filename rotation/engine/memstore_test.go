package engine_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// table keeps rows by key, in the order of their insertion.
type table[K comparable, V any] struct {
	rows  map[K]V
	order []K
}

func (t *table[K, V]) get(k K) (V, bool) { v, ok := t.rows[k]; return v, ok }

func (t *table[K, V]) put(k K, v V) {
	if t.rows == nil {
		t.rows = map[K]V{}
	}
	if _, ok := t.rows[k]; !ok {
		t.order = append(t.order, k)
	}
	t.rows[k] = v
}

type versionKey struct {
	secret string
	number int
}

// tables are the rows of the store, or what a transaction has written.
type tables struct {
	secrets     table[string, rotation.Secret]
	versions    table[versionKey, rotation.Version]
	rotations   table[string, rotation.Rotation]
	retirements table[string, rotation.Retirement]
	deliveries  table[string, rotation.Delivery]
	acks        table[ackKey, rotation.Ack]
	consumers   table[string, rotation.ConsumerState]
	quarantines table[string, rotation.Quarantine]
	placements  table[string, rotation.Placement]    // a removed one has revision 0
	prints      table[versionKey, map[string]string] // fingerprints, kept for ever
	freeze      table[freezeRow, *rotation.Freeze]
	incidents   table[string, rotation.Incident]
	targets     table[targetKey, rotation.Target]
	compromised table[compromisedKey, string] // the retirement
}

type targetKey struct{ incident, secret string }

type compromisedKey struct {
	incident, secret string
	version          int
}

type ackKey struct{ delivery, instance string }

type freezeRow struct{} // the only one

// memStore keeps the state as package broker/store does: Update is one
// transaction that reads what others have committed meanwhile (as on
// PostgreSQL) or keeps them out (as on SQLite), View is one snapshot.
type memStore struct {
	w         *world
	state     tables
	locks     map[any]*memTx
	exclusive bool // one writer at a time and nobody in between
}

var (
	errStale     = fmt.Errorf("%w: it was changed meanwhile", backends.ErrConflict)
	errTaken     = fmt.Errorf("%w: there is one already", backends.ErrConflict)
	errCollision = fmt.Errorf("%w: the transaction collided with others", backends.ErrUnavailable)
)

func (s *memStore) View(ctx context.Context, fn func(engine.Tx) error) error {
	s.w.point(ctx, "view")
	if s.w.fails(ctx, "store") {
		return fmt.Errorf("%w: beginning a transaction", backends.ErrUnavailable)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	tx := &memTx{s: s, readOnly: true}
	err := s.w.inTx(ctx, func() error { return fn(tx) })
	s.w.point(ctx, "viewed")
	return err
}

func (s *memStore) Update(ctx context.Context, fn func(engine.Tx) error) error {
	for run := 1; ; run++ {
		err := s.update(ctx, fn)
		if !errors.Is(err, errCollision) || run == 10 {
			return err
		}
	}
}

// latest is Update for those who read all that they decide by (UpdateLatest).
func (s *memStore) latest(ctx context.Context, fn func(engine.Tx) error) error {
	for run := 1; ; run++ {
		err := s.Update(ctx, fn)
		if !errors.Is(err, errStale) && !errors.Is(err, errTaken) || run == 10 {
			return err
		}
	}
}

func (s *memStore) update(ctx context.Context, fn func(engine.Tx) error) error {
	s.w.point(ctx, "transaction")
	if s.w.fails(ctx, "store") {
		return fmt.Errorf("%w: beginning a transaction", backends.ErrUnavailable)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	tx := &memTx{s: s, ctx: ctx}
	committed := false
	defer func() {
		for _, k := range tx.locked {
			delete(s.locks, k)
		}
		if !committed {
			for _, revision := range tx.swapped {
				*revision--
			}
		}
	}()
	if err := s.w.inTx(ctx, func() error { return fn(tx) }); err != nil {
		return err
	}
	if s.w.fails(ctx, "store") {
		return fmt.Errorf("%w: committing", backends.ErrUnavailable)
	}
	s.commit(tx)
	if s.w.fails(ctx, "store") {
		s.w.logf(ctx, "the answer to the commit is lost")
		return fmt.Errorf("%w: committing: no answer", backends.ErrUnavailable)
	}
	committed = true
	s.w.point(ctx, "committed")
	return nil
}

func (s *memStore) commit(tx *memTx) {
	s.w.committing(tx)
	for _, k := range tx.own.secrets.order {
		s.state.secrets.put(k, tx.own.secrets.rows[k])
	}
	for _, k := range tx.own.versions.order {
		s.state.versions.put(k, tx.own.versions.rows[k])
	}
	for _, k := range tx.own.rotations.order {
		s.state.rotations.put(k, tx.own.rotations.rows[k])
	}
	for _, k := range tx.own.retirements.order {
		s.state.retirements.put(k, tx.own.retirements.rows[k])
	}
	for _, k := range tx.own.deliveries.order {
		s.state.deliveries.put(k, tx.own.deliveries.rows[k])
	}
	for _, k := range tx.own.acks.order {
		s.state.acks.put(k, tx.own.acks.rows[k])
	}
	for _, k := range tx.own.consumers.order {
		s.state.consumers.put(k, tx.own.consumers.rows[k])
	}
	for _, k := range tx.own.quarantines.order {
		s.state.quarantines.put(k, tx.own.quarantines.rows[k])
	}
	for _, k := range tx.own.placements.order {
		s.state.placements.put(k, tx.own.placements.rows[k])
	}
	for _, k := range tx.own.prints.order {
		s.state.prints.put(k, tx.own.prints.rows[k])
	}
	for _, k := range tx.own.freeze.order {
		s.state.freeze.put(k, tx.own.freeze.rows[k])
	}
	for _, k := range tx.own.incidents.order {
		s.state.incidents.put(k, tx.own.incidents.rows[k])
	}
	for _, k := range tx.own.targets.order {
		s.state.targets.put(k, tx.own.targets.rows[k])
	}
	for _, k := range tx.own.compromised.order {
		s.state.compromised.put(k, tx.own.compromised.rows[k])
	}
	s.w.committed()
}

// memTx is one transaction: what it has written, over what is committed.
type memTx struct {
	s        *memStore
	ctx      context.Context //nolint:containedctx // of the one call that the transaction lives for
	readOnly bool
	own      tables
	locked   []any
	swapped  []*int64
}

// pause lets others commit in between, where the store allows that.
func (tx *memTx) pause() {
	if !tx.readOnly && !tx.s.exclusive {
		tx.s.w.point(tx.ctx, "inside a transaction")
	}
}

// lock waits for the row's writer, as a database does; those who wait for each
// other collide in the end.
func (tx *memTx) lock(key any) error {
	for range 20 {
		holder := tx.s.locks[key]
		if holder == tx {
			return nil
		}
		if holder == nil {
			tx.s.locks[key] = tx
			tx.locked = append(tx.locked, key)
			return nil
		}
		if !tx.s.w.wait(tx.ctx, "a row lock") {
			break
		}
	}
	return errCollision
}

func look[K comparable, V any](own, base *table[K, V], k K) (V, bool) {
	if v, ok := own.get(k); ok {
		return v, true
	}
	return base.get(k)
}

func every[K comparable, V any](own, base *table[K, V], yes func(V) bool) []V {
	var out []V
	for _, k := range base.order {
		if v, _ := look(own, base, k); yes(v) {
			out = append(out, v)
		}
	}
	for _, k := range own.order {
		if _, ok := base.get(k); !ok && yes(own.rows[k]) {
			out = append(out, own.rows[k])
		}
	}
	return out
}

func find[K comparable, V any](own, base *table[K, V], k K) (V, error) {
	v, ok := look(own, base, k)
	if !ok {
		return v, fmt.Errorf("reading %v: %w", k, backends.ErrNotFound)
	}
	return v, nil
}

// swap compares and swaps a row.
func swap[K comparable, V any](tx *memTx, own, base *table[K, V], k K, revision *int64, now func(V) int64, write func(V) V) error {
	tx.pause()
	if err := tx.lock(k); err != nil {
		return err
	}
	have, ok := look(own, base, k)
	if !ok || now(have) != *revision {
		return fmt.Errorf("saving %v: %w", k, errStale)
	}
	*revision++
	tx.swapped = append(tx.swapped, revision)
	own.put(k, write(have))
	return nil
}
