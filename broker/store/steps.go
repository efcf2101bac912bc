package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

const stepColumns = "rotation_id, seq, step, started_at, ended_at, outcome, detail"

func scanStep(r row) (s rotation.Step, err error) {
	err = r.Scan(&s.RotationID, &s.Seq, &s.Step, instant{&s.StartedAt}, instant{&s.EndedAt}, &s.Outcome, &s.Detail)
	return s, err
}

// StartStep opens a line of the rotation's timeline, unless the same step is
// open already.
func (tx *Tx) StartStep(ctx context.Context, rotationID, step string, at time.Time) error {
	var open bool
	err := tx.t.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM rotation_steps
		WHERE rotation_id = $1 AND step = $2 AND ended_at IS NULL)`, rotationID, step).Scan(&open)
	if err == nil && !open {
		err = tx.addStep(ctx, rotation.Step{RotationID: rotationID, Step: step, StartedAt: at})
	}
	if err != nil {
		return fmt.Errorf("starting step %s of rotation %s: %w", step, rotationID, err)
	}
	return nil
}

// EndStep closes the open line of that step, or adds one that starts and ends
// at the same instant if there is none.
func (tx *Tx) EndStep(ctx context.Context, rotationID, step, outcome, detail string, at time.Time) error {
	n, err := tx.t.exec(ctx, `UPDATE rotation_steps SET outcome = $1, detail = $2, ended_at = $3
		WHERE rotation_id = $4 AND step = $5 AND ended_at IS NULL`, outcome, detail, micros(at), rotationID, step)
	if err == nil && n == 0 {
		err = tx.addStep(ctx, rotation.Step{
			RotationID: rotationID, Step: step, StartedAt: at, EndedAt: at, Outcome: outcome, Detail: detail,
		})
	}
	if err != nil {
		return fmt.Errorf("ending step %s of rotation %s: %w", step, rotationID, err)
	}
	return nil
}

// addStep appends a line. Another node may append one at the same time (a
// delivery ends its push while the rotation goes on): then the transaction runs again.
func (tx *Tx) addStep(ctx context.Context, s rotation.Step) error {
	err := tx.insert(ctx, "INSERT INTO rotation_steps ("+stepColumns+`)
		VALUES ($1, (SELECT COALESCE(MAX(seq), 0) + 1 FROM rotation_steps WHERE rotation_id = $1), $2, $3, $4, $5, $6)
		ON CONFLICT DO NOTHING`, s.RotationID, s.Step, micros(s.StartedAt), nullMicros(s.EndedAt), s.Outcome, s.Detail)
	if errors.Is(err, backends.ErrConflict) {
		return errCollision
	}
	return err
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
