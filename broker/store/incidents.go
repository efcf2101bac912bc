package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// ChangeIncident is the kind of changes of incidents in the feed.
const ChangeIncident = "incident"

func scanIncident(r row) (i rotation.Incident, err error) {
	var revision int64
	err = r.Scan(fromJSON{&i}, &revision)
	i.Revision = revision
	return i, err
}

// Incident returns an incident by its id.
func (tx *Tx) Incident(ctx context.Context, id string) (rotation.Incident, error) {
	i, err := scanIncident(tx.q.queryRow(ctx, "SELECT record, revision FROM incidents WHERE id = $1"+tx.lock("incidents"), id))
	if err != nil {
		return rotation.Incident{}, fmt.Errorf("reading incident %s: %w", id, err)
	}
	return i, nil
}

// insertTargetsBy is how many targets one statement inserts.
const insertTargetsBy = 200

// AddIncident inserts an incident at revision 1 with its targets; ErrConflict if there is
// one of its id.
func (tx *Tx) AddIncident(ctx context.Context, i *rotation.Incident, targets []rotation.Target) error {
	record := *i
	record.Revision = 1
	err := tx.insert(ctx, `INSERT INTO incidents (id, tenant, state, trigger_name, hold, record, declared_at, next_at, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1) ON CONFLICT DO NOTHING`,
		i.ID, i.Tenant, i.State, i.Trigger, i.Hold, asJSON{record}, micros(i.DeclaredAt), nullMicros(i.NextAt))
	if err != nil {
		return fmt.Errorf("adding incident %s: %w", i.ID, err)
	}
	i.Revision = 1
	for some := range slices.Chunk(targets, insertTargetsBy) {
		if err := tx.addTargets(ctx, i.ID, some); err != nil {
			return fmt.Errorf("adding the secrets of incident %s: %w", i.ID, err)
		}
	}
	tx.publish(ChangeIncident, i.ID, "")
	return nil
}

// AddTargets adds targets to an incident that has not begun. Of a secret that is one
// already all versions are meant which one of both means.
func (tx *Tx) AddTargets(ctx context.Context, incidentID string, targets []rotation.Target) error {
	for _, t := range targets {
		have, err := tx.Target(ctx, incidentID, t.SecretID)
		switch {
		case errors.Is(err, backends.ErrNotFound):
			err = tx.addTargets(ctx, incidentID, []rotation.Target{t})
		case err == nil:
			all := []int{} // every one
			if len(have.Versions) > 0 && len(t.Versions) > 0 {
				all = slices.Compact(slices.Sorted(slices.Values(slices.Concat(have.Versions, t.Versions))))
			}
			err = tx.execOnly(ctx, "UPDATE incident_targets SET versions = $1 WHERE incident_id = $2 AND secret_id = $3", asJSON{all}, incidentID, t.SecretID)
		}
		if err != nil {
			return fmt.Errorf("adding a secret to incident %s: %w", incidentID, err)
		}
	}
	tx.publish(ChangeIncident, incidentID, "")
	return nil
}

func (tx *Tx) addTargets(ctx context.Context, id string, targets []rotation.Target) error {
	query, args := "", []any{id}
	for _, t := range targets {
		k := len(args)
		query += fmt.Sprintf(", ($1, $%d, $%d, $%d, $%d, $%d)", k+1, k+2, k+3, k+4, k+5)
		args = append(args, t.SecretID, asJSON{t.Versions}, t.State, t.RotationID, t.Error)
	}
	return tx.execOnly(ctx, "INSERT INTO incident_targets (incident_id, secret_id, versions, state, rotation_id, error) VALUES "+query[2:], args...)
}

// SaveIncident compares and swaps.
func (tx *Tx) SaveIncident(ctx context.Context, i *rotation.Incident) error {
	record := *i
	record.Revision++
	err := tx.swap(ctx, &i.Revision, `UPDATE incidents SET state = $1, hold = $2, record = $3, next_at = $4, tenant = $5, revision = revision + 1
		WHERE id = $6 AND revision = $7`, i.State, i.Hold, asJSON{record}, nullMicros(i.NextAt), i.Tenant, i.ID, i.Revision)
	if err != nil {
		return fmt.Errorf("saving incident %s: %w", i.ID, err)
	}
	tx.publish(ChangeIncident, i.ID, "")
	return nil
}

// IncidentFilter chooses incidents; what is empty matches all.
type IncidentFilter struct {
	Tenant   string
	State    rotation.IncidentState
	Trigger  string
	SecretID string
}

// Incidents lists incidents, the newest first.
func (tx *Tx) Incidents(ctx context.Context, by IncidentFilter, p Page) ([]rotation.Incident, string, error) {
	var f filter
	f.equal("i.tenant", by.Tenant)
	f.equal("i.state", string(by.State))
	if by.Trigger != "" {
		f.and("i.trigger_name = $? AND i.trigger_name <> ''", by.Trigger)
	}
	if by.SecretID != "" {
		f.and("EXISTS (SELECT 1 FROM incident_targets t WHERE t.incident_id = i.id AND t.secret_id = $?)", by.SecretID)
	}
	if err := f.before("i.declared_at", "i.id", p); err != nil {
		return nil, "", fmt.Errorf("listing incidents: %w", err)
	}
	items, err := all(ctx, tx, scanIncident, "SELECT i.record, i.revision FROM incidents i"+f.where()+
		" ORDER BY i.declared_at DESC, i.id DESC"+atMost(f.arg(p.limit()+1)), f.args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing incidents: %w", err)
	}
	items, next := cut(items, p, func(i rotation.Incident) string { return cursor(micros(i.DeclaredAt), i.ID) })
	return items, next, nil
}

const targetColumns = "t.incident_id, t.secret_id, t.versions, t.state, t.rotation_id, t.error, s.tenant, s.name FROM incident_targets t JOIN secrets s ON s.id = t.secret_id"

func scanTarget(r row) (t rotation.Target, err error) {
	return t, r.Scan(&t.IncidentID, &t.SecretID, fromJSON{&t.Versions}, &t.State, &t.RotationID, &t.Error, &t.Ref.Tenant, &t.Ref.Name)
}

// Target returns one target of an incident.
func (tx *Tx) Target(ctx context.Context, incidentID, secretID string) (rotation.Target, error) {
	t, err := scanTarget(tx.q.queryRow(ctx, "SELECT "+targetColumns+" WHERE t.incident_id = $1 AND t.secret_id = $2", incidentID, secretID))
	if err != nil {
		return rotation.Target{}, fmt.Errorf("reading a secret of incident %s: %w", incidentID, err)
	}
	return t, nil
}

// Targets returns all targets of an incident, by their tenants and names.
func (tx *Tx) Targets(ctx context.Context, incidentID string) ([]rotation.Target, error) {
	items, err := all(ctx, tx, scanTarget, "SELECT "+targetColumns+" WHERE t.incident_id = $1 ORDER BY s.tenant, s.name", incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading the secrets of incident %s: %w", incidentID, err)
	}
	return items, nil
}

// Undeclared returns targets that are pending or, behind those, failed, at most limit.
func (tx *Tx) Undeclared(ctx context.Context, incidentID string, limit int) ([]rotation.Target, error) {
	items, err := all(ctx, tx, scanTarget, "SELECT "+targetColumns+` WHERE t.incident_id = $1 AND t.state IN ('pending', 'failed')
		ORDER BY t.state DESC, t.secret_id`+atMost("$2"), incidentID, limit)
	if err != nil {
		return nil, fmt.Errorf("reading what of incident %s is not declared: %w", incidentID, err)
	}
	return items, nil
}

// SaveTarget writes a target over what there is of it, and adds what of its versions is new.
func (tx *Tx) SaveTarget(ctx context.Context, t rotation.Target, compromised []rotation.Compromised) error {
	err := tx.execOnly(ctx, "UPDATE incident_targets SET state = $1, rotation_id = $2, error = $3 WHERE incident_id = $4 AND secret_id = $5",
		t.State, t.RotationID, t.Error, t.IncidentID, t.SecretID)
	for _, c := range compromised {
		if err != nil {
			break
		}
		err = tx.execOnly(ctx, `INSERT INTO incident_versions (incident_id, secret_id, version, retirement_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			t.IncidentID, c.SecretID, c.Version, c.Retirement.ID)
	}
	if err != nil {
		return fmt.Errorf("saving a secret of incident %s: %w", t.IncidentID, err)
	}
	tx.publish(ChangeIncident, t.IncidentID, "")
	return nil
}

// CompromisedOf returns the versions that an incident is about with what turns them off,
// by secret and version.
func (tx *Tx) CompromisedOf(ctx context.Context, incidentID string) ([]rotation.Compromised, error) {
	items, err := all(ctx, tx, func(r row) (c rotation.Compromised, err error) {
		return c, r.Scan(&c.SecretID, &c.Version, fromJSON{&c.Retirement}, &c.Retirement.Revision)
	}, `SELECT v.secret_id, v.version, t.record, t.revision FROM incident_versions v JOIN retirements t ON t.id = v.retirement_id
		WHERE v.incident_id = $1 ORDER BY v.secret_id, v.version`, incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading the versions of incident %s: %w", incidentID, err)
	}
	return items, nil
}

// Tally counts how far an incident is.
func (tx *Tx) Tally(ctx context.Context, incidentID string) (n rotation.Tally, err error) {
	err = tx.q.query(ctx, func(r row) error {
		var state rotation.TargetState
		var count int
		err := r.Scan(&state, &count)
		n.Secrets += count
		switch state {
		case rotation.TargetPending:
			n.Pending = count
		case rotation.TargetFailed:
			n.Failed = count
		}
		return err
	}, "SELECT state, COUNT(*) FROM incident_targets WHERE incident_id = $1 GROUP BY state", incidentID)
	if err != nil {
		return n, fmt.Errorf("counting the secrets of incident %s: %w", incidentID, err)
	}
	i, err := tx.Incident(ctx, incidentID)
	if err != nil {
		return n, err
	}
	compromised, err := tx.CompromisedOf(ctx, incidentID)
	for _, c := range compromised {
		n.Count(c.Retirement, i.Began())
	}
	return n, err
}

// IncidentsOfRotation returns the ids of the open incidents that a rotation belongs to as
// a target's emergency, the oldest first.
func (tx *Tx) IncidentsOfRotation(ctx context.Context, rotationID string) ([]string, error) {
	ids, err := all(ctx, tx, scanString, `SELECT i.id FROM incident_targets t JOIN incidents i ON i.id = t.incident_id
		WHERE t.rotation_id = $1 AND t.rotation_id <> '' AND i.state = 'open' ORDER BY i.declared_at, i.id`, rotationID)
	if err != nil {
		return nil, fmt.Errorf("looking for the incidents of rotation %s: %w", rotationID, err)
	}
	return ids, nil
}

// IncidentsOfVersion returns the ids of those that a version is compromised in, the oldest
// first.
func (tx *Tx) IncidentsOfVersion(ctx context.Context, secretID string, version int) ([]string, error) {
	ids, err := all(ctx, tx, scanString, `SELECT v.incident_id FROM incident_versions v JOIN incidents i ON i.id = v.incident_id
		WHERE v.secret_id = $1 AND v.version = $2 ORDER BY i.declared_at, i.id`, secretID, version)
	if err != nil {
		return nil, fmt.Errorf("looking for the incidents of version %d of %s: %w", version, secretID, err)
	}
	return ids, nil
}

// EvidenceHeld tells whether an incident wants nothing pruned that may be evidence.
func (tx *Tx) EvidenceHeld(ctx context.Context) (bool, error) {
	ids, err := all(ctx, tx, scanString, "SELECT id FROM incidents WHERE hold = TRUE LIMIT 1")
	if err != nil {
		return false, fmt.Errorf("looking whether evidence is held: %w", err)
	}
	return len(ids) > 0, nil
}
