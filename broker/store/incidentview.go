package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// AliveBy is how many secrets one query looks at.
const aliveBy = 200

// Alive is a version that may be alive, of those that somebody may have.
type Alive struct {
	SecretID string
	Number   int
	Issuer   string
	Stage    rotation.VersionStage
	// Retirement is the one that goes on; nil: nobody is turning it off.
	Retirement *rotation.Retirement
}

// AliveVersions returns the versions of secrets that may be alive, by secret and number:
// what an emergency would turn off which names none.
func (tx *Tx) AliveVersions(ctx context.Context, secretIDs []string) ([]Alive, error) {
	var found []Alive
	for some := range slices.Chunk(secretIDs, aliveBy) {
		more, err := tx.aliveVersions(ctx, some)
		if err != nil {
			return nil, fmt.Errorf("reading which versions may be alive: %w", err)
		}
		found = append(found, more...)
	}
	return found, nil
}

func (tx *Tx) aliveVersions(ctx context.Context, secretIDs []string) ([]Alive, error) {
	list, args := "", []any{}
	for _, id := range secretIDs {
		args = append(args, id)
		list += fmt.Sprintf(", $%d", len(args))
	}
	of := "secret_id IN (" + list[2:] + ")"
	rows, err := all(ctx, tx, scanAlive, `SELECT v.secret_id, v.number, v.issuer, v.stage, v.tag, v.sealed IS NOT NULL, v.handle <> 'null', COALESCE(t.record, '')
		FROM (SELECT secret_id, number FROM versions WHERE `+of+` AND stage <> 'retired'
			UNION SELECT secret_id, number FROM versions WHERE `+of+` AND stage = 'retired' AND tag = '' AND sealed IS NOT NULL
			UNION SELECT secret_id, version FROM retirements WHERE `+of+` AND state <> 'proven_dead' AND state <> 'unprovable' AND next_at IS NOT NULL) ranked
		JOIN versions v ON v.secret_id = ranked.secret_id AND v.number = ranked.number
		LEFT JOIN retirements t ON t.secret_id = v.secret_id AND t.version = v.number
		ORDER BY v.secret_id, v.number`, args...)
	return slices.DeleteFunc(rows, func(a Alive) bool { return a.Number == 0 }), err
}

// scanAlive reads a version; one that nobody can have, or that is known to be dead, has
// no number.
func scanAlive(r row) (a Alive, err error) {
	var tag string
	var sealed, heard bool
	var t rotation.Retirement
	if err = r.Scan(&a.SecretID, &a.Number, &a.Issuer, &a.Stage, &tag, &sealed, &heard, fromJSON{&t}); err != nil {
		return a, err
	}
	live := a.Stage != rotation.StageRetired || tag == "" && sealed
	if t.ID != "" {
		a.Retirement, live = &t, t.MayLive()
	}
	if unheard := !heard && (!sealed || a.Stage == rotation.StagePending); unheard || !live {
		a.Number = 0
	}
	return a, nil
}

// VersionsOf returns the records of versions, by secret and number.
func (tx *Tx) VersionsOf(ctx context.Context, of []Alive) ([]rotation.Version, error) {
	var found []rotation.Version
	for some := range slices.Chunk(of, aliveBy) {
		list, args := "", []any{}
		for _, a := range some {
			list += fmt.Sprintf(", ($%d, CAST($%d AS INTEGER))", len(args)+1, len(args)+2)
			args = append(args, a.SecretID, a.Number)
		}
		more, err := all(ctx, tx, scanVersion, "SELECT "+versionColumns+versionTables+"WHERE (v.secret_id, v.number) IN (VALUES "+list[2:]+") ORDER BY v.secret_id, v.number", args...)
		if err != nil {
			return nil, fmt.Errorf("reading versions that may be alive: %w", err)
		}
		found = append(found, more...)
	}
	return found, nil
}

// TargetSecret is a secret that an incident is about.
type TargetSecret struct {
	rotation.Secret
	BroughtBy string // the rotation that brought its current version; empty: there is none
}

// TargetSecrets returns those that an incident is about.
func (tx *Tx) TargetSecrets(ctx context.Context, incidentID string) ([]TargetSecret, error) {
	found, err := all(ctx, tx, func(r row) (s TargetSecret, err error) {
		s.Secret, err = scanSecret(also{r, &s.BroughtBy})
		return s, err
	}, "SELECT "+secretColumns+`, COALESCE(v.rotation_id, '') FROM incident_targets t JOIN secrets s ON s.id = t.secret_id
		LEFT JOIN versions v ON v.secret_id = s.id AND v.number = s.current WHERE t.incident_id = $1`, incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading what incident %s is about: %w", incidentID, err)
	}
	return found, nil
}

// also is a row with one more column at its end.
type also struct {
	row
	into any
}

func (a also) Scan(dest ...any) error { return a.row.Scan(append(dest, a.into)...) }

// untainted is the condition that a version of a target t is none of those that the
// incident is about.
func untainted(version string) string {
	return `NOT EXISTS (SELECT 1 FROM incident_versions c WHERE c.incident_id = t.incident_id AND c.secret_id = t.secret_id AND c.version = ` + version + ")"
}

// ReplacedTargets counts the secrets of an incident whose current version is not compromised.
func (tx *Tx) ReplacedTargets(ctx context.Context, incidentID string) (n int, err error) {
	err = tx.q.queryRow(ctx, `SELECT COUNT(*) FROM incident_targets t JOIN secrets s ON s.id = t.secret_id
		WHERE t.incident_id = $1 AND t.state <> 'pending' AND t.state <> 'failed' AND s.current > 0 AND `+untainted("s.current"), incidentID).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting what of incident %s is replaced: %w", incidentID, err)
	}
	return n, nil
}

// Replacing returns the emergencies of an incident that have published no replacement, or
// failed to.
func (tx *Tx) Replacing(ctx context.Context, incidentID string) ([]rotation.Rotation, error) {
	found, err := all(ctx, tx, scanRotation, `SELECT r.record, r.revision FROM incident_targets t JOIN rotations r ON r.id = t.rotation_id
		WHERE t.incident_id = $1 AND t.rotation_id <> '' AND (r.occupies = 1 OR r.state = 'failed')`, incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading what replaces the versions of incident %s: %w", incidentID, err)
	}
	return found, nil
}

// ReplacementDeliveries returns those that tell of the current versions of an incident's
// secrets, of those that are not compromised.
func (tx *Tx) ReplacementDeliveries(ctx context.Context, incidentID string) ([]rotation.Delivery, error) {
	found, err := all(ctx, tx, scanDelivery, "SELECT "+deliveryColumns+` FROM incident_targets t JOIN secrets s ON s.id = t.secret_id
		JOIN deliveries d ON d.secret_id = s.id AND d.generation = s.generation
		WHERE t.incident_id = $1 AND `+makesCurrent+" AND "+untainted("d.version")+" ORDER BY d.consumer, s.tenant, s.name", incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading who was told what replaces the versions of incident %s: %w", incidentID, err)
	}
	return found, nil
}

// VersionID is one version of a secret.
type VersionID struct {
	SecretID string
	Number   int
}

// IssuersOf returns which issuers the versions came from that an incident is about.
func (tx *Tx) IssuersOf(ctx context.Context, incidentID string) (map[VersionID]string, error) {
	found := map[VersionID]string{}
	err := tx.q.query(ctx, func(r row) error {
		var id VersionID
		var issuer string
		err := r.Scan(&id.SecretID, &id.Number, &issuer)
		found[id] = issuer
		return err
	}, `SELECT v.secret_id, v.number, v.issuer FROM incident_versions c JOIN versions v ON v.secret_id = c.secret_id AND v.number = c.version
		WHERE c.incident_id = $1`, incidentID)
	if err != nil {
		return nil, fmt.Errorf("reading which issuers incident %s concerns: %w", incidentID, err)
	}
	return found, nil
}

// Measured is a retirement and whose credential it is.
type Measured struct {
	Issuer string
	rotation.Retirement
}

// MeasuredBefore returns the last retirements that were requested before a time, at most
// limit of them.
func (tx *Tx) MeasuredBefore(ctx context.Context, before time.Time, limit int) ([]Measured, error) {
	found, err := all(ctx, tx, func(r row) (m Measured, err error) {
		return m, r.Scan(&m.Issuer, fromJSON{&m.Retirement})
	}, strings.Join([]string{`SELECT v.issuer, ranked.record FROM (SELECT secret_id, version, record FROM retirements
		WHERE requested_at < $1 ORDER BY requested_at DESC, id DESC`, atMost("$2"), `) ranked
		JOIN versions v ON v.secret_id = ranked.secret_id AND v.number = ranked.version`}, ""), micros(before), limit)
	if err != nil {
		return nil, fmt.Errorf("reading how long issuers took: %w", err)
	}
	return found, nil
}
