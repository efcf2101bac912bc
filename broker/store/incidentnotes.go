package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Note is what somebody wrote down of an incident.
type Note struct {
	At       time.Time
	By, Text string
}

// AddNote puts a note behind those of an incident.
func (tx *Tx) AddNote(ctx context.Context, incidentID string, n Note) error {
	err := tx.insert(ctx, `INSERT INTO incident_notes (incident_id, seq, at, by_whom, text)
		VALUES ($1, (SELECT COALESCE(MAX(seq), 0) + 1 FROM incident_notes WHERE incident_id = $1), $2, $3, $4) ON CONFLICT DO NOTHING`,
		incidentID, micros(n.At), n.By, n.Text)
	if err != nil {
		return fmt.Errorf("adding a note to incident %s: %w", incidentID, err)
	}
	tx.publish(ChangeIncident, incidentID, "")
	return nil
}

// Notes returns those of an incident, the oldest first.
func (tx *Tx) Notes(ctx context.Context, incidentID string) ([]Note, error) {
	notes, err := all(ctx, tx, func(r row) (n Note, err error) {
		return n, r.Scan(instant{&n.At}, &n.By, &n.Text)
	}, "SELECT at, by_whom, text FROM incident_notes WHERE incident_id = $1 ORDER BY seq", incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading the notes of incident %s: %w", incidentID, err)
	}
	return notes, nil
}

// Check is one thing that people have to do in an incident.
type Check struct {
	Item           int // from 1
	Text           string
	DoneAt         time.Time
	DoneBy, Remark string
}

// AddChecks puts things to do behind those of an incident.
func (tx *Tx) AddChecks(ctx context.Context, incidentID string, texts []string) error {
	for _, text := range texts {
		err := tx.insert(ctx, `INSERT INTO incident_checks (incident_id, item, text, done_by, remark)
			VALUES ($1, (SELECT COALESCE(MAX(item), 0) + 1 FROM incident_checks WHERE incident_id = $1), $2, '', '') ON CONFLICT DO NOTHING`, incidentID, text)
		if err != nil {
			return fmt.Errorf("adding to the checklist of incident %s: %w", incidentID, err)
		}
	}
	tx.publish(ChangeIncident, incidentID, "")
	return nil
}

// SaveCheck records that something was done. ErrNotFound if there is no such item.
func (tx *Tx) SaveCheck(ctx context.Context, incidentID string, c Check) error {
	n, err := tx.t.exec(ctx, "UPDATE incident_checks SET done_at = $1, done_by = $2, remark = $3 WHERE incident_id = $4 AND item = $5",
		nullMicros(c.DoneAt), c.DoneBy, c.Remark, incidentID, c.Item)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: the checklist has no item %d", backends.ErrNotFound, c.Item)
	}
	if err != nil {
		return fmt.Errorf("checking an item of incident %s off: %w", incidentID, err)
	}
	tx.publish(ChangeIncident, incidentID, "")
	return nil
}

// Checks returns the checklist of an incident, in order.
func (tx *Tx) Checks(ctx context.Context, incidentID string) ([]Check, error) {
	checks, err := all(ctx, tx, func(r row) (c Check, err error) {
		return c, r.Scan(&c.Item, &c.Text, instant{&c.DoneAt}, &c.DoneBy, &c.Remark)
	}, "SELECT item, text, done_at, done_by, remark FROM incident_checks WHERE incident_id = $1 ORDER BY item", incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading the checklist of incident %s: %w", incidentID, err)
	}
	return checks, nil
}

// Skipped is a secret that an incident would be about, and is not.
type Skipped struct {
	SecretID string
	Ref      backends.Ref // read from the store, never written
	Why      string
}

// AddSkipped records what an incident leaves out.
func (tx *Tx) AddSkipped(ctx context.Context, incidentID string, left []Skipped) error {
	for some := range slices.Chunk(left, insertTargetsBy) {
		query, args := "", []any{incidentID}
		for _, s := range some {
			k := len(args)
			query += fmt.Sprintf(", ($1, $%d, $%d)", k+1, k+2)
			args = append(args, s.SecretID, s.Why)
		}
		err := tx.execOnly(ctx, "INSERT INTO incident_skipped (incident_id, secret_id, why) VALUES "+query[2:]+" ON CONFLICT DO NOTHING", args...)
		if err != nil {
			return fmt.Errorf("recording what incident %s leaves out: %w", incidentID, err)
		}
	}
	return nil
}

// SkippedOf returns what an incident leaves out, by tenant and name.
func (tx *Tx) SkippedOf(ctx context.Context, incidentID string) ([]Skipped, error) {
	left, err := all(ctx, tx, func(r row) (s Skipped, err error) {
		return s, r.Scan(&s.SecretID, &s.Ref.Tenant, &s.Ref.Name, &s.Why)
	}, `SELECT k.secret_id, s.tenant, s.name, k.why FROM incident_skipped k JOIN secrets s ON s.id = k.secret_id
		WHERE k.incident_id = $1 ORDER BY s.tenant, s.name`, incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading what incident %s leaves out: %w", incidentID, err)
	}
	return left, nil
}
