package store

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

const quarantineColumns = "id, kind, name, tenant, role, incident_id, reason, by_whom, at, lifted_at, lifted_by, lifting"

func scanQuarantine(r row) (q rotation.Quarantine, err error) {
	return q, r.Scan(&q.ID, &q.Kind, &q.Name, &q.Tenant, &q.Role, &q.IncidentID, &q.Reason, &q.By, instant{&q.At}, instant{&q.LiftedAt}, &q.LiftedBy, &q.Lifting)
}

// AddQuarantine begins one, unless there is one of the same name and incident already, and
// returns the one that goes on; added is false if that is not q.
func (tx *Tx) AddQuarantine(ctx context.Context, q rotation.Quarantine) (now rotation.Quarantine, added bool, err error) {
	n, err := tx.t.exec(ctx, `INSERT INTO quarantines (id, kind, name, tenant, role, incident_id, reason, by_whom, at, lifted_by, lifting)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', '') ON CONFLICT DO NOTHING`,
		q.ID, q.Kind, q.Name, q.Tenant, q.Role, q.IncidentID, q.Reason, q.By, micros(q.At))
	if err == nil && n == 0 {
		now, err = scanQuarantine(tx.q.queryRow(ctx, "SELECT "+quarantineColumns+
			" FROM quarantines WHERE kind = $1 AND name = $2 AND incident_id = $3 AND lifted_at IS NULL", q.Kind, q.Name, q.IncidentID))
		return now, false, err
	}
	if err != nil {
		return now, false, fmt.Errorf("putting the %s %s in quarantine: %w", q.Kind, q.Name, err)
	}
	return q, true, nil
}

// LiftQuarantines ends those of a name that go on, and returns them: none if there are none.
func (tx *Tx) LiftQuarantines(ctx context.Context, kind rotation.Kept, name, by, why string, at time.Time) ([]rotation.Quarantine, error) {
	lifted, err := all(ctx, tx, scanQuarantine, `UPDATE quarantines SET lifted_at = $1, lifted_by = $2, lifting = $3
		WHERE kind = $4 AND name = $5 AND lifted_at IS NULL RETURNING `+quarantineColumns, micros(at), by, why, kind, name)
	if err != nil {
		return nil, fmt.Errorf("lifting the quarantine of the %s %s: %w", kind, name, err)
	}
	return lifted, nil
}

// Quarantines returns those that go on, by kind and name, the oldest of a name first.
func (tx *Tx) Quarantines(ctx context.Context) ([]rotation.Quarantine, error) {
	found, err := all(ctx, tx, scanQuarantine, "SELECT "+quarantineColumns+" FROM quarantines WHERE lifted_at IS NULL ORDER BY kind, name, at, id")
	if err != nil {
		return nil, fmt.Errorf("reading quarantines: %w", err)
	}
	return found, nil
}

// QuarantinesOf returns those of an incident, lifted or not, by kind and name.
func (tx *Tx) QuarantinesOf(ctx context.Context, incidentID string) ([]rotation.Quarantine, error) {
	found, err := all(ctx, tx, scanQuarantine, "SELECT "+quarantineColumns+
		" FROM quarantines WHERE incident_id = $1 AND incident_id <> '' ORDER BY kind, name, at, id", incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading the quarantines of incident %s: %w", incidentID, err)
	}
	return found, nil
}

// Untold returns the ids of secrets whose definition names a consumer that no delivery tells,
// or told, of their current generation, or only one that was given up. It looks at every
// secret.
func (tx *Tx) Untold(ctx context.Context, consumer string) ([]string, error) {
	type definition struct {
		id string
		of struct{ Consumers []string }
	}
	found, err := all(ctx, tx, func(r row) (d definition, err error) { return d, r.Scan(&d.id, fromJSON{&d.of}) },
		`SELECT s.id, s.definition FROM secrets s WHERE s.current > 0 AND s.state <> 'unmanaged' AND s.definition LIKE $1
			AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.secret_id = s.id AND d.generation = s.generation AND d.consumer = $2
				AND d.state <> 'dead' AND `+makesCurrent+") ORDER BY s.id", `%"`+consumer+`"%`, consumer)
	if err != nil {
		return nil, fmt.Errorf("looking for what consumer %s was not told: %w", consumer, err)
	}
	var ids []string
	for _, d := range found {
		for _, name := range d.of.Consumers {
			if name == consumer {
				ids = append(ids, d.id)
			}
		}
	}
	return ids, nil
}

// RevokeTokensOfRole revokes the tokens of a role that are not, and returns their ids: but
// those for breaking glass, which are for when nothing else is left. Those that descend from them end with them.
func (tx *Tx) RevokeTokensOfRole(ctx context.Context, role string, at time.Time) ([]string, error) {
	ids, err := all(ctx, tx, scanString, "UPDATE tokens SET revoked_at = $1 WHERE role = $2 AND role <> '' AND revoked_at IS NULL AND kind <> '"+TokenBreakGlass+
		"' AND (expires_at IS NULL OR expires_at > $1) RETURNING id", micros(at), role)
	if err != nil {
		return nil, fmt.Errorf("revoking the tokens of the role %s: %w", role, err)
	}
	return ids, nil
}

// BreakGlassOfRole counts the tokens for breaking glass of a role that were not revoked and
// had not expired at a time.
func (tx *Tx) BreakGlassOfRole(ctx context.Context, role string, at time.Time) (n int, err error) {
	err = tx.q.queryRow(ctx, "SELECT COUNT(*) FROM tokens WHERE role = $1 AND role <> '' AND revoked_at IS NULL AND kind = '"+TokenBreakGlass+
		"' AND (expires_at IS NULL OR expires_at > $2)", role, micros(at)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting the break-glass tokens of the role %s: %w", role, err)
	}
	return n, nil
}
