package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// AddTry records one verdict of a secret that exists. It is written with the commit.
func (tx *Tx) AddTry(_ context.Context, secretID string, t rotation.Try) error {
	tx.tried = append(tx.tried, triedOf{t, secretID})
	return nil
}

type triedOf struct {
	rotation.Try
	secretID string
}

// tryStatements write the transaction's verdicts, numbered per secret.
func (tx *Tx) tryStatements() []statement {
	const count = "UPDATE secrets SET last_try = last_try + $1 WHERE id = $2"
	const insert = `INSERT INTO tries (secret_id, seq, tenant, rotation_id, retirement_id, version, at, record)
		SELECT id, last_try - $1, tenant, $2, $3, CAST($4 AS BIGINT), CAST($5 AS BIGINT), $6 FROM secrets WHERE id = $7`
	after := map[string]int{} // tries of the secret that come after this one
	var statements, counts []statement
	for _, t := range slices.Backward(tx.tried) {
		statements = append(statements, statement{insert, []any{after[t.secretID], t.RotationID, t.RetirementID,
			t.Version, micros(t.At), asJSON{t.Try}, t.secretID}})
		after[t.secretID]++
	}
	for _, id := range slices.Sorted(maps.Keys(after)) {
		counts = append(counts, statement{count, []any{after[id], id}})
	}
	return append(counts, statements...)
}

// TriesOfRotation lists the verdicts of a rotation, the oldest first.
func (tx *Tx) TriesOfRotation(ctx context.Context, id string, p Page) ([]rotation.Try, string, error) {
	return tx.tries(ctx, "rotation_id", id, p)
}

// TriesOfRetirement lists the verdicts of a retirement, the oldest first.
func (tx *Tx) TriesOfRetirement(ctx context.Context, id string, p Page) ([]rotation.Try, string, error) {
	return tx.tries(ctx, "retirement_id", id, p)
}

// LatestTries returns the newest verdicts of a retirement, at most limit, the
// oldest of them first.
func (tx *Tx) LatestTries(ctx context.Context, retirementID string, limit int) ([]rotation.Try, error) {
	tries, err := all(ctx, tx, func(r row) (t rotation.Try, err error) {
		err = r.Scan(fromJSON{&t})
		return t, err
	}, "SELECT record FROM tries WHERE retirement_id = $1 ORDER BY seq DESC"+atMost("$2"), retirementID, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the latest tries: %w", err)
	}
	slices.Reverse(tries)
	return tries, nil
}

// countedTries is how many verdicts of a secret are looked at where lockouts matter.
const countedTries = 1000

// TriesSince returns the newest verdicts of a secret from a time on, the oldest of
// them first.
func (tx *Tx) TriesSince(ctx context.Context, secretID string, since time.Time) ([]rotation.Try, error) {
	tries, err := all(ctx, tx, func(r row) (t rotation.Try, err error) {
		err = r.Scan(fromJSON{&t})
		return t, err
	}, "SELECT record FROM tries WHERE secret_id = $1 AND at >= $2 ORDER BY seq DESC"+atMost("$3"), secretID, micros(since), countedTries)
	if err != nil {
		return nil, fmt.Errorf("reading the tries of a secret: %w", err)
	}
	slices.Reverse(tries)
	return tries, nil
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
	}, "SELECT record, seq FROM tries WHERE "+column+" = $1 AND seq > $2 ORDER BY seq"+atMost("$3"), id, after, p.limit()+1)
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
