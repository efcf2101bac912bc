package store

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/rotation"
)

// AddTry records one verdict.
func (tx *Tx) AddTry(ctx context.Context, secretID string, t rotation.Try) error {
	var seq int64
	var tenant string
	err := tx.t.queryRow(ctx, "UPDATE secrets SET last_try = last_try + 1 WHERE id = $1 RETURNING last_try, tenant",
		secretID).Scan(&seq, &tenant)
	if err == nil {
		err = tx.execOnly(ctx, `INSERT INTO tries (secret_id, seq, tenant, rotation_id, retirement_id, version, at, record)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			secretID, seq, tenant, t.RotationID, t.RetirementID, t.Version, micros(t.At), asJSON{t})
	}
	if err != nil {
		return fmt.Errorf("recording a try for %s: %w", secretID, err)
	}
	return nil
}

// TriesOfRotation lists the verdicts of a rotation, the oldest first.
func (tx *Tx) TriesOfRotation(ctx context.Context, id string, p Page) ([]rotation.Try, string, error) {
	return tx.tries(ctx, "rotation_id", id, p)
}

// TriesOfRetirement lists the verdicts of a retirement, the oldest first.
func (tx *Tx) TriesOfRetirement(ctx context.Context, id string, p Page) ([]rotation.Try, string, error) {
	return tx.tries(ctx, "retirement_id", id, p)
}

func (tx *Tx) tries(ctx context.Context, column, id string, p Page) ([]rotation.Try, string, error) {
	type line struct {
		try rotation.Try
		seq int64
	}
	var after int64
	if _, err := p.decode(&after); err != nil {
		return nil, "", fmt.Errorf("listing tries: %w", err)
	}
	lines, err := all(ctx, tx, func(r row) (l line, err error) {
		err = r.Scan(fromJSON{&l.try}, &l.seq)
		return l, err
	}, "SELECT record, seq FROM tries WHERE "+column+" = $1 AND seq > $2 ORDER BY seq LIMIT $3", id, after, p.limit()+1)
	if err != nil {
		return nil, "", fmt.Errorf("listing tries: %w", err)
	}
	lines, next := cut(lines, p, func(l line) string { return cursor(l.seq) })
	tries := make([]rotation.Try, len(lines))
	for i, l := range lines {
		tries[i] = l.try
	}
	return tries, next, nil
}
