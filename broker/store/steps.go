package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

const stepColumns = "rotation_id, seq, step, started_at, ended_at, outcome, detail"

func scanStep(r row) (s rotation.Step, err error) {
	err = r.Scan(&s.RotationID, &s.Seq, &s.Step, instant{&s.StartedAt}, instant{&s.EndedAt}, &s.Outcome, &s.Detail)
	return s, err
}

// Lines are written with the commit. Another node may append one to the same
// timeline at the same time (a delivery ends its push while the rotation goes on):
// then the transaction collides and runs again.
const addStep = "INSERT INTO rotation_steps (" + stepColumns + `)
	SELECT $1, COALESCE((SELECT MAX(seq) FROM rotation_steps WHERE rotation_id = $1), 0) + 1,
		$2, CAST($3 AS BIGINT), CAST($4 AS BIGINT), CAST($5 AS TEXT), CAST($6 AS TEXT)
	WHERE NOT EXISTS (SELECT 1 FROM rotation_steps WHERE rotation_id = $1 AND step = $2 AND `

// StartStep opens a line of the rotation's timeline, unless the same step is
// open already.
func (tx *Tx) StartStep(_ context.Context, rotationID, step string, at time.Time) error {
	tx.steps = append(tx.steps, statement{addStep + "ended_at IS NULL)",
		[]any{rotationID, step, micros(at), nil, "", ""}})
	return nil
}

// EndStep closes the open line of that step, or adds one that starts and ends
// at the same instant if there is none.
func (tx *Tx) EndStep(_ context.Context, rotationID, step, outcome, detail string, at time.Time) error {
	const closeStep = `UPDATE rotation_steps SET outcome = $1, detail = $2, ended_at = $3
		WHERE rotation_id = $4 AND step = $5 AND ended_at IS NULL`
	tx.steps = append(tx.steps,
		statement{closeStep, []any{outcome, detail, micros(at), rotationID, step}},
		statement{addStep + "ended_at = CAST($4 AS BIGINT) AND outcome = CAST($5 AS TEXT) AND detail = CAST($6 AS TEXT))",
			[]any{rotationID, step, micros(at), micros(at), outcome, detail}})
	return nil
}

// NoteStep adds a line that starts and ends at the same instant.
func (tx *Tx) NoteStep(_ context.Context, rotationID, step, outcome, detail string, at time.Time) error {
	tx.noted = append(tx.noted, rotation.Step{RotationID: rotationID, Step: step, StartedAt: at, EndedAt: at, Outcome: outcome, Detail: detail})
	return nil
}

// noteStatements write the lines of NoteStep, many at once: those who deliver do so
// together (see AddDeliveries).
func (tx *Tx) noteStatements() (statements []statement) {
	places := map[string]int{} // of the next line, by rotation, after those that are there
	for some := range slices.Chunk(tx.noted, insertBy) {
		var args []any
		rows := make([]string, len(some))
		clear(places)
		for i, s := range some {
			places[s.RotationID]++
			k := len(args)
			rows[i] = fmt.Sprintf("($%d, CAST($%d AS BIGINT), $%d, CAST($%d AS BIGINT), $%d, $%d)", k+1, k+2, k+3, k+4, k+5, k+6)
			args = append(args, s.RotationID, places[s.RotationID], s.Step, micros(s.StartedAt), s.Outcome, s.Detail)
		}
		statements = append(statements, statement{"INSERT INTO rotation_steps (" + stepColumns + `)
			WITH x (rotation_id, place, step, at, outcome, detail) AS (VALUES ` + strings.Join(rows, ", ") + `)
			SELECT x.rotation_id, COALESCE((SELECT MAX(s.seq) FROM rotation_steps s WHERE s.rotation_id = x.rotation_id), 0) + x.place,
				x.step, x.at, x.at, x.outcome, x.detail FROM x`, args})
	}
	return statements
}

// Steps returns the timeline of a rotation.
func (tx *Tx) Steps(ctx context.Context, rotationID string) ([]rotation.Step, error) {
	steps, err := all(ctx, tx, scanStep,
		"SELECT "+stepColumns+" FROM rotation_steps WHERE rotation_id = $1 ORDER BY seq", rotationID)
	if err != nil {
		return nil, fmt.Errorf("reading steps of rotation %s: %w", rotationID, err)
	}
	return steps, nil
}
